//! A training: a method moves some of a model's tensors towards answers about the images of some datasets.

mod opening;
mod running;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use crate::dataset::{Dataset, TextSample};
use crate::domain::{ArmSettings, Method, Mixing, Restraints, TrainingSpec};
use crate::finetune::{AnswerTemplate, Features, Hyperparameters, Output, Trainable, TrainableConfig, TrainingSet};
use crate::model::Placement;
use crate::model::checkpoint::weights::{Checkpoint, HashMemory, Hub, is_embedded};
use crate::model::families::{MllmFamily, OpenedModel};
use crate::model::vision::preprocess::PixelLimits;
use crate::prompting::{self, PromptTemplate};
use crate::record::{FeatureCache, TrainingFolder};

/// A training, as it is asked for.
pub struct Train<'a> {
    /// The base's folder, `embedded`, or its name on the hub.
    pub model: &'a Path,
    /// The folder or name of the vision tower, for a checkpoint that only names it.
    pub tower: Option<&'a Path>,
    /// The folder of a second tower, and how its features are mixed with the first one's.
    pub second_tower: Option<(&'a Path, Mixing)>,
    /// A chat template over the checkpoint's own.
    pub template: Option<&'a str>,
    /// Limits to the pixels of an image.
    pub pixels: PixelLimits,
    /// Where names on the hub are looked up.
    pub hub: &'a Hub<'a>,
    /// Hashes of weights that were made before.
    pub hashes: Option<HashMemory>,
    /// The adapter to go on from.
    pub from_adapter: Option<&'a Path>,
    /// What is trained on, opened.
    pub sources: Vec<Source>,
    /// Which tensors train.
    pub method: Method,
    /// Whether the projector trains.
    pub trains_projector: bool,
    /// What the arms train.
    pub settings: ArmSettings,
    /// What holds the training back from forgetting.
    pub restraints: Restrain<'a>,
    /// How.
    pub hyperparameters: Hyperparameters,
    /// Samples per forward and backward pass.
    pub micro_batch_size: usize,
    /// A checkpoint after every so many steps, beside those after each epoch.
    pub save_every: Option<usize>,
    /// The seed of initial values, of the order of samples, and of dropout.
    pub seed: u64,
    /// Samples per dataset, balanced over its classes; `None` is all.
    pub limit: Option<usize>,
    /// Ratios in which the sources are mixed; `None` takes all samples.
    pub mix: Option<Vec<f64>>,
    /// The seed of the choice of samples; `None` is that of the first dataset.
    pub sample_seed: Option<u64>,
    /// The question.
    pub question: PromptTemplate,
    /// The question's name or file, as the adapter records it.
    pub question_name: &'a str,
    /// The answer to learn, with `{label}`.
    pub answer: &'a str,
    /// Where it computes.
    pub placement: Placement,
    /// Where features of the tower are kept.
    pub feature_cache: Option<Arc<FeatureCache>>,
}

/// What can be trained on.
pub enum Source {
    /// Images with labels.
    Images(Box<Dataset>),
    /// Conversations without images.
    Texts {
        /// Their name.
        name: String,
        /// The conversations.
        samples: Vec<TextSample>,
    },
}

impl Source {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Images(dataset) => &dataset.name,
            Self::Texts { name, .. } => name,
        }
    }

    /// The number of its samples.
    pub fn n_samples(&self) -> usize {
        match self {
            Self::Images(dataset) => dataset.samples.len(),
            Self::Texts { samples, .. } => samples.len(),
        }
    }
}

/// What holds a training back from forgetting, as it is asked for.
pub struct Restrain<'a> {
    /// The weight of the divergence from the base's answers.
    pub keep_base: Option<f64>,
    /// The weight of elastic weight consolidation, measured on `earlier`.
    pub ewc: Option<f64>,
    /// Samples per dataset on which the importance of weights is measured.
    pub n_ewc_samples: usize,
    /// The weight of the squared distance from the base's weights.
    pub l2_sp: Option<f64>,
    /// Earlier tasks with their share of each batch.
    pub replay: Vec<(Source, f64)>,
    /// The weight of the mean loss on earlier tasks; `None` takes one mean over all tokens.
    pub replay_weight: Option<f64>,
    /// Datasets of earlier tasks on which the importance of weights is measured.
    pub earlier: Vec<Dataset>,
    /// The answer to earlier tasks, with `{label}`.
    pub old_answer: &'a str,
}

