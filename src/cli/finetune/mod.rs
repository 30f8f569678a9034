//! `emt finetune`.

mod epochs;
mod flags;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::progress::Progress;
use super::sources::found;
use super::{environment, exit_code, hub_options, interrupt, results};
use crate::dataset::{self, Catalog, Dataset, FoundOnHub};
use crate::domain::{TrainingDatasetSpec, TrainingSpec};
use crate::finetune::{
    self, ADAPTER_SCHEMA, AnswerTemplate, Features, Hyperparameters, Method, Output, Trainable, TrainableConfig,
    Trainer, Training, TrainingEnded, TrainingSet,
};
use crate::model::Placement;
use crate::model::features;
use crate::model::generation_config::GenerationChoice;
use crate::model::mllm::{self, MllmFamily, OpenedModel};
use crate::model::overlay::Overlay;
use crate::model::tower::{self, TOWER};
use crate::model::weights::{Adapter, Checkpoint, Located, Miniature, Role};
use crate::prompting;
use crate::record::{self, Sitting, TrainingFolder};

use epochs::Epochs;
pub(super) use flags::FinetuneArgs;

/// The base, opened; no weight is read yet.
struct Base {
    checkpoint: Checkpoint,
    family: &'static MllmFamily,
    opened: OpenedModel,
    weights_hash: String,
    /// The adapter to go on from.
    from_adapter: Option<PathBuf>,
    /// Which commit each name on the hub meant.
    hub_commits: Map<String, Value>,
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &FinetuneArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let hyperparameters = args.hyperparameters()?;
    let placement = Placement::new(&args.device, "f32")?;
    let base = open_base(args, quiet, err)?;
    let sets = training_sets(args, &base.opened, quiet, err)?;
    let config = TrainableConfig {
        method: args.method,
        lora: hyperparameters.lora,
        trains_projector: !args.no_projector,
        seed: args.seed,
    };
    let output = output(args, &base, &sets, &hyperparameters);
    output.check(&config)?;
    let spec = specification(args, &base, &sets, &hyperparameters, &placement)?;
    let mut folder = TrainingFolder::create_or_resume(&args.out, spec, sitting(args, &base), args.fresh)?;

