//! The device's side of a run: prepared images in, answers out.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};

use super::images::{Preparation, Prepared, PreparedBatch, PreparedSample};
use super::loaded::{EvalSubjects, idle};
use super::plan::{DatasetWork, SampleWork};
use super::spec::Question;
use crate::dataset::{Dataset, UnreadableImage};
use crate::domain::{Answer, ScoredLabel};
use crate::model::generate::Decoding;
use crate::model::mllm::{Model, RenderedPrompt};

/// What is asked about every image of a dataset.
pub(super) struct Questions {
    /// Of the model.
    pub prompt: RenderedPrompt,
    /// Of the encoder: unit-length label embeddings `(labels, dimension)`, transposed.
    pub label_embeddings: Option<Tensor>,
    /// Their names.
    pub labels: Vec<String>,
}

/// A sample with what was answered.
pub(super) struct AnsweredSample {
    pub work: SampleWork,
    pub result: Result<Answers, UnreadableImage>,
}

/// The answers to one image.
pub(super) struct Answers {
    pub content: String,
    /// By run: the text, or why the model failed on this image.
    pub models: Vec<(usize, Result<Answer, String>)>,
    /// The encoder's best labels, best first; `None` where it was not asked.
    pub encoder: Option<Vec<ScoredLabel>>,
}

/// A batch with its answers.
pub(super) struct AnsweredBatch {
    pub dataset: usize,
    pub samples: Vec<AnsweredSample>,
}

/// So many labels of an encoder's ranking are kept.
const N_SCORES_KEPT: usize = 5;

/// Both subjects, loaded, with the questions of every dataset.
pub(super) struct Asker {
    subjects: EvalSubjects,
    questions: Vec<Questions>,
    decoding: Decoding,
}

impl Asker {
    /// Prepares the questions: renders prompts and embeds captions.
    pub fn new(
        subjects: EvalSubjects,
        datasets: &[Dataset],
        questions: &[Question],
        max_new_tokens: usize,
    ) -> Result<Self> {
        let questions = datasets
            .iter()
            .zip(questions)
            .map(|(dataset, question)| {
                let names: Vec<&str> = dataset.labels.names().collect();
                let label_embeddings = match &subjects.encoder {
                    Some(encoder) => {
                        let embeddings = encoder.label_embeddings(&question.captions, &names)?;
                        Some(embeddings.t()?.contiguous()?)
                    }
                    None => None,
                };
                Ok(Questions {
                    prompt: subjects.base().dialogue.render(&question.text)?,
                    label_embeddings,
                    labels: names.into_iter().map(str::to_owned).collect(),
                })
            })
            .collect::<Result<_>>()?;
        let decoding = subjects.base().dialogue.decoding(max_new_tokens);
        Ok(Self { subjects, questions, decoding })
    }

    /// Answers one batch.
    pub fn answer(&self, batch: PreparedBatch) -> Result<AnsweredBatch> {
        let questions = &self.questions[batch.dataset];
        let readable: Vec<(SampleWork, &Prepared)> =
            batch.samples.iter().filter_map(|sample| Some((sample.work, sample.image.as_ref().ok()?))).collect();
        let (models, encoder) = self.ask(questions, &readable)?;
        let mut answers = models.into_iter().zip(encoder);
        let samples = batch
            .samples
            .into_iter()
            .map(|PreparedSample { work, image }| AnsweredSample {
                work,
                result: image.map(|prepared| {
                    let (models, encoder) = answers.next().unwrap_or_default();
                    Answers { content: prepared.content, models, encoder }
                }),
            })
            .collect();
        Ok(AnsweredBatch { dataset: batch.dataset, samples })
    }

