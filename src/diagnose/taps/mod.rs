//! Passes of base and candidate over the same images, read inside.
//!
//! Both models read each prompt followed by the *base's* answer (teacher forcing), so that every position of one pass has its
//! counterpart in the other. Probes take what they need from these passes (`Reading`) or make passes of their own. Each probe is
//! one file and one line in `probes_of`.

mod cam;
mod drift;
mod flow;
mod knockout;
mod lens;
mod mir;
mod numbers;
mod operations;
mod passes;
mod patch;
mod question;
mod similarity;
mod watches;
mod wording;

use std::collections::BTreeSet;

use anyhow::Result;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{DatasetDiagnosis, GradientMaps, LayerDiagnosis, MapSimilarity, PositionDrift, Probe};
use crate::domain::{Conversation, RgbImage};
use crate::model::families::{Model, Seen};
use crate::model::run::prefix::PromptRow;
use crate::model::vision::preprocess::ImageInput;
pub use flow::FlowRule;
pub use mir::{MirMethod, N_PAIRS_MAX, N_PAIRS_RELIABLE, mir};
use passes::forced_reading;
pub use question::Question;
pub use wording::{ImageWording, own_wording};

/// The two models, loaded.
pub struct Pair {
    /// The base.
    pub base: Model,
    /// The candidate; `None` if there is only one model, which then stands for both.
    pub candidate: Option<Model>,
    /// Whether both see the same pixels with the same tower, so that one pass of the tower serves both.
    pub shares_tower: bool,
}

impl Pair {
    /// The model at a place of pairs.
    fn model(&self, at: usize) -> &Model {
        self.candidate.as_ref().filter(|_| at == CANDIDATE).unwrap_or(&self.base)
    }
}

/// The images of one dataset, and what is asked about them.
pub struct TappedDataset<'a> {
    /// The question.
    pub conversation: &'a Conversation,
    /// The labels.
    pub labels: Vec<String>,
    /// The images.
    pub images: Vec<TappedImage>,
    /// The text before the label in the candidate's own answers; empty if they are plain labels or name none.
    pub wording: String,
    /// Reads the image at a position of the dataset.
    pub read: &'a dyn Fn(usize) -> Result<RgbImage>,
    /// Whether a text is a right answer for the label at an index.
    pub is_right: &'a dyn Fn(usize, &str) -> bool,
    /// How attention is summed up.
    pub flow: FlowRule,
    /// The greatest number of tokens of an answer.
    pub max_new_tokens: usize,
    /// Images per pass.
    pub batch_size: usize,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TappedImage {
    /// Its position in the dataset.
    pub position: usize,
    /// The index of its label.
    pub label: usize,
    /// Whether the base was right and the candidate is not.
    pub is_lost: bool,
    /// The base's answer.
    pub answer: String,
    /// Whether the base ended its answer itself.
    pub is_ended: bool,
}

/// What was read on one dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inside {
    /// By state of the residual stream.
    pub layers: Vec<LayerDiagnosis>,
    /// The first state from which the lenses differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parting_layer: Option<usize>,
    /// By image, whether base and candidate choose its label: its deciding token is the likeliest of all labels'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub is_chosen: Vec<(bool, bool)>,
    /// By position of the base's answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<PositionDrift>,
    /// Floating-point operations of reading one prompt: as trained, and if positions of the image attend to themselves only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<[f64; 2]>,
    /// Linear CKA of the towers' output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity_tower: Option<f64>,
    /// By site and weighting, how alike the gradient maps are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cam: Vec<MapSimilarity>,
    /// By image, its gradient maps, if it was mapped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maps: Vec<Option<GradientMaps>>,
    /// By image: how the candidate words its answer. `None` for images that were not lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wording: Vec<Option<ImageWording>>,
}

impl Inside {
    /// The layer at state `state`, which is added if it is missing.
    fn layer(&mut self, state: usize) -> &mut LayerDiagnosis {
        while self.layers.len() <= state {
            self.layers.push(LayerDiagnosis { layer: self.layers.len(), ..LayerDiagnosis::default() });
        }
        &mut self.layers[state]
    }

    /// The shares of images whose label base and candidate choose; `None` if it was not read.
    pub fn choice_accuracies(&self) -> Option<[f64; 2]> {
        let n = self.is_chosen.len();
        let share =
            |of: fn(&(bool, bool)) -> bool| self.is_chosen.iter().filter(|one| of(one)).count() as f64 / n as f64;
        (n > 0).then(|| [share(|one| one.0), share(|one| one.1)])
    }