    let (start, computed_by) = start(args, &base, &folder, &placement)?;
    let trainable = Trainable::new(config, &base.opened.weights, start, &placement.device)?;
    let mut progress = Progress::new(err, quiet);
    for warning in &base.opened.warnings {
        progress.say(&format!("warning: {warning}"));
    }
    announce(&mut progress, args, &hyperparameters, &trainable, &sets, &folder);
    let cache = args.feature_cache.open()?;
    let features = Features::new(cache.clone().zip(computed_by), &placement);
    let trainer = Trainer::new(base.opened, trainable, &hyperparameters, args.micro_batch_size, &placement)?;
    interrupt::listen();
    let training = Training {
        trainer,
        sets: &sets,
        hyperparameters,
        seed: args.seed,
        save_every: args.save_every,
        output: &output,
        device: placement.device.clone(),
        features,
        is_stopped: &interrupt::is_stopped,
    };
    let mut epochs = Epochs::new(args, &folder, &mut progress);
    let ended = training.run(&mut folder, &mut epochs)?;
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

fn open_base(args: &FinetuneArgs, quiet: bool, err: &mut dyn Write) -> Result<Base> {
    let hub = args.hub.hub(quiet, err)?;
    let checkpoint = hub.find(&args.model, Role::Model)?.open(Miniature::Model)?;
    let family = mllm::family_of(&checkpoint)?;
    // Looked for before anything trains, even where only the evaluations need it.
    let given: Option<Located> = match args.encoder.as_deref().filter(|encoder| !["auto", "none"].contains(encoder)) {
        Some(encoder) => Some(hub.find(Path::new(encoder), Role::Model)?),
        None => None,
    };
    let tower = match ((family.tower_reference)(&checkpoint), given) {
        (Some(_), Some(given)) => Some(given),
        (Some(name), None) => hub.find_tower(&name, &checkpoint.dir, Role::Tower, true)?,
        (None, _) => None,
    };
    let tower = tower.map(|at| at.open(Miniature::Encoder)).transpose()?;
    let opened = OpenedModel::open_within(
        &checkpoint,
        tower.as_ref(),
        args.template.as_deref(),
        &args.pixels(),
        GenerationChoice::Checkpoint,
    )?;
    let weights_hash = match environment::hash_memory() {
        Some(memory) => memory.hash(&opened.weights)?,
        None => opened.weights.hash()?,
    };
    let from_adapter = match &args.from_adapter {
        Some(adapter) => Some(hub.find(adapter, Role::Adapter)?.path),
        None => None,
    };
    Ok(Base { checkpoint, family, opened, weights_hash, from_adapter, hub_commits: hub_options::found(&hub) })
}

/// The datasets to train on, their samples chosen and their answers tokenised.
fn training_sets(
    args: &FinetuneArgs,
    opened: &OpenedModel,
    quiet: bool,
    err: &mut dyn Write,
) -> Result<Vec<TrainingSet>> {
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let template = prompting::load(&args.prompt)?;
    let answer = AnswerTemplate::new(&args.answer_template)?;
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
    let seed = args.sample_seed.unwrap_or(datasets[0].sample_seed);
    let available: Vec<usize> = datasets
        .iter()
        .map(|dataset| args.limit.map_or(dataset.samples.len(), |n| n.min(dataset.samples.len())))
        .collect();
    let counts = finetune::mixed(&available, args.mix()?.as_deref())?;
    let n_positions = opened.plan.n_positions();
    datasets
        .into_iter()
        .zip(counts)
        .map(|(dataset, count)| {
            let question = template.render(&dataset.noun, &dataset.labels)?.text;
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

/// Where the variables start: the last checkpoint, else the adapter to go on from, else nowhere. With it what decides the
/// features of an image, where they are kept.
fn start(
    args: &FinetuneArgs,
    base: &Base,
    folder: &TrainingFolder,
    placement: &Placement,
) -> Result<(Overlay, Option<String>)> {
    let dir = match folder.last_step() {
        Some(step) => Some(folder.checkpoint_dir(step)),
        None => base.from_adapter.clone(),
    };
    let open = |dir: PathBuf| Adapter::open(&dir, base.family.canonical, &base.opened.weights);
    let adapter = dir.map(open).transpose()?;
    let opened = &base.opened;
    let computed_by = match args.feature_cache.feature_cache {
        Some(_) => {
            let mut of = format!("{} {} {}", opened.family, opened.config_hash, tower::hash(&opened.weights)?);
            if let Some(adapter) = adapter.as_ref().filter(|adapter| adapter.n_touched(TOWER) > 0) {
                of.push_str(&format!("+{}", adapter.hash()?));
            }
            Some(features::computed_by(&of, &opened.preprocessor.parameters(), placement, true))
        }
        None => None,
    };
    let overlay = adapter.map(|adapter| adapter.overlay(placement, false)).transpose()?;
    Ok((overlay.unwrap_or_default(), computed_by))
}

/// What decides the weights in the end: a training is resumed only by an equal one.
fn specification(
    args: &FinetuneArgs,
    base: &Base,
    sets: &[TrainingSet],
    hyperparameters: &Hyperparameters,
    placement: &Placement,
) -> Result<TrainingSpec> {
    let from_adapter = match &base.from_adapter {
        Some(dir) => Some(Adapter::open(dir, base.family.canonical, &base.opened.weights)?.hash()?),
        None => None,
    };
    let dialogue = &base.opened.dialogue;
    let datasets = sets
        .iter()
        .map(|set| {
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
        })
        .collect();
    Ok(TrainingSpec {
        base: base.weights_hash.clone(),
        from_adapter,
        method: args.method,
        trains_projector: args.method != Method::Lora || !args.no_projector,
        hyperparameters: hyperparameters.of_spec(args.method),
        micro_batch_size: args.micro_batch_size,
        seed: args.seed,
        datasets,
        answer_template: args.answer_template.clone(),
        tokenizer: dialogue.tokenizer.hash()?,
        chat_template: dialogue.template.hash(),
        preprocessing: base.opened.preprocessor.parameters(),
        device_kind: placement.device_kind().to_owned(),
    })
}

fn output(args: &FinetuneArgs, base: &Base, sets: &[TrainingSet], hyperparameters: &Hyperparameters) -> Output {
    let names: Vec<&str> = sets.iter().map(|set| set.dataset.name.as_str()).collect();
    let datasets: Vec<Value> = sets
        .iter()
        .map(|set| {
            let labels: Vec<&str> = set.dataset.labels.names().collect();
            json!({"dataset": set.dataset.name, "split": set.dataset.split, "n_samples": set.selected.len(), "labels": labels})
        })
        .collect();
    let provenance = json!({
        "schema": ADAPTER_SCHEMA,
        "emt": env!("CARGO_PKG_VERSION"),
        "base": {"name": base.opened.name, "family": base.opened.family, "weights": base.weights_hash},
        "method": args.method.name(),
        "tuned_on": names,
        "datasets": datasets,
        "seed": args.seed,
        "hyperparameters": hyperparameters.of_spec(args.method),
        "answer_template": args.answer_template,
        "prompt": args.prompt,
    });
    Output { base: base.checkpoint.clone(), canonical: base.family.canonical, provenance }
}

fn sitting(args: &FinetuneArgs, base: &Base) -> Map<String, Value> {
    let path = |path: &Path| Value::from(path.display().to_string());
    let mut paths = Map::new();
    paths.insert("model".into(), path(&args.model));
    if let Some(data) = &args.places.data {
        paths.insert("data".into(), path(data));
    }
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut fields = record::environment(&Sitting { n_threads, batch_size: None, limit: args.limit, paths });
    fields.insert("command".into(), results::command_line().into());
    if !base.hub_commits.is_empty() {
        fields.insert("hub".into(), base.hub_commits.clone().into());
    }
    fields
}

fn announce(
    progress: &mut Progress,
    args: &FinetuneArgs,
    hyperparameters: &Hyperparameters,
    trainable: &Trainable,
    sets: &[TrainingSet],
    folder: &TrainingFolder,
) {
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
        for warning in &set.dataset.warnings {
            progress.say(&format!("warning: {}: {warning}", set.dataset.name));
        }
        for note in &set.dataset.notes {
            progress.say(&format!("note: {}: {note}", set.dataset.name));
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