impl Default for Restrain<'_> {
    fn default() -> Self {
        Self {
            keep_base: None,
            ewc: None,
            n_ewc_samples: 200,
            l2_sp: None,
            replay: Vec::new(),
            replay_weight: None,
            earlier: Vec::new(),
            old_answer: OLD_ANSWER,
        }
    }
}

/// What a base says to the questions of the paper, which ask for nothing but the label.
pub const OLD_ANSWER: &str = "{label}";

/// A training whose base is opened, and whose specification is known; no weight is read yet.
pub struct OpenedTraining {
    base: Base,
    sets: Vec<TrainingSet>,
    /// The base once more and what the importance of its weights is measured on, if it is.
    measured: Option<(OpenedModel, Vec<TrainingSet>)>,
    config: TrainableConfig,
    output: Output,
    spec: TrainingSpec,
    hyperparameters: Hyperparameters,
    micro_batch_size: usize,
    save_every: Option<usize>,
    placement: Placement,
    feature_cache: Option<Arc<FeatureCache>>,
}

/// A training in its folder, about to begin or to go on.
pub struct ReadyTraining {
    /// Its folder, locked.
    pub folder: TrainingFolder,
    /// What it trains on.
    pub sets: Vec<TrainingSet>,
    /// What trains.
    pub trainable: Trainable,
    /// What a person should know of the base.
    pub warnings: Vec<String>,
    /// Its numbers.
    pub hyperparameters: Hyperparameters,
    opened: OpenedModel,
    output: Output,
    restraints: Restraints,
    /// The base once more and what the importance of its weights is measured on, if it is.
    measured: Option<(OpenedModel, Vec<TrainingSet>)>,
    micro_batch_size: usize,
    save_every: Option<usize>,
    seed: u64,
    placement: Placement,
    features: Features,
    features_of_earlier: Features,
}

/// The base, opened; no weight is read yet.
struct Base {
    checkpoint: Checkpoint,
    family: &'static MllmFamily,
    opened: OpenedModel,
    weights_hash: String,
    /// The adapter to go on from.
    from_adapter: Option<PathBuf>,
}

impl<'a> Train<'a> {
    /// A training of `model` by `method` on all samples of `datasets`, with every default: the published recipe's numbers (or
    /// those of the miniature for the miniature), the paper's question and answer, seed 0, on the CPU or the GPU that the program
    /// was built for. Names on the hub are looked up in `hub`.
    ///
    /// # Errors
    /// The embedded template is broken.
    pub fn new(model: &'a Path, hub: &'a Hub<'a>, datasets: Vec<Dataset>, method: Method) -> Result<Self> {
        Ok(Self {
            model,
            tower: None,
            second_tower: None,
            template: None,
            pixels: PixelLimits::default(),
            hub,
            hashes: None,
            from_adapter: None,
            sources: datasets.into_iter().map(|dataset| Source::Images(Box::new(dataset))).collect(),
            method,
            trains_projector: method.trains_projector(),
            settings: ArmSettings::default(),
            restraints: Restrain::default(),
            hyperparameters: match is_embedded(model) {
                true => Hyperparameters::of_miniature(method),
                false => Hyperparameters::of(method),
            },
            micro_batch_size: 1,
            save_every: None,
            seed: 0,
            limit: None,
            mix: None,
            sample_seed: None,
            question: prompting::load("emt")?,
            question_name: "emt",
            answer: AnswerTemplate::DEFAULT,
            placement: Placement::new("auto", "f32")?,
            feature_cache: None,
        })
    }
}