    /// Of each sample, the models' answers by run, and the encoder's ranking.
    #[expect(clippy::type_complexity, reason = "two lists, one a subject")]
    fn ask(
        &self,
        questions: &Questions,
        samples: &[(SampleWork, &Prepared)],
    ) -> Result<(Vec<Vec<(usize, Result<Answer, String>)>>, Vec<Option<Vec<ScoredLabel>>>)> {
        let pass = self.pass_tower(samples)?;
        let mut answers: Vec<Vec<_>> = samples.iter().map(|_| Vec::new()).collect();
        for (run, model) in self.subjects.models.iter().enumerate() {
            let rows = rows_where(samples, |work| work.models.contains(run));
            if rows.is_empty() {
                continue;
            }
            let hidden = match &pass {
                Some(pass) if !self.subjects.has_own_tower[run] => pass.state_of(&rows)?,
                _ => {
                    let pixels = self.pixels(&rows, |row| &samples[row].1.model_pixels)?;
                    model.mllm.tower().hidden_states(&pixels, &[model.mllm.tower_state()])?.swap_remove(0)
                }
            };
            for (row, answer) in rows.into_iter().zip(self.generate(model, questions, &hidden)?) {
                answers[row].push((run, answer));
            }
        }
        let mut scores: Vec<Option<Vec<ScoredLabel>>> = samples.iter().map(|_| None).collect();
        let rows = rows_where(samples, |work| !work.encoder.is_empty());
        if let (Some(encoder), false) = (&self.subjects.encoder, rows.is_empty()) {
            let hidden = match pass.and_then(|pass| pass.last) {
                Some(hidden) => hidden,
                None => {
                    let pixels = self.pixels(&rows, |row| {
                        let prepared = samples[row].1;
                        prepared.encoder_pixels.as_ref().unwrap_or(&prepared.model_pixels)
                    })?;
                    let tower = encoder.towers.tower();
                    tower.hidden_states(&pixels, &[tower.last_state()])?.swap_remove(0)
                }
            };
            let ranked = rank(questions, &encoder.towers.image_embeddings(&hidden)?)?;
            rows.into_iter().zip(ranked).for_each(|(row, ranking)| scores[row] = Some(ranking));
        }
        Ok((answers, scores))
    }

    /// One pass of the base's tower for all models that share it, and for the encoder where it is the same tower and
    /// sees the same pixels; `None` where no model needs it.
    fn pass_tower(&self, samples: &[(SampleWork, &Prepared)]) -> Result<Option<TowerPass>> {
        let is_shared = |work: &SampleWork| work.models.iter().any(|run| !self.subjects.has_own_tower[run]);
        let rows = rows_where(samples, is_shared);
        if rows.is_empty() {
            return Ok(None);
        }
        let serves_encoder = self.subjects.shares_tower
            && rows == rows_where(samples, |work| !work.encoder.is_empty())
            && rows.iter().all(|&row| samples[row].1.encoder_pixels.is_none());
        let mllm = &self.subjects.base().mllm;
        let (tower, state) = (mllm.tower(), mllm.tower_state());
        let last = tower.last_state();
        let pixels = self.pixels(&rows, |row| &samples[row].1.model_pixels)?;
        let wanted: &[usize] = if serves_encoder && state != last { &[state, last] } else { &[state] };
        let mut states = tower.hidden_states(&pixels, wanted)?;
        let last = if serves_encoder { states.last().cloned() } else { None };
        Ok(Some(TowerPass { rows, state: states.swap_remove(0), last }))
    }

    fn generate(&self, model: &Model, questions: &Questions, hidden: &Tensor) -> Result<Vec<Result<Answer, String>>> {
        let features = model.mllm.image_features(hidden)?;
        let prompts = vec![&questions.prompt; features.dim(0)?];
        let rows = model.generate(&prompts, &features, &self.decoding)?;
        rows.into_iter()
            .map(|row| match row {
                Ok(generation) => Ok(Ok(model.dialogue.answer(&generation, &self.decoding)?)),
                Err(error) => Ok(Err(error.to_string())),
            })
            .collect()
    }

