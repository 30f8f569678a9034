//! The device's side of a run: prepared images in, answers out.

use anyhow::{Result, bail};

use super::candidates::idle;
use super::images::{Prepared, PreparedBatch, PreparedSample};
use super::loaded::EvalSubjects;
use super::plan::{DatasetWork, SampleWork};
use super::probe::{ProbeChoice, Shots, TowerProbes};
use super::spec::Question;
use crate::dataset::{Dataset, UnreadableImage};
use crate::domain::{Mode, RunSet};
use crate::model::subjects::{ImageAnswers, ImageRow, Questions};

/// A sample with what was answered.
pub(super) struct AnsweredSample {
    pub work: SampleWork,
    pub result: Result<Answers, UnreadableImage>,
}

/// The answers to one image.
pub(super) struct Answers {
    /// `blake3:…` of the decoded pixels.
    pub content: String,
    pub answers: ImageAnswers,
    /// By tower, the runs whose probe answered, and its choice; `None` where the tower's features are no numbers.
    pub probed: Vec<(RunSet, Option<ProbeChoice>)>,
    /// What only servers do.
    pub from_server: FromServer,
}

/// What a server made of an image beside answers.
#[derive(Default)]
pub(super) struct FromServer {
    /// Labels that were said because nothing else could be, by run, with the prompt's tokens.
    pub held: Vec<(usize, String, Option<u32>)>,
    /// Why there is no answer.
    pub failed: Vec<Failure>,
}

/// Why a server gave no answer.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub run: usize,
    pub mode: Mode,
    pub message: String,
    /// Whether asking again may bring one.
    pub may_pass: bool,
}

/// A batch with its answers; of a served model, what has come so far of some samples.
pub(super) struct AnsweredBatch {
    pub dataset: usize,
    pub samples: Vec<AnsweredSample>,
    /// Samples that are answered with this.
    pub n_done: usize,
}

/// The subjects with the questions of every dataset.
pub(super) struct Asker<'a> {
    subjects: EvalSubjects,
    questions: Vec<Questions>,
    /// By dataset.
    probes: Vec<Option<TowerProbes<'a>>>,
}

impl<'a> Asker<'a> {
    /// Prepares the questions: renders prompts and embeds captions.
    pub fn new(
        subjects: EvalSubjects,
        datasets: &[Dataset],
        questions: &[Question],
        probes: &'a [Option<Shots>],
        max_new_tokens: usize,
        scores_labels: bool,
    ) -> Result<Self> {
        let questions = datasets.iter().zip(questions).map(|(dataset, question)| {
            let labels: Vec<&str> = dataset.labels.names().collect();
            subjects.loaded.questions(&question.text, &question.captions, &labels, max_new_tokens, scores_labels)
        });
        let questions = questions.collect::<Result<_>>()?;
        let probes = probes.iter().map(|shots| Some(TowerProbes::new(shots.as_ref()?, &subjects.loaded))).collect();
        Ok(Self { subjects, questions, probes })
    }

    /// Answers one batch.
    pub fn answer(&mut self, batch: PreparedBatch<Prepared>) -> Result<AnsweredBatch> {
        let rows: &[ImageRow] = &batch
            .samples
            .iter()
            .filter_map(|PreparedSample { work, image }| {
                let prepared = image.as_ref().ok()?;
                Some(ImageRow {
                    for_models: &prepared.for_models,
                    for_encoder: prepared.for_encoder.as_ref(),
                    generate: work.generate,
                    score: work.score,
                    probe: work.probe,
                    asks_encoder: !work.encoder.is_empty(),
                    known: &prepared.known,
                })
            })
            .collect::<Vec<_>>();
        let (loaded, questions) = (&mut self.subjects.loaded, &mut self.questions[batch.dataset]);
        // On a thread of the pool, which shares its work out without sleeping in between.
        let answers = rayon::scope(move |_| loaded.ask(questions, rows))?;
        let mut answers = answers.into_iter();
        let probes = self.probes[batch.dataset].as_ref();
        let mut samples = Vec::with_capacity(batch.samples.len());
        for PreparedSample { work, image } in batch.samples {
            let result = match image {
                Ok(prepared) => {
                    let answers = answers.next().unwrap_or_default();
                    let probed = match probes {
                        Some(probes) => probes.choose(&self.subjects.loaded, &answers.features)?,
                        None => Vec::new(),
                    };
                    Ok(Answers { content: prepared.content, answers, probed, from_server: FromServer::default() })
                }
                Err(unreadable) => Err(unreadable),
            };
            samples.push(AnsweredSample { work, result });
        }
        let n_done = samples.len();
        Ok(AnsweredBatch { dataset: batch.dataset, samples, n_done })
    }

    /// Refuses an adapter under which the first logits of one image of every dataset equal the base's to the bit: it was
    /// not applied, and "nothing forgotten" would be said of the base.
    pub fn refuse_idle_adapters(&self, datasets: &[Dataset], works: &[DatasetWork]) -> Result<()> {
        let suspects = &self.subjects.must_differ;
        let mut differs: Vec<bool> = suspects.iter().map(Option::is_none).collect();
        for ((dataset, work), questions) in datasets.iter().zip(works).zip(&self.questions) {
            if differs.iter().all(|&differs| differs) {
                return Ok(());
            }
            let Some(image) = work.selected.iter().find_map(|&position| dataset.read(position).ok()) else { continue };
            let found = self.subjects.loaded.differ_from_base(questions, &image)?;
            differs.iter_mut().zip(found).for_each(|(differs, found)| *differs |= found);
        }
        match suspects.iter().zip(&differs).find(|(_, differs)| !**differs) {
            Some((Some(name), _)) => bail!("{}", idle(name)),
            _ => Ok(()),
        }
    }
}
