//! `emt finetune`.

mod epochs;
mod flags;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::progress::Progress;
use super::sources::found;
use super::{environment, exit_code, hub_options, interrupt, results};
use crate::dataset::{self, Catalog, Dataset, FoundOnHub};
use crate::domain::Method;
use crate::finetune::{Hyperparameters, TrainingEnded};
use crate::model::Placement;
use crate::prompting;
use crate::record::{self, FeatureCache, Sitting};
use crate::study::{OpenedTraining, ReadyTraining, Train};

use epochs::Epochs;
pub(super) use flags::FinetuneArgs;

/// Runs the command and returns its exit code.
pub(super) fn run(args: &FinetuneArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let hyperparameters = args.hyperparameters()?;
    let placement = Placement::new(&args.device, "f32")?;
    let cache = args.feature_cache.open()?;
    let (opened, hub_commits) = open(args, hyperparameters, placement, cache.clone(), quiet, err)?;
    let ready = opened.begin(&args.out, args.fresh, sitting(args, hub_commits))?;
    let mut progress = Progress::new(err, quiet);
    for warning in &ready.warnings {
        progress.say(&format!("warning: {warning}"));
    }
    announce(&mut progress, args, &hyperparameters, &ready);
    interrupt::listen();
    let mut epochs = Epochs::new(args, &ready.folder, &mut progress);
    let (ended, folder) = ready.run(&interrupt::is_stopped, &mut epochs)?;
    epochs.write_losses(&folder)?;
    let curve = epochs.into_curve();
    progress.finish();
    if let Some(cache) = cache {
        cache.take_warnings().iter().for_each(|warning| progress.say(&format!("warning: {warning}")));
        progress.say(&cache.summary());
    }
    if ended == TrainingEnded::Interrupted {
        progress.say("interrupted; the same command goes on from the last checkpoint");
        return Ok(exit_code::INTERRUPTED);
    }
    epochs::print(&curve, &args.out, quiet, out)?;
    Ok(exit_code::OK)
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
    let datasets = training_datasets(args, quiet, err)?;
    let hub = args.hub.hub(quiet, err)?;
    let request = Train {
        model: &args.model,
        // Looked for before anything trains, even where only the evaluations need it.
        tower: args.encoder.as_deref().filter(|encoder| !["auto", "none"].contains(encoder)).map(Path::new),
        template: args.template.as_deref(),
        pixels: args.pixels(),
        hub: &hub,
        hashes: environment::hash_memory(),
        from_adapter: args.from_adapter.as_deref(),
        datasets,
        method: args.method,
        trains_projector: !args.no_projector,
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
    };
    let opened = request.open()?;
    Ok((opened, hub_options::found(&hub)))
}

/// The datasets to train on.
fn training_datasets(args: &FinetuneArgs, quiet: bool, err: &mut dyn Write) -> Result<Vec<Dataset>> {
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let mut datasets = Vec::new();
    let hub = args.hub.datasets(quiet, err)?;
    let split = args.split.as_deref().or(Some("train"));
    let given: Vec<String> = results::list(&args.train).map(str::to_owned).collect();
    for text in &given {
        let found = found(&catalog, &hub, text, split)?;
        let dataset = open_training_split(args, &catalog, &roots, text, &found)?;
        ensure!(
            datasets.iter().all(|other: &Dataset| other.name != dataset.name),
            "--train names `{}` twice; hint: give one of them a name with NAME=PATH",
            dataset.name
        );
        datasets.push(dataset);
    }
    ensure!(
        args.labels.is_none() || datasets.len() < 2,
        "--labels is for one dataset, and --train names {}; hint: train on them one after the other with --from-adapter",
        datasets.len()
    );
    ensure!(!datasets.is_empty(), "--train names no dataset; hint: a name of `emt data list`, or a folder");
    ensure!(
        args.mix.is_none() || datasets.len() > 1,
        "--mix has no effect on one dataset: it mixes several; hint: --limit N trains on fewer of its samples"
    );
    args.reading.columns().refuse_idle(&given, &datasets)?;
    Ok(datasets)
}

fn open_training_split(
    args: &FinetuneArgs,
    catalog: &Catalog,
    roots: &dataset::DataRoots,
    text: &str,
    found: &FoundOnHub,
) -> Result<Dataset> {
    // The catalog and the hub know several splits; a path says itself which split it is, or holds several.
    let has_splits = found.text != text || catalog.names().any(|name| name == text);
    let split = args.split.as_deref().or(has_splits.then_some("train"));
    let open = |split: Option<&str>| {
        let request = args.reading.request_of(text, &found.text, split, args.labels.as_deref());
        dataset::open(catalog, roots, &request).with_context(|| format!("`{text}` cannot be trained on"))
    };
    let mut opened = open(split)?;
    if opened.chosen_of.iter().any(|split| split == "train") {
        opened = open(Some("train"))?;
    }
    if args.split.is_none() && !opened.is_training_split && opened.split != "all" {
        bail!(
            "`{text}` is the split `{}`, which is held out; hint: give its folder to train on, or say --split {} to \
             train on it all the same",
            opened.split,
            opened.split
        );
    }
    Ok(opened)
}

fn sitting(args: &FinetuneArgs, hub_commits: Map<String, Value>) -> Map<String, Value> {
    let path = |path: &Path| Value::from(path.display().to_string());
    let mut paths = Map::new();
    paths.insert("model".into(), path(&args.model));
    if let Some(data) = &args.places.data {
        paths.insert("data".into(), path(data));
    }
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut fields = record::environment(&Sitting { n_threads, batch_size: None, limit: args.limit, paths });
    fields.insert("command".into(), results::command_line().into());
    if !hub_commits.is_empty() {
        fields.insert("hub".into(), hub_commits.into());
    }
    fields
}

fn announce(progress: &mut Progress, args: &FinetuneArgs, hyperparameters: &Hyperparameters, ready: &ReadyTraining) {
    let ReadyTraining { folder, sets, trainable, .. } = ready;
    let Hyperparameters { learning_rate, batch_size, n_epochs, lora, .. } = *hyperparameters;
    let updates = match args.method {
        Method::Lora => format!(", rank {}, alpha {}, dropout {}", lora.rank, lora.alpha, lora.dropout),
        Method::Linear | Method::Full => String::new(),
    };
    let on: Vec<String> =
        sets.iter().map(|set| format!("{} images of {}", set.selected.len(), set.dataset.name)).collect();
    progress.say(&format!(
        "{}: {} tensors ({} numbers) train on {}; learning rate {learning_rate}, batch {batch_size}, {n_epochs} \
         epochs{updates}, seed {}",
        args.method.name(),
        trainable.parameters().len(),
        trainable.n_numbers(),
        on.join(", "),
        args.seed
    ));
    for set in sets {
        for warning in set.dataset.warnings.iter().chain(&set.dataset.notes) {
            progress.say(&format!("warning: {}: {warning}", set.dataset.name));
        }
        if !set.dataset.is_training_split {
            let (name, split) = (&set.dataset.name, &set.dataset.split);
            progress.say(&format!("warning: {name}: `{split}` is not known as a split to train on"));
        }
    }
    match folder.last_step() {
        Some(step) if !folder.was_complete() => progress.say(&format!("goes on after step {step}")),
        Some(step) => progress.say(&format!("`{}` is complete, {step} steps", folder.dir().display())),
        None => {}
    }
}
