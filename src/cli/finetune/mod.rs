//! `emt finetune`.

mod arm_flags;
mod epochs;
mod flags;
mod sources;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Map, Value};

use super::eval::{DatasetFlags, open_datasets};
use super::progress::Progress;
use super::reading::ReadingOptions;
use super::{environment, exit_code, hub_options, interrupt, results, tuned_on};
use crate::domain::Arm;
use crate::eval::EncoderChoice;
use crate::finetune::{Classified, Curve, Hyperparameters, TrainableConfig, TrainingEnded, TrainingSet};
use crate::model::Placement;
use crate::model::checkpoint::weights::Hub;
use crate::prompting;
use crate::record::{self, FeatureCache, Sitting};
use crate::study::{OpenedTraining, ReadyTraining, Train};

use epochs::Epochs;
pub(super) use epochs::{EpochEvaluations, print};
pub(super) use flags::FinetuneArgs;

/// Runs the command and returns its exit code.
pub(super) fn run(args: &FinetuneArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let mut nowhere = std::io::sink();
    let hub = args.hub.hub(true, &mut nowhere)?;
    let fine_tune = prepare(args, &hub, quiet, err)?;
    let Some(curve) = fine_tune.run(quiet, err)? else { return Ok(exit_code::INTERRUPTED) };
    epochs::print(&curve, &args.out, quiet, out)?;
    Ok(exit_code::OK)
}

/// Opens all that `args` name; nothing is trained or written yet. `hub` is for the evaluations.
pub(super) fn prepare<'a>(
    args: &'a FinetuneArgs,
    hub: &'a Hub<'a>,
    quiet: bool,
    err: &mut dyn Write,
) -> Result<FineTune<'a>> {
    let hyperparameters = args.hyperparameters()?;
    let placement = Placement::new(&args.device, "f32")?;
    let cache = args.feature_cache.open()?;
    let (opened, hub_commits) = open(args, hyperparameters, placement, cache.clone(), quiet, err)?;
    Ok(FineTune {
        opened,
        out: &args.out,
        is_fresh: args.fresh,
        environment: sitting(args, hub_commits),
        tuned_on: args.trained_images().map(training_name).collect(),
        evaluations: evaluations(args, hub)?,
        feature_cache: cache,
    })
}

/// A training with what is evaluated while it goes on.
pub(super) struct FineTune<'a> {
    pub(super) opened: OpenedTraining,
    /// The folder of the adapter.
    pub(super) out: &'a Path,
    /// Whether a folder that is not empty is refused.
    pub(super) is_fresh: bool,
    /// What `training.json` records beside the specification.
    pub(super) environment: Map<String, Value>,
    /// The names of the datasets to train on.
    pub(super) tuned_on: Vec<String>,
    /// `None` evaluates nothing.
    pub(super) evaluations: Option<EpochEvaluations<'a>>,
    /// Where features of the tower are kept.
    pub(super) feature_cache: Option<Arc<FeatureCache>>,
}

/// A training that came to its end.
pub(super) struct Trained {
    /// What was evaluated on the way.
    pub(super) curve: Curve,
    /// The number of values that trained.
    pub(super) n_trainable: usize,
}

impl FineTune<'_> {
    /// Trains to the end and returns the curve; `None` where somebody interrupted.
    pub(super) fn run(self, quiet: bool, err: &mut dyn Write) -> Result<Option<Curve>> {
        Ok(self.train(quiet, err)?.map(|trained| trained.curve))
    }

    /// The same, with what trained.
    pub(super) fn train(self, quiet: bool, err: &mut dyn Write) -> Result<Option<Trained>> {
        let Self { opened, out, is_fresh, environment, tuned_on, evaluations, feature_cache } = self;
        let curve = Curve::new(opened.spec().method.name(), tuned_on);
        let ready = opened.begin(out, is_fresh, environment)?;
        let mut progress = Progress::new(err, quiet);
        for warning in &ready.warnings {
            progress.say(&format!("warning: {warning}"));
        }
        announce(&mut progress, &ready);
        let n_trainable = ready.trainable.n_numbers();
        interrupt::listen();
        let mut epochs = Epochs::new(evaluations, curve, &ready.folder, &mut progress);
        let (ended, folder) = ready.run(&interrupt::is_stopped, &mut epochs)?;
        epochs.write_losses(&folder)?;
        let curve = epochs.into_curve();
        progress.finish();
        if let Some(cache) = feature_cache {
            cache.take_warnings().iter().for_each(|warning| progress.say(&format!("warning: {warning}")));
            progress.say(&cache.summary());
        }
        if ended == TrainingEnded::Interrupted {
            progress.say("interrupted; run the same command again to continue from the last checkpoint");
            return Ok(None);
        }
        Ok(Some(Trained { curve, n_trainable }))
    }
}

