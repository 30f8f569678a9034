//! A training: a method moves some of a model's tensors towards answers about the images of some datasets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::dataset::Dataset;
use crate::domain::{Method, TrainingDatasetSpec, TrainingSpec};
use crate::finetune::{
    self, ADAPTER_SCHEMA, AnswerTemplate, Features, Hyperparameters, Output, Trainable, TrainableConfig, Trainer,
    Training, TrainingEnded, TrainingSet, Watcher,
};
use crate::model::Placement;
use crate::model::checkpoint::overlay::Overlay;
use crate::model::checkpoint::weights::{Adapter, Checkpoint, HashMemory, Hub, Located, Miniature, Role, is_embedded};
use crate::model::families;
use crate::model::families::{MllmFamily, OpenedModel};
use crate::model::run::features;
use crate::model::run::generation_config::GenerationChoice;
use crate::model::vision::preprocess::PixelLimits;
use crate::model::vision::tower_comparison;
use crate::model::vision::tower_comparison::TOWER;
use crate::prompting::{self, PromptTemplate};
use crate::record::{FeatureCache, TrainingFolder};

/// A training, as it is asked for.
pub struct Train<'a> {
    /// The base's folder, `embedded`, or its name on the hub.
    pub model: &'a Path,
    /// The folder or name of the vision tower, for a checkpoint that only names it.
    pub tower: Option<&'a Path>,
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
    /// The datasets to train on, opened.
    pub datasets: Vec<Dataset>,
    /// Which tensors train.
    pub method: Method,
    /// Whether the projector trains; `lora` alone may leave it.
    pub trains_projector: bool,
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
    /// Ratios in which the datasets are mixed; `None` takes all samples.
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

/// A training whose base is opened, and whose specification is known; no weight is read yet.
pub struct OpenedTraining {
    base: Base,
    sets: Vec<TrainingSet>,
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
    micro_batch_size: usize,
    save_every: Option<usize>,
    seed: u64,
    placement: Placement,
    features: Features,
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
            template: None,
            pixels: PixelLimits::default(),
            hub,
            hashes: None,
            from_adapter: None,
            datasets,
            method,
            trains_projector: true,
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

impl Train<'_> {
    /// Opens the base, chooses samples, and tokenises their answers.
    ///
    /// # Errors
    /// A file cannot be read, an example does not fit, or the method has no way to write what it trains.
    pub fn open(mut self) -> Result<OpenedTraining> {
        let Hyperparameters { batch_size, n_epochs, .. } = self.hyperparameters;
        ensure!(
            batch_size > 0 && n_epochs > 0 && self.micro_batch_size > 0,
            "a training needs at least one epoch, and batches of at least one sample"
        );
        let base = self.open_base()?;
        let datasets = std::mem::take(&mut self.datasets);
        let sets = self.training_sets(datasets, &base.opened)?;
        let config = TrainableConfig {
            method: self.method,
            lora: self.hyperparameters.lora,
            trains_projector: self.trains_projector,
            seed: self.seed,
        };
        let output = self.output(&base, &sets);
        output.check(&config)?;
        let spec = self.specification(&base, &sets)?;
        Ok(OpenedTraining {
            base,
            sets,
            config,
            output,
            spec,
            hyperparameters: self.hyperparameters,
            micro_batch_size: self.micro_batch_size,
            save_every: self.save_every,
            placement: self.placement,
            feature_cache: self.feature_cache,
        })
    }

    fn open_base(&self) -> Result<Base> {
        let hub = self.hub;
        let checkpoint = hub.find(self.model, Role::Model)?.open(Miniature::Model)?;
        let family = families::family_of(&checkpoint)?;
        let given: Option<Located> = self.tower.map(|tower| hub.find(tower, Role::Model)).transpose()?;
        let tower = match ((family.tower_reference)(&checkpoint), given) {
            (Some(_), Some(given)) => Some(given),
            (Some(name), None) => hub.find_tower(&name, &checkpoint.dir, Role::Tower, true)?,
            (None, _) => None,
        };
        let tower = tower.map(|at| at.open(Miniature::Encoder)).transpose()?;
        let generation = GenerationChoice::Checkpoint;
        let opened = OpenedModel::open_within(&checkpoint, tower.as_ref(), self.template, &self.pixels, generation)?;
        let weights_hash = match &self.hashes {
            Some(memory) => memory.hash(&opened.weights)?,
            None => opened.weights.hash()?,
        };
        let from_adapter = match self.from_adapter {
            Some(adapter) => Some(hub.find(adapter, Role::Adapter)?.path),
            None => None,
        };
        Ok(Base { checkpoint, family, opened, weights_hash, from_adapter })
    }

