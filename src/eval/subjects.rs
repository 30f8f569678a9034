//! The device's side of a run: takes prepared images and returns answers.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use anyhow::{Result, bail};

use super::candidates::idle;
use super::features::RunFeatures;
use super::images::{ImageSource, Preparation, PreparedBatch, PreparedImage, PreparedItem, PreparedSample};
use super::plan::SampleWork;
use super::probe::{ProbeChoice, TowerProbes};
use super::respondent::{Asked, Respondent};
use super::spec::Question;
use super::task::{Task, TaskId};
use super::timing::Stage;
use crate::dataset::UnreadableImage;
use crate::domain::{Mode, RunId, RunSet};
use crate::model::run::subjects::{ImageRow, ItemAnswers, ItemRow, Questions, Subjects};

/// A sample with its answers.
pub(super) struct AnsweredSample {
    pub work: SampleWork,
    pub result: Result<Answers, UnreadableImage>,
}

/// The answers about one item.
pub(super) struct Answers {
    /// [`Item::content`](crate::domain::Item::content).
    pub content: String,
    /// By image, `blake3:…` of the decoded pixels: the key of its cached features.
    pub images: Vec<String>,
    pub answers: ItemAnswers,
    /// By tower, the runs whose probe answered, and its choice; `None` if the tower's features are zero or not finite.
    pub probed: Vec<(RunSet, Option<ProbeChoice>)>,
    /// Results that only servers give.
    pub from_server: FromServer,
}

/// What a server returned about an image in addition to answers.
#[derive(Default)]
pub(super) struct FromServer {
    /// Labels chosen under a constraint, by run, with the prompt's number of tokens.
    pub held: Vec<(RunId, String, Option<u32>)>,
    /// Why answers are missing.
    pub failed: Vec<Failure>,
}

/// Why a server gave no answer.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub run: RunId,
    pub mode: Mode,
    pub message: String,
    /// Whether asking again may give an answer.
    pub may_pass: bool,
}

/// A batch with its answers; for a served model, the partial results of some samples.
pub(super) struct AnsweredBatch {
    pub task: TaskId,
    pub samples: Vec<AnsweredSample>,
    /// Samples that this batch completes.
    pub n_done: usize,
}

/// Local models and their encoder.
pub(super) struct LocalRespondent {
    loaded: Subjects,
    /// By run, the adapter whose answers must differ from the base's, if any.
    must_differ: Vec<Option<String>>,
    /// The cache of tower features.
    features: Option<Arc<RunFeatures>>,
    /// The prepared questions, empty until prepared.
    tasks: Vec<PreparedTask>,
}

/// Wraps a prepared image for the subjects.
fn image_row(image: &PreparedImage) -> ImageRow<'_> {
    ImageRow { for_models: &image.for_models, for_encoder: image.for_encoder.as_ref(), known: &image.known }
}

/// The questions about one dataset.
struct PreparedTask {
    questions: Questions,
    probes: Option<TowerProbes>,
}

impl LocalRespondent {
    /// Builds the respondent from loaded models and their encoder.
    pub fn new(loaded: Subjects, must_differ: Vec<Option<String>>, features: Option<Arc<RunFeatures>>) -> Self {
        Self { loaded, must_differ, features, tasks: Vec::new() }
    }

    /// Answers one batch.
    fn answer(&mut self, batch: PreparedBatch<PreparedItem>) -> Result<AnsweredBatch> {
        let items: &[ItemRow] = &batch
            .samples
            .iter()
            .filter_map(|PreparedSample { work, item }| {
                Some(ItemRow {
                    images: item.as_ref().ok()?.images.iter().map(image_row).collect(),
                    generate: work.generate,
                    score: work.score,
                    probe: work.probe,
                    asks_encoder: !work.encoder.is_empty(),
                })
            })
            .collect::<Vec<_>>();
        let PreparedTask { questions, probes } = &mut self.tasks[batch.task.place()];
        let loaded = &mut self.loaded;
        // Runs on a thread of the pool, which splits its work without sleeping in between.
        let answers = rayon::scope(move |_| loaded.ask(questions, items))?;
        let mut answers = answers.into_iter();
        let mut samples = Vec::with_capacity(batch.samples.len());
        for PreparedSample { work, item } in batch.samples {
            let result = match item {
                Ok(prepared) => {
                    let answers = answers.next().unwrap_or_default();
                    let probed = match probes {
                        Some(probes) => probes.choose(&self.loaded, &answers.features)?,
                        None => Vec::new(),
                    };
                    let PreparedItem { content, images } = prepared;
                    let images = images.into_iter().map(|image| image.content).collect();
                    Ok(Answers { content, images, answers, probed, from_server: FromServer::default() })
                }
                Err(unreadable) => Err(unreadable),
            };
            samples.push(AnsweredSample { work, result });
        }
        let n_done = samples.len();
        Ok(AnsweredBatch { task: batch.task, samples, n_done })
    }

    /// Refuses an adapter whose first logits on one image of every dataset are bit-equal to the base's. It was not
    /// applied, and "nothing forgotten" would describe the base.
    fn refuse_idle_adapters(&self, tasks: &[Task]) -> Result<()> {
        let suspects = &self.must_differ;
        let mut differs: Vec<bool> = suspects.iter().map(Option::is_none).collect();
        for (task, PreparedTask { questions, .. }) in tasks.iter().zip(&self.tasks) {
            if differs.iter().all(|&differs| differs) {
                return Ok(());
            }
            let Some(item) = task.work.selected.iter().find_map(|&position| task.item(position).ok()) else { continue };
            let found = self.loaded.differ_from_base(questions, &item)?;
            differs.iter_mut().zip(found).for_each(|(differs, found)| *differs |= found);
        }
        match suspects.iter().zip(&differs).find(|(_, differs)| !**differs) {
            Some((Some(name), _)) => bail!("{}", idle(name)),
            _ => Ok(()),
        }
    }
}

impl Respondent for LocalRespondent {
    /// Renders prompts and embeds captions.
    fn prepare(&mut self, tasks: &[Task], asked: &Asked<'_>) -> Result<()> {
        let (loaded, scores_labels) = (&self.loaded, asked.modes.contains(&Mode::Score));
        let prepared = |Task { dataset, question, probe, .. }: &Task| -> Result<PreparedTask> {
            let labels: Vec<&str> = dataset.labels.names().collect();
            let Question { conversation, captions, .. } = question;
            Ok(PreparedTask {
                questions: loaded.questions(conversation, captions, &labels, asked.max_new_tokens, scores_labels)?,
                probes: probe.as_ref().map(|shots| TowerProbes::new(shots.clone(), loaded)),
            })
        };
        self.tasks = tasks.iter().map(prepared).collect::<Result<_>>()?;
        self.refuse_idle_adapters(tasks)
    }

    fn answer_all(&mut self, source: &ImageSource<'_>, sender: &SyncSender<Result<AnsweredBatch>>) {
        let preparation = Preparation {
            views: self.loaded.views().to_vec(),
            view_of: self.loaded.view_of().to_vec(),
            encoder: self.loaded.encoder_preprocessor().cloned(),
            features: self.features.clone(),
        };
        source.ahead(&preparation, |prepared| {
            while let Ok(batch) = source.stages.time(Stage::WaitForImages, || prepared.recv()) {
                let answered = source.stages.time(Stage::Answer, || self.answer(batch));
                let is_failed = answered.is_err();
                if sender.send(answered).is_err() || is_failed {
                    return;
                }
            }
        });
    }

    fn features(&self) -> Option<Arc<RunFeatures>> {
        self.features.clone()
    }
}