/// Opens the base and what it is trained on. With it which commit each name on the hub meant.
fn open(
    args: &FinetuneArgs,
    hyperparameters: Hyperparameters,
    placement: Placement,
    feature_cache: Option<Arc<FeatureCache>>,
    quiet: bool,
    err: &mut dyn Write,
) -> Result<(OpenedTraining, Map<String, Value>)> {
    let sources = args.sources(quiet, err)?;
    let restraints = args.restrain(quiet, err)?;
    let hub = args.hub.hub(quiet, err)?;
    let request = Train {
        // Looked for before anything trains, even where only the evaluations need it.
        tower: args.encoder.as_deref().filter(|encoder| !["auto", "none"].contains(encoder)).map(Path::new),
        second_tower: args.arms.second_tower()?,
        template: args.template.as_deref(),
        pixels: args.pixels(),
        hashes: environment::hash_memory(),
        from_adapter: args.from_adapter.as_deref(),
        trains_projector: args.trains_projector()?,
        settings: args.arms.settings(args.method)?,
        restraints,
        hyperparameters,
        micro_batch_size: args.micro_batch_size,
        save_every: args.save_every,
        seed: args.seed,
        limit: args.limit,
        mix: args.mix()?,
        sample_seed: args.sample_seed,
        question: prompting::load(&args.prompt)?,
        question_name: &args.prompt,
        answer: &args.answer_template,
        placement,
        feature_cache,
        sources,
        ..Train::new(&args.model, &hub, Vec::new(), args.method)?
    };
    let opened = request.open()?;
    Ok((opened, hub_options::found(&hub)))
}

/// What is evaluated before training and after each epoch; `None` where nothing is.
fn evaluations<'a>(args: &'a FinetuneArgs, hub: &'a Hub<'a>) -> Result<Option<EpochEvaluations<'a>>> {
    if args.eval_datasets.as_deref() == Some("none") {
        return Ok(None);
    }
    let flags = DatasetFlags {
        datasets: args.eval_datasets.as_deref(),
        split: None,
        labels: None,
        places: &args.places,
        reading: &ReadingOptions::default(),
        hub: &args.hub,
    };
    let images = args.trained_images().collect::<Vec<_>>().join(",");
    Ok(Some(EpochEvaluations {
        model: &args.model,
        hub,
        datasets: open_datasets(&args.model, &flags, true, &mut std::io::sink())?.datasets,
        tuned_on: tuned_on::Planned::new(Some(&images), &[], &args.places)?.of_all,
        limit: args.eval_limit,
        encoder: match args.encoder.as_deref().unwrap_or("none") {
            "none" => EncoderChoice::None,
            "auto" => EncoderChoice::Auto,
            dir => EncoderChoice::Folder(dir.into()),
        },
        template: args.template.as_deref(),
        pixels: args.pixels(),
        question: &args.prompt,
        max_new_tokens: args.max_new_tokens,
        device: &args.device,
        judges: args.judging.panel_config()?,
        feature_cache: args.feature_cache.open()?,
    }))
}

impl FinetuneArgs {
    /// What `--train` names, without texts.
    fn trained_images(&self) -> impl Iterator<Item = &str> {
        results::list(&self.train).filter(|source| sources::text_file(source).is_none())
    }
}

/// A dataset's name as its runs have it.
fn training_name(text: &str) -> String {
    text.split_once('=').map_or(text, |(name, _)| name).to_owned()
}

fn sitting(args: &FinetuneArgs, hub_commits: Map<String, Value>) -> Map<String, Value> {
    let path = |path: &Path| Value::from(path.display().to_string());
    let mut paths = Map::from_iter([("model".to_owned(), path(&args.model))]);
    paths.extend(args.places.data.as_deref().map(|data| ("data".to_owned(), path(data))));
    let mut fields = environment_of(paths, args.limit);
    if !hub_commits.is_empty() {
        fields.insert("hub".into(), hub_commits.into());
    }
    fields
}

/// What is recorded of a sitting of a training.
pub(super) fn environment_of(paths: Map<String, Value>, limit: Option<usize>) -> Map<String, Value> {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut fields = record::environment(&Sitting { n_threads, batch_size: None, limit, samples: None, paths });
    fields.insert("command".into(), results::command_line().into());
    fields
}

/// What a set contributes to the training.
fn share_of(set: &TrainingSet) -> String {
    let what = if set.images().is_some() { "images" } else { "texts" };
    match set.n_replayed {
        None => format!("{} {what} of {}", set.n_samples(), set.name),
        Some(n) => format!("{n} of {} {what} of {} in each batch", set.n_samples(), set.name),
    }
}

fn announce(progress: &mut Progress, ready: &ReadyTraining) {
    let ReadyTraining { folder, sets, trainable, hyperparameters, .. } = ready;
    let Hyperparameters { learning_rate, batch_size, n_epochs, lora, .. } = *hyperparameters;
    let TrainableConfig { method, seed, .. } = trainable.config();
    let updates = match method.has(Arm::Lora) {
        true => format!(", rank {}, alpha {}, dropout {}", lora.rank, lora.alpha, lora.dropout),
        false => String::new(),
    };
    let on: Vec<String> = sets.iter().map(share_of).collect();
    progress.say(&format!(
        "{}: {} tensors ({} numbers) train on {}; learning rate {learning_rate}, batch {batch_size}, {n_epochs} \
         epochs{updates}, seed {seed}",
        method.name(),
        trainable.parameters().len(),
        trainable.n_numbers(),
        on.join(", ")
    ));
    for Classified { dataset, .. } in sets.iter().filter_map(TrainingSet::images) {
        for warning in dataset.warnings.iter().chain(&dataset.notes) {
            progress.say(&format!("warning: {}: {warning}", dataset.name));
        }
        if !dataset.is_training_split {
            let (name, split) = (&dataset.name, &dataset.split);
            progress.say(&format!("warning: {name}: `{split}` is not known as a training split"));
        }
    }
    match folder.last_step() {
        Some(step) if !folder.was_complete() => progress.say(&format!("continues after step {step}")),
        Some(step) => progress.say(&format!("`{}` is complete, {step} steps", folder.dir().display())),
        None => {}
    }
}