    /// Adds what was read to the diagnosis of the dataset.
    pub fn complete(&self, dataset: &mut DatasetDiagnosis) {
        if let Some([baseline, candidate]) = self.choice_accuracies() {
            dataset.choice_accuracy_baseline = Some(baseline);
            dataset.choice_accuracy_candidate = Some(candidate);
        }
        dataset.layers.clone_from(&self.layers);
        dataset.parting_layer = self.parting_layer;
        dataset.drift.clone_from(&self.drift);
        dataset.similarity_tower = self.similarity_tower;
        dataset.cam.clone_from(&self.cam);
    }
}

/// What a model's pass over prompts with the base's answers shows.
#[derive(Clone)]
struct Reading {
    /// By state, the residual stream at the prompt's last position: `(batch, hidden)`.
    last: Vec<Tensor>,
    /// By state, the residual stream at the row that predicts the token after [`Question::shared`], where the answer begins with
    /// these tokens: `(batch, hidden)`.
    decision: Vec<Tensor>,
    /// By image, whether the answer begins so.
    has_decision: Vec<bool>,
    /// By state, its mean over the positions of the image: `(batch, hidden)`.
    image: Vec<Tensor>,
    /// By image, the logits that predict the answer's tokens: `(answer tokens, vocabulary)`.
    answer_logits: Vec<Tensor>,
    /// By layer and image, the shares of attention to system, image and user. Empty if they were not asked for.
    flow: Vec<Vec<[f64; 3]>>,
}

/// A few images and both models' prompts about them.
struct Batch<'a> {
    pair: &'a Pair,
    questions: &'a [Question; 2],
    dataset: &'a TappedDataset<'a>,
    images: &'a [TappedImage],
    /// By model, its images.
    inputs: [Vec<ImageInput>; 2],
    /// By model, the output of its tower for each image.
    seen: [Vec<Seen>; 2],
    /// By model, the prompts.
    prompts: [Vec<PromptRow>; 2],
    /// By image, the tokens of the base's answer with the terminator.
    answers: Vec<Vec<u32>>,
    /// By model, what its pass over the base's answers shows; `None` if no probe reads it.
    readings: Option<[Reading; 2]>,
}

/// The models by their place in pairs.
const BASE: usize = 0;
const CANDIDATE: usize = 1;

/// A probe that reads passes of both models.
trait Tap {
    /// Whether it reads [`Batch::readings`].
    fn reads_forced(&self) -> bool {
        false
    }

    /// Whether it reads [`Reading::flow`].
    fn reads_flow(&self) -> bool {
        false
    }