    /// Refuses an adapter under which the first logits of one image of every dataset equal the base's to the bit: it was
    /// not applied, and "nothing forgotten" would be said of the base.
    pub fn refuse_idle_adapters(
        &self,
        preparation: &Preparation,
        datasets: &[Dataset],
        works: &[DatasetWork],
    ) -> Result<()> {
        let suspects = &self.subjects.must_differ;
        let mut differs = vec![false; suspects.len()];
        for ((dataset, work), questions) in datasets.iter().zip(works).zip(&self.questions) {
            if suspects.iter().zip(&differs).all(|(suspect, &differs)| suspect.is_none() || differs) {
                return Ok(());
            }
            let Some(image) = work.selected.iter().find_map(|&position| dataset.read(position).ok()) else { continue };
            let pixels = preparation.model.pixels(&image);
            let pixels = self.pixels(&[0], |_| &pixels)?;
            let base = self.first_logits(self.subjects.base(), questions, &pixels)?;
            for (run, model) in self.subjects.models.iter().enumerate() {
                differs[run] |= self.first_logits(model, questions, &pixels)? != base;
            }
        }
        match suspects.iter().zip(&differs).find_map(|(suspect, &differs)| suspect.as_ref().filter(|_| !differs)) {
            Some(name) => bail!("{}", idle(name)),
            None => Ok(()),
        }
    }

    fn first_logits(&self, model: &Model, questions: &Questions, pixels: &Tensor) -> Result<Vec<f32>> {
        let hidden = model.mllm.tower().hidden_states(pixels, &[model.mllm.tower_state()])?.swap_remove(0);
        model.first_logits(&questions.prompt, &model.mllm.image_features(&hidden)?.get(0)?)
    }

    /// `(rows, 3, side, side)`.
    fn pixels<'a>(&self, rows: &[usize], of: impl Fn(usize) -> &'a Vec<f32>) -> Result<Tensor> {
        let values: Vec<f32> = rows.iter().flat_map(|&row| of(row).iter().copied()).collect();
        let side = ((values.len() / rows.len() / 3) as f64).sqrt() as usize;
        let placement = &self.subjects.placement;
        let pixels = Tensor::from_vec(values, (rows.len(), 3, side, side), &placement.device).context(
            "the image processor's output is not square; hint: its size in preprocessor_config.json must be",
        )?;
        Ok(pixels.to_dtype(placement.dtype)?)
    }
}

/// What one pass of the tower gave.
struct TowerPass {
    /// The samples that passed.
    rows: Vec<usize>,
    /// The hidden state that models read, `(rows, tokens, hidden)`.
    state: Tensor,
    /// The last one, where it is the encoder's.
    last: Option<Tensor>,
}

impl TowerPass {
    /// The state of `rows`, which are among those that passed.
    fn state_of(&self, rows: &[usize]) -> Result<Tensor> {
        if rows == self.rows {
            return Ok(self.state.clone());
        }
        let positions: Vec<u32> =
            (0..).zip(&self.rows).filter(|(_, row)| rows.contains(row)).map(|(position, _)| position).collect();
        Ok(self.state.index_select(&Tensor::new(positions, self.state.device())?, 0)?)
    }
}

fn rows_where(samples: &[(SampleWork, &Prepared)], is_wanted: impl Fn(&SampleWork) -> bool) -> Vec<usize> {
    samples.iter().enumerate().filter(|(_, (work, _))| is_wanted(work)).map(|(row, _)| row).collect()
}

/// The best labels by cosine of each row of `images` `(rows, dimension)`.
fn rank(questions: &Questions, images: &Tensor) -> Result<Vec<Vec<ScoredLabel>>> {
    let labels = questions.label_embeddings.as_ref().context("the encoder has no captions to rank")?;
    let cosines = images.matmul(labels)?.to_dtype(DType::F32)?.to_vec2::<f32>()?; // (rows, labels)
    Ok(cosines
        .into_iter()
        .map(|row| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            // Stable, so that of equal cosines the first label wins, as argmax has it.
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            order.truncate(N_SCORES_KEPT);
            order.into_iter().map(|i| ScoredLabel { label: questions.labels[i].clone(), score: row[i] }).collect()
        })
        .collect())
}
