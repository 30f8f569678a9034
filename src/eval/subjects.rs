//! The device's side of a run: prepared images in, answers out.

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};

use super::images::{Prepared, PreparedBatch, PreparedSample};
use super::loaded::EvalSubjects;
use super::plan::SampleWork;
use super::spec::Question;
use crate::dataset::{Dataset, UnreadableImage};
use crate::domain::{Answer, ScoredLabel};
use crate::model::generate::Decoding;
use crate::model::mllm::RenderedPrompt;

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

/// The answers of both subjects; `None` where a subject was not asked.
pub(super) struct Answers {
    pub content: String,
    /// The text, or why the model failed on this image.
    pub model: Option<Result<Answer, String>>,
    /// The best labels, best first.
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
                    prompt: subjects.model.dialogue.render(&question.text)?,
                    label_embeddings,
                    labels: names.into_iter().map(str::to_owned).collect(),
                })
            })
            .collect::<Result<_>>()?;
        let decoding = subjects.model.dialogue.decoding(max_new_tokens);
        Ok(Self { subjects, questions, decoding })
    }

    /// Answers one batch.
    pub fn answer(&self, batch: PreparedBatch) -> Result<AnsweredBatch> {
        let questions = &self.questions[batch.dataset];
        let readable: Vec<(SampleWork, &Prepared)> =
            batch.samples.iter().filter_map(|sample| Some((sample.work, sample.image.as_ref().ok()?))).collect();
        let (mut for_model, mut for_encoder) = self.ask(questions, &readable)?;
        let samples = batch
            .samples
            .into_iter()
            .map(|PreparedSample { work, image }| AnsweredSample {
                work,
                result: image.map(|prepared| Answers {
                    content: prepared.content,
                    model: if work.needs_model { for_model.next() } else { None },
                    encoder: if work.needs_encoder { for_encoder.next() } else { None },
                }),
            })
            .collect();
        Ok(AnsweredBatch { dataset: batch.dataset, samples })
    }

    #[expect(clippy::type_complexity, reason = "two queues, one a subject")]
    fn ask(
        &self,
        questions: &Questions,
        samples: &[(SampleWork, &Prepared)],
    ) -> Result<(std::vec::IntoIter<Result<Answer, String>>, std::vec::IntoIter<Vec<ScoredLabel>>)> {
        let for_model: Vec<&Prepared> = samples.iter().filter(|(work, _)| work.needs_model).map(|(_, p)| *p).collect();
        let for_encoder: Vec<&Prepared> =
            samples.iter().filter(|(work, _)| work.needs_encoder).map(|(_, p)| *p).collect();
        let is_one_pass = self.subjects.shares_tower
            && for_model.len() == for_encoder.len()
            && for_encoder.iter().all(|prepared| prepared.encoder_pixels.is_none());
        let tower = self.subjects.model.mllm.tower();
        let (state, last) = (self.subjects.model.mllm.tower_state(), tower.last_state());
        let mut encoder_hidden = None;
        let mut answers = Vec::new();
        if !for_model.is_empty() {
            let pixels = self.pixels(&for_model, |prepared| &prepared.model_pixels)?;
            let wanted: &[usize] = if is_one_pass && state != last { &[state, last] } else { &[state] };
            let mut states = tower.hidden_states(&pixels, wanted)?;
            if is_one_pass {
                encoder_hidden = states.last().cloned();
            }
            answers = self.generate(questions, &states.swap_remove(0))?;
        }
        let mut scores = Vec::new();
        if let (Some(encoder), false) = (&self.subjects.encoder, for_encoder.is_empty()) {
            let hidden = match encoder_hidden {
                Some(hidden) => hidden,
                None => {
                    let own = |prepared: &'_ Prepared| prepared.encoder_pixels.is_some();
                    let pixels = self.encoder_pixels(&for_encoder, own)?;
                    let tower = encoder.towers.tower();
                    tower.hidden_states(&pixels, &[tower.last_state()])?.swap_remove(0)
                }
            };
            scores = rank(questions, &encoder.towers.image_embeddings(&hidden)?)?;
        }
        Ok((answers.into_iter(), scores.into_iter()))
    }

    fn generate(&self, questions: &Questions, hidden: &Tensor) -> Result<Vec<Result<Answer, String>>> {
        let model = &self.subjects.model;
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

    fn encoder_pixels(&self, rows: &[&Prepared], own: impl Fn(&Prepared) -> bool) -> Result<Tensor> {
        self.pixels(rows, |prepared| match &prepared.encoder_pixels {
            Some(pixels) if own(prepared) => pixels,
            _ => &prepared.model_pixels,
        })
    }

    /// `(rows, 3, side, side)`.
    fn pixels<'a>(&self, rows: &[&'a Prepared], of: impl Fn(&'a Prepared) -> &'a Vec<f32>) -> Result<Tensor> {
        let values: Vec<f32> = rows.iter().flat_map(|&row| of(row).iter().copied()).collect();
        let side = ((values.len() / rows.len() / 3) as f64).sqrt() as usize;
        let placement = &self.subjects.placement;
        let pixels = Tensor::from_vec(values, (rows.len(), 3, side, side), &placement.device).context(
            "the image processor's output is not square; hint: its size in preprocessor_config.json must be",
        )?;
        Ok(pixels.to_dtype(placement.dtype)?)
    }
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
