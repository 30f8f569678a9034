//! A training in its folder: where its variables start, what pulls them back, and the loop.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use super::{Base, OpenedTraining, ReadyTraining};
use crate::domain::{Restraints, TrainingSpec};
use crate::finetune::{
    self, Anchor, Anchored, Features, Objective, Output, Start, Trainable, Trainer, Training, TrainingEnded,
    TrainingSet, Watcher,
};
use crate::model::Placement;
use crate::model::checkpoint::weights::Adapter;
use crate::model::families::OpenedModel;
use crate::model::run::features;
use crate::model::vision::tower_comparison;
use crate::model::vision::tower_comparison::TOWER;
use crate::record::TrainingFolder;

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
        let keeps_features = self.feature_cache.is_some();
        let restraints = self.spec.restraints.clone();
        let folder = TrainingFolder::create_or_resume(dir, self.spec, environment, is_fresh)?;
        let (start, computed_by) = start(&self.base, &folder, &self.placement, keeps_features)?;
        let trainable = self.base.with_tensors(&self.placement, |base| Trainable::new(self.config, base, start))?;
        let cache = self.feature_cache.zip(computed_by);
        Ok(ReadyTraining {
            folder,
            sets: self.sets,
            trainable,
            warnings: self.base.opened.warnings.clone(),
            opened: self.base.opened,
            output: self.output,
            restraints,
            measured: self.measured,
            hyperparameters: self.hyperparameters,
            micro_batch_size: self.micro_batch_size,
            save_every: self.save_every,
            seed,
            features: Features::new(cache.clone(), &self.placement),
            features_of_earlier: Features::new(cache, &self.placement),
            placement: self.placement,
        })
    }
}

impl Base {
    /// Calls `read` with what arms read of the base.
    fn with_tensors<T>(&self, placement: &Placement, read: impl FnOnce(&finetune::Base<'_>) -> Result<T>) -> Result<T> {
        let dialogue = &self.opened.dialogue;
        read(&finetune::Base {
            weights: &self.opened.weights,
            n_heads: self.opened.plan.n_heads(),
            n_layers: self.opened.plan.n_layers(),
            tokenize: &|text| dialogue.tokenizer.encode(text, true),
            device: &placement.device,
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
) -> Result<(Start, Option<String>)> {
    let dir = match folder.last_step() {
        Some(step) => Some(folder.checkpoint_dir(step)),
        None => base.from_adapter.clone(),
    };
    let opened = &base.opened;
    let encoder = dir.as_deref().map(|dir| finetune::read_encoder(dir, &placement.device)).transpose()?;
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
    Ok((Start { overlay: overlay.unwrap_or_default(), encoder: encoder.unwrap_or_default() }, computed_by))
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
        let anchors =
            anchors(&self.restraints, &trainable, &output, self.measured, self.features_of_earlier, &placement)?;
        let Restraints { keep_base, replay_weight, .. } = self.restraints;
        let objective = Objective { keep_base, replay_weight, anchors };
        let trainer = Trainer::new(opened, trainable, &hyperparameters, objective, self.micro_batch_size, &placement)?;
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

/// What pulls weights back to the base's.
fn anchors(
    restraints: &Restraints,
    trainable: &Trainable,
    output: &Output,
    measured: Option<(OpenedModel, Vec<TrainingSet>)>,
    mut features: Features,
    placement: &Placement,
) -> Result<Vec<Anchor>> {
    let mut anchors = Vec::new();
    if restraints.l2_sp.is_none() && restraints.ewc.is_none() {
        return Ok(anchors);
    }
    let weights = output.weights()?;
    let base = output.base(&weights, &placement.device);
    if let Some(strength) = restraints.l2_sp {
        anchors.push(Anchor::new(trainable, &base, strength, None)?);
    }
    if let (Some(elastic), Some((opened, sets))) = (&restraints.ewc, measured) {
        let anchored = Anchored::new(trainable, &base)?;
        let importance = finetune::importance(opened, &anchored, &sets, &mut features, placement)?;
        anchors.push(Anchor::new(trainable, &base, elastic.weight, Some(&importance))?);
    }
    Ok(anchors)
}