    /// Takes one batch.
    fn visit(&mut self, batch: &Batch<'_>) -> Result<()>;

    /// Adds what all batches showed.
    fn conclude(self: Box<Self>, inside: &mut Inside);
}

/// The probes that read passes, in the order of the report.
fn probes_of(wanted: &BTreeSet<Probe>) -> Vec<Box<dyn Tap>> {
    let make = |probe: &Probe| -> Option<Box<dyn Tap>> {
        match probe {
            Probe::Lens => Some(Box::new(lens::Lens::default())),
            Probe::Drift => Some(Box::new(drift::Drift::default())),
            Probe::Flow => Some(Box::new(flow::Flow::default())),
            Probe::Similarity => Some(Box::new(similarity::Similarity::default())),
            Probe::Patch => Some(Box::new(patch::Patching::default())),
            Probe::Knockout => Some(Box::new(knockout::Knockout::default())),
            Probe::Cam => Some(Box::new(cam::Cam::default())),
            // How answers are worded decides causes.
            Probe::Swap => Some(Box::new(wording::Wording::default())),
            Probe::Composite => Some(Box::new(operations::Operations::default())),
            Probe::Weights | Probe::Reliance | Probe::Truncation | Probe::Mir | Probe::Merge => None,
        }
    };
    wanted.iter().filter_map(make).collect()
}

/// What the `wanted` probes read: names, and forward passes per image, both models together. `n_layers` is the language
/// model's.
pub fn costs(wanted: &BTreeSet<Probe>, n_layers: usize) -> Vec<(&'static str, usize)> {
    let of = |probe: &Probe| {
        let n = match probe {
            Probe::Patch => 6 * (n_layers + 1),
            Probe::Knockout => 4 * n_layers,
            // A backward pass costs two.
            Probe::Cam => 6,
            _ => return None,
        };
        Some((probe.name(), n))
    };
    let is_forced = |probe: &Probe| matches!(probe, Probe::Lens | Probe::Drift | Probe::Flow | Probe::Similarity);
    let shared = wanted.iter().any(is_forced).then_some(("reading the base's answers", 2));
    shared.into_iter().chain(wanted.iter().filter_map(of)).collect()
}

/// Reads the passes of both models over the images of `dataset`. After each batch, `goes_on` is told how many images are done
/// and whether to continue; `None` if it says no.
///
/// # Errors
/// An image cannot be read, a prompt cannot be rendered, or a pass fails.
pub fn look_inside(
    pair: &Pair,
    dataset: &TappedDataset<'_>,
    wanted: &BTreeSet<Probe>,
    goes_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Inside>> {
    let mut probes = probes_of(wanted);
    let mut inside = Inside::default();
    if probes.is_empty() || dataset.images.is_empty() {
        return Ok(Some(inside));
    }
    let question = |model: &Model| Question::new(model, dataset.conversation, &dataset.labels, &dataset.wording);
    let questions = [question(pair.model(BASE))?, question(pair.model(CANDIDATE))?];
    let mut n_done = 0;
    for images in dataset.images.chunks(dataset.batch_size.max(1)) {
        let batch = Batch::read(pair, &questions, dataset, images, &probes)?;
        probes.iter_mut().try_for_each(|probe| probe.visit(&batch))?;
        n_done += images.len();
        if !goes_on(n_done) {
            return Ok(None);
        }
    }
    probes.into_iter().for_each(|probe| probe.conclude(&mut inside));
    Ok(Some(inside))
}

impl<'a> Batch<'a> {
    fn read(
        pair: &'a Pair,
        questions: &'a [Question; 2],
        dataset: &'a TappedDataset<'a>,
        images: &'a [TappedImage],
        probes: &[Box<dyn Tap>],
    ) -> Result<Self> {
        let pixels = images.iter().map(|image| (dataset.read)(image.position)).collect::<Result<Vec<RgbImage>>>()?;
        let prepare = |model: &Model| pixels.iter().map(|image| model.preprocessor.prepare(image)).collect::<Vec<_>>();
        let of_base = prepare(&pair.base);
        // One preparation and one tower serve both if they are the same.
        let of_candidate = if pair.shares_tower { of_base.clone() } else { prepare(pair.model(CANDIDATE)) };
        let inputs = [of_base, of_candidate];
        let see = |at: usize| pair.model(at).mllm.see(&inputs[at].iter().collect::<Vec<_>>());
        let base = see(BASE)?;
        let candidate = if pair.shares_tower { base.clone() } else { see(CANDIDATE)? };
        let seen = [base, candidate];
        let rows = |at: usize| pair.model(at).rows(&questions[at].prompt, &seen[at]);
        let prompts = [rows(BASE)?, rows(CANDIDATE)?];
        let answers = images.iter().map(|image| answer_ids(&pair.base, &questions[BASE], image)).collect();
        let mut batch = Self { pair, questions, dataset, images, inputs, seen, prompts, answers, readings: None };
        if probes.iter().any(|probe| probe.reads_forced()) {
            let flow = probes.iter().any(|probe| probe.reads_flow()).then_some(dataset.flow);
            let reading = |at: usize| {
                let shared = &questions[at].shared;
                forced_reading(pair.model(at), &batch.prompts[at], &batch.answers, shared, flow)
            };
            let base = reading(BASE)?;
            let candidate = if pair.candidate.is_some() { reading(CANDIDATE)? } else { base.clone() };
            batch.readings = Some([base, candidate]);
        }
        Ok(batch)
    }

    /// The model, its question and its prompts, by its place.
    fn of(&self, at: usize) -> (&'a Model, &'a Question, &[PromptRow]) {
        (self.pair.model(at), &self.questions[at], &self.prompts[at])
    }
}

/// The tokens of the base's answer, with the terminator if the base wrote one.
fn answer_ids(base: &Model, question: &Question, image: &TappedImage) -> Vec<u32> {
    let end = base.dialogue.decoding(1).eos_ids.first().copied();
    // What cannot be told from the prompt in tokens counts as an empty answer.
    let mut ids =
        base.dialogue.answer_ids(&question.prompt, &image.answer).unwrap_or_else(|_| end.into_iter().collect());
    if !image.is_ended && ids.len() > 1 {
        ids.pop();
    }
    ids
}

#[cfg(test)]
mod tests;