    /// The datasets with their samples chosen and their answers tokenised.
    fn training_sets(&self, datasets: Vec<Dataset>, opened: &OpenedModel) -> Result<Vec<TrainingSet>> {
        let answer = AnswerTemplate::new(self.answer)?;
        let first = datasets.first().context("a training needs a dataset")?;
        let seed = self.sample_seed.unwrap_or(first.sample_seed);
        let available: Vec<usize> = datasets
            .iter()
            .map(|dataset| self.limit.map_or(dataset.samples.len(), |n| n.min(dataset.samples.len())))
            .collect();
        let counts = finetune::mixed(&available, self.mix.as_deref())?;
        let n_positions = opened.plan.n_positions();
        datasets
            .into_iter()
            .zip(counts)
            .map(|(dataset, count)| {
                let question = self.question.render(&dataset.noun, &dataset.labels)?.text;
                let selected = finetune::chosen(&dataset, seed, Some(count));
                let set = TrainingSet::new(dataset, selected, &question, &answer, &opened.dialogue)?;
                ensure!(
                    set.n_positions_max() <= n_positions,
                    "an example of `{}` takes {} positions, and the model has {n_positions}; hint: `--prompt emt-open` \
                     leaves the class list out",
                    set.dataset.name,
                    set.n_positions_max()
                );
                Ok(set)
            })
            .collect()
    }

    /// What decides the weights in the end.
    fn specification(&self, base: &Base, sets: &[TrainingSet]) -> Result<TrainingSpec> {
        let from_adapter = match &base.from_adapter {
            Some(dir) => Some(Adapter::open(dir, base.family.canonical, &base.opened.weights)?.hash()?),
            None => None,
        };
        let dialogue = &base.opened.dialogue;
        Ok(TrainingSpec {
            base: base.weights_hash.clone(),
            from_adapter,
            method: self.method,
            trains_projector: !self.method.is_low_rank() || self.trains_projector,
            hyperparameters: self.hyperparameters.of_spec(self.method),
            micro_batch_size: self.micro_batch_size,
            seed: self.seed,
            datasets: sets.iter().map(dataset_spec).collect(),
            answer_template: self.answer.to_owned(),
            tokenizer: dialogue.tokenizer.hash()?,
            chat_template: dialogue.template.hash(),
            preprocessing: base.opened.preprocessor.parameters(),
            device_kind: self.placement.device_kind().to_owned(),
        })
    }

    /// How the adapter is written, and what its `emt.json` says.
    fn output(&self, base: &Base, sets: &[TrainingSet]) -> Output {
        let names: Vec<&str> = sets.iter().map(|set| set.dataset.name.as_str()).collect();
        let dataset = |set: &TrainingSet| {
            let labels: Vec<&str> = set.dataset.labels.names().collect();
            json!({
                "dataset": set.dataset.name,
                "split": set.dataset.split,
                "n_samples": set.selected.len(),
                "labels": labels,
            })
        };
        let datasets: Vec<Value> = sets.iter().map(dataset).collect();
        let provenance = json!({
            "schema": ADAPTER_SCHEMA,
            "emt": env!("CARGO_PKG_VERSION"),
            "base": {"name": base.opened.name, "family": base.opened.family, "weights": base.weights_hash},
            "method": self.method.name(),
            "tuned_on": names,
            "datasets": datasets,
            "seed": self.seed,
            "hyperparameters": self.hyperparameters.of_spec(self.method),
            "answer_template": self.answer,
            "prompt": self.question_name,
        });
        Output { base: base.checkpoint.clone(), canonical: base.family.canonical, provenance }
    }
}

