//! Opening a training: the base, the samples, and the specification that decides the weights in the end.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Base, OpenedTraining, Restrain, Source, Train};
use crate::domain::{
    ElasticWeights, Mixing, MixtureSettings, ReplaySpec, Restraints, TrainingDatasetSpec, TrainingSpec,
};
use crate::finetune::{self, ADAPTER_SCHEMA, AnswerTemplate, Hyperparameters, Output, TrainableConfig, TrainingSet};
use crate::model::checkpoint::weights::{
    Adapter, Checkpoint, Located, Miniature, MixtureConfig, Role, SECOND_TOWER, open_dinov2,
};
use crate::model::families::{self, OpenedModel};
use crate::model::run::generation_config::GenerationChoice;

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
        if let Some((_, mixing)) = self.second_tower {
            let second_tower = base.second_tower_hash()?;
            self.settings.mixture = Some(MixtureSettings { mixing, second_tower });
        }
        if self.method.prompt_learning().is_some() {
            self.settings.virtual_tokens.get_or_insert_default();
        }
        let sources = std::mem::take(&mut self.sources);
        let mut sets = self.training_sets(sources, &base.opened)?;
        let earlier = self.earlier_sets(&base.opened, &sets)?;
        sets.extend(self.replayed_sets(&base.opened)?);
        let config = TrainableConfig {
            method: self.method,
            lora: self.hyperparameters.lora,
            trains_projector: self.trains_projector,
            settings: self.settings.clone(),
            seed: self.seed,
        };
        let output = self.output(&base, &sets);
        output.check(&config)?;
        let spec = self.specification(&base, &sets, &earlier)?;
        let measured = match earlier.is_empty() {
            true => None,
            false => Some((self.open_base()?.opened, earlier)),
        };
        Ok(OpenedTraining {
            base,
            sets,
            measured,
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
        let open = |checkpoint: &Checkpoint| {
            OpenedModel::open_within(checkpoint, tower.as_ref(), self.template, &self.pixels, generation)
        };
        let mut opened = open(&checkpoint)?;
        let weights_hash = match &self.hashes {
            Some(memory) => memory.hash(&opened.weights)?,
            None => opened.weights.hash()?,
        };
        let mut checkpoint = checkpoint;
        if let Some((second, mixing)) = self.second_tower {
            checkpoint = with_second_tower(checkpoint, &hub.find(second, Role::Model)?.path, mixing, &opened)?;
            opened = open(&checkpoint)?;
        }
        let from_adapter = match self.from_adapter {
            Some(adapter) => Some(hub.find(adapter, Role::Adapter)?.path),
            None => None,
        };
        Ok(Base { checkpoint, family, opened, weights_hash, from_adapter })
    }

    /// The sources with their samples chosen and their answers tokenised.
    fn training_sets(&self, sources: Vec<Source>, opened: &OpenedModel) -> Result<Vec<TrainingSet>> {
        let answer = AnswerTemplate::new(self.answer)?;
        let seed = |source: &Source| match source {
            Source::Images(dataset) => Some(dataset.sample_seed),
            Source::Texts { .. } => None,
        };
        let seed = self.sample_seed.or_else(|| sources.iter().find_map(seed));
        let seed = seed.context("a training needs a dataset of images; hint: name one beside the texts")?;
        let available: Vec<usize> =
            sources.iter().map(|source| self.limit.map_or(source.n_samples(), |n| n.min(source.n_samples()))).collect();
        let counts = finetune::mixed(&available, self.mix.as_deref())?;
        let sets = sources.into_iter().zip(counts);
        sets.map(|(source, count)| self.training_set(source, Some(count), seed, &answer, opened)).collect()
    }

    /// One source with its answers tokenised: a balanced choice of `limit` samples, or of texts the first.
    fn training_set(
        &self,
        source: Source,
        limit: Option<usize>,
        seed: u64,
        answer: &AnswerTemplate,
        opened: &OpenedModel,
    ) -> Result<TrainingSet> {
        let set = match source {
            Source::Images(dataset) => {
                let question = self.question.render(&dataset.noun, &dataset.labels)?.text;
                let selected = finetune::chosen(&dataset, seed, limit);
                TrainingSet::of_images(*dataset, selected, &question, answer, &opened.dialogue)?
            }
            Source::Texts { name, mut samples } => {
                samples.truncate(limit.unwrap_or(samples.len()));
                TrainingSet::of_texts(name, &samples, &opened.dialogue)?
            }
        };
        let n_virtual = self.settings.virtual_tokens.as_ref().map_or(0, |tokens| tokens.n_tokens);
        let (n_needed, n_positions) = (set.n_positions_max() + n_virtual, opened.plan.n_positions());
        ensure!(
            n_needed <= n_positions,
            "an example of `{}` takes {n_needed} positions, and the model has {n_positions}; hint: {}",
            set.name,
            match set.images() {
                Some(_) => "`--prompt emt-open` leaves the class list out",
                None => "leave such texts out",
            }
        );
        ensure!(set.n_samples() > 0, "`{}` has no sample to train on", set.name);
        Ok(set)
    }

    /// Earlier tasks that come back in each batch.
    fn replayed_sets(&mut self, opened: &OpenedModel) -> Result<Vec<TrainingSet>> {
        let answer = AnswerTemplate::new(self.restraints.old_answer)?;
        let batch_size = self.hyperparameters.batch_size;
        let mut sets = Vec::new();
        for (source, share) in std::mem::take(&mut self.restraints.replay) {
            let n_replayed = ((share * batch_size as f64).round() as usize).max(1);
            let seed = self.seed_of(&source);
            let set = self.training_set(source, self.limit, seed, &answer, opened)?;
            sets.push(TrainingSet { n_replayed: Some(n_replayed), ..set });
        }
        let n_replayed: usize = sets.iter().filter_map(|set| set.n_replayed).sum();
        ensure!(
            n_replayed < batch_size,
            "--replay takes {n_replayed} of the {batch_size} samples of a batch, and leaves none to learn from; hint: smaller \
             shares, or a larger --batch-size"
        );
        ensure!(
            self.restraints.replay_weight.is_none() || !sets.is_empty(),
            "--replay-weight weighs earlier tasks, and there are none; hint: --replay DATASET:SHARE"
        );
        Ok(sets)
    }

    /// Earlier tasks on which the importance of weights is measured.
    fn earlier_sets(&mut self, opened: &OpenedModel, learnt: &[TrainingSet]) -> Result<Vec<TrainingSet>> {
        let answer = AnswerTemplate::new(self.restraints.old_answer)?;
        if self.restraints.ewc.is_none() {
            return Ok(Vec::new());
        }
        let given = std::mem::take(&mut self.restraints.earlier);
        ensure!(
            !given.is_empty(),
            "--ewc measures how much each weight matters for earlier tasks, and none is named; hint: --ewc-datasets A,B"
        );
        let mut sets = Vec::new();
        for dataset in given {
            ensure!(
                learnt.iter().all(|set| set.name != dataset.name),
                "--ewc-datasets names `{}`, which is what is learnt; hint: name what must not be forgotten",
                dataset.name
            );
            let source = Source::Images(Box::new(dataset));
            let (seed, limit) = (self.seed_of(&source), Some(self.restraints.n_ewc_samples));
            sets.push(self.training_set(source, limit, seed, &answer, opened)?);
        }
        Ok(sets)
    }

    /// The seed of the choice of samples.
    fn seed_of(&self, source: &Source) -> u64 {
        match source {
            Source::Images(dataset) => self.sample_seed.unwrap_or(dataset.sample_seed),
            Source::Texts { .. } => self.sample_seed.unwrap_or_default(),
        }
    }

    /// What holds the training back, as its specification has it.
    fn restraints(&self, sets: &[TrainingSet], earlier: &[TrainingSet]) -> Restraints {
        let Restrain { keep_base, ewc, l2_sp, replay_weight, old_answer, .. } = self.restraints;
        let replayed =
            |set: &TrainingSet| Some(ReplaySpec { dataset: dataset_spec(set), n_per_batch: set.n_replayed? });
        let replay: Vec<ReplaySpec> = sets.iter().filter_map(replayed).collect();
        let has_old = !replay.is_empty() || !earlier.is_empty();
        Restraints {
            keep_base,
            ewc: ewc.map(|weight| ElasticWeights { weight, datasets: earlier.iter().map(dataset_spec).collect() }),
            l2_sp,
            replay,
            replay_weight,
            old_answer_template: has_old.then(|| old_answer.to_owned()),
        }
    }

    /// What decides the weights in the end.
    fn specification(&self, base: &Base, sets: &[TrainingSet], earlier: &[TrainingSet]) -> Result<TrainingSpec> {
        let from_adapter = match &base.from_adapter {
            Some(dir) => Some(Adapter::open(dir, base.family.canonical, &base.opened.weights)?.hash()?),
            None => None,
        };
        let dialogue = &base.opened.dialogue;
        Ok(TrainingSpec {
            base: base.weights_hash.clone(),
            from_adapter,
            method: self.method,
            trains_projector: self.trains_projector,
            settings: self.settings.clone(),
            restraints: self.restraints(sets, earlier),
            hyperparameters: self.hyperparameters.of_spec(self.method),
            micro_batch_size: self.micro_batch_size,
            seed: self.seed,
            datasets: learnt(sets).map(dataset_spec).collect(),
            answer_template: self.answer.to_owned(),
            tokenizer: dialogue.tokenizer.hash()?,
            chat_template: dialogue.template.hash(),
            preprocessing: base.opened.preprocessor.parameters(),
            device_kind: self.placement.device_kind().to_owned(),
        })
    }

    /// How the adapter is written, and what its `emt.json` says.
    fn output(&self, base: &Base, sets: &[TrainingSet]) -> Output {
        let dataset = |set: &TrainingSet| {
            let images = set.images()?;
            let labels: Vec<&str> = images.dataset.labels.names().collect();
            Some(json!({
                "dataset": set.name,
                "split": images.dataset.split,
                "n_samples": set.n_samples(),
                "labels": labels,
            }))
        };
        let names: Vec<&str> = learnt(sets).filter(|set| set.images().is_some()).map(|set| set.name.as_str()).collect();
        let datasets: Vec<Value> = learnt(sets).filter_map(dataset).collect();
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
        Output {
            base: base.checkpoint.clone(),
            canonical: base.family.canonical,
            names: base.family.in_memory,
            n_heads: base.opened.plan.n_heads(),
            n_layers: base.opened.plan.n_layers(),
            provenance,
        }
    }
}