fn dataset_spec(set: &TrainingSet) -> TrainingDatasetSpec {
    let mut hasher = blake3::Hasher::new();
    for &position in &set.selected {
        hasher.update(set.dataset.samples[position].id.as_bytes());
        hasher.update(b"\n");
    }
    TrainingDatasetSpec {
        dataset: set.dataset.name.clone(),
        split: set.dataset.split.clone(),
        label_set: set.dataset.labels.hash(),
        n_samples: set.selected.len(),
        samples: format!("blake3:{}", hasher.finalize().to_hex()),
        prompt: set.prompt.text.clone(),
    }
}

impl OpenedTraining {
    /// What decides the weights in the end: a training is resumed only by an equal one.
    pub fn spec(&self) -> &TrainingSpec {
        &self.spec
    }

    /// Opens the folder `dir`, new or to go on in, where `environment` is recorded beside the specification; with `is_fresh`
    /// a folder that is not empty is refused.
    ///
    /// # Errors
    /// The folder has another training, or the last checkpoint cannot be read.
    pub fn begin(self, dir: &Path, is_fresh: bool, environment: Map<String, Value>) -> Result<ReadyTraining> {
        let seed = self.spec.seed;
        let folder = TrainingFolder::create_or_resume(dir, self.spec, environment, is_fresh)?;
        let keeps_features = self.feature_cache.is_some();
        let (start, computed_by) = start(&self.base, &folder, &self.placement, keeps_features)?;
        let trainable = Trainable::new(self.config, &self.base.opened.weights, start, &self.placement.device)?;
        Ok(ReadyTraining {
            folder,
            sets: self.sets,
            trainable,
            warnings: self.base.opened.warnings.clone(),
            opened: self.base.opened,
            output: self.output,
            hyperparameters: self.hyperparameters,
            micro_batch_size: self.micro_batch_size,
            save_every: self.save_every,
            seed,
            features: Features::new(self.feature_cache.zip(computed_by), &self.placement),
            placement: self.placement,
        })
    }
}

/// Where the variables start: the last checkpoint, else the adapter to go on from, else nowhere. With it what decides the
/// features of an image, where they are kept.
fn start(
    base: &Base,
    folder: &TrainingFolder,
    placement: &Placement,
    keeps_features: bool,
) -> Result<(Overlay, Option<String>)> {
    let dir = match folder.last_step() {
        Some(step) => Some(folder.checkpoint_dir(step)),
        None => base.from_adapter.clone(),
    };
    let opened = &base.opened;
    let open = |dir: PathBuf| Adapter::open(&dir, base.family.canonical, &opened.weights);
    let adapter = dir.map(open).transpose()?;
    let computed_by = match keeps_features {
        true => {
            let mut of =
                format!("{} {} {}", opened.family, opened.config_hash, tower_comparison::hash(&opened.weights)?);
            if let Some(adapter) = adapter.as_ref().filter(|adapter| adapter.n_touched(TOWER) > 0) {
                of.push_str(&format!("+{}", adapter.hash()?));
            }
            Some(features::computed_by(&of, &opened.preprocessor.parameters(), placement, true))
        }
        false => None,
    };
    let overlay = adapter.map(|adapter| adapter.overlay(placement, false)).transpose()?;
    Ok((overlay.unwrap_or_default(), computed_by))
}

impl ReadyTraining {
    /// Reads the weights and trains to the end, or until `is_stopped`; returns how it ended, and the folder.
    ///
    /// # Errors
    /// A step fails, or a file cannot be written; the last checkpoint stays.
    pub fn run(
        self,
        is_stopped: &(dyn Fn() -> bool + Sync),
        watcher: &mut dyn Watcher,
    ) -> Result<(TrainingEnded, TrainingFolder)> {
        let Self { mut folder, sets, trainable, opened, output, hyperparameters, placement, features, .. } = self;
        let trainer = Trainer::new(opened, trainable, &hyperparameters, self.micro_batch_size, &placement)?;
        let training = Training {
            trainer,
            sets: &sets,
            hyperparameters,
            seed: self.seed,
            save_every: self.save_every,
            output: &output,
            device: placement.device,
            features,
            is_stopped,
        };
        let ended = training.run(&mut folder, watcher)?;
        Ok((ended, folder))
    }
}