impl Base {
    /// Hash over the second tower's tensors.
    fn second_tower_hash(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let weights = &self.opened.weights;
        for name in weights.names().filter(|name| name.starts_with(SECOND_TOWER)) {
            hasher.update(name.as_bytes()).update(weights.tensor_hash(name)?.unwrap_or_default().as_bytes());
        }
        Ok(format!("blake3:{}", hasher.finalize().to_hex()))
    }
}

/// The base's files with a second tower in their configuration.
fn with_second_tower(checkpoint: Checkpoint, dir: &Path, mixing: Mixing, opened: &OpenedModel) -> Result<Checkpoint> {
    ensure!(
        opened.family == "llava",
        "`mof` mixes the features of a LLaVA's tower with a second one's, and `{}` is of the family {}; hint: train it with \
         another method",
        opened.name,
        opened.family
    );
    ensure!(
        MixtureConfig::of(&checkpoint)?.is_none(),
        "`{}` has a second tower; hint: leave --second-tower out",
        opened.name
    );
    // What is written must find the tower from any folder.
    let tower = open_dinov2(dir)?.absolute_dir();
    let config = MixtureConfig { mixing, tower: Some(tower) }.into_config(checkpoint.config());
    Ok(checkpoint.with_config(config))
}

/// The sets that are learnt, without earlier tasks.
fn learnt(sets: &[TrainingSet]) -> impl Iterator<Item = &TrainingSet> {
    sets.iter().filter(|set| set.n_replayed.is_none())
}

fn dataset_spec(set: &TrainingSet) -> TrainingDatasetSpec {
    let mut hasher = blake3::Hasher::new();
    for index in 0..set.n_samples() {
        hasher.update(set.id(index).as_bytes());
        hasher.update(b"\n");
        // A text's name is its line, so that its content counts, too.
        if set.images().is_none() {
            let (prompt, answer) = set.prompt_and_answer(index);
            hasher.update(prompt.text.as_bytes());
            answer.iter().for_each(|id| _ = hasher.update(&id.to_le_bytes()));
        }
    }
    let samples = format!("blake3:{}", hasher.finalize().to_hex());
    let (split, label_set, prompt) = match set.images() {
        Some(images) => (images.dataset.split.clone(), images.dataset.labels.hash(), images.prompt.text.clone()),
        None => ("text".to_owned(), String::new(), String::new()),
    };
    TrainingDatasetSpec { dataset: set.name.clone(), split, label_set, n_samples: set.n_samples(), samples, prompt }
}
