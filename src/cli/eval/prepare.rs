//! From flags to an evaluation that may begin.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::options::{CaptionsName, EvalOptions, GenerationConfigName};
use crate::chart::words;
use crate::cli::comparison::ADAPTER_TUNED_ON;
use crate::cli::data::{Places, ReadingOptions};
use crate::cli::hub_options::HubOptions;
use crate::cli::progress::Progress;
use crate::cli::served_options::{is_address, shown};
use crate::cli::{environment, hub_options, results};
use crate::dataset::{self, Available, Catalog, Dataset, DatasetHub, OpenRequest};
use crate::domain::{LabelSet, Mode};
use crate::eval::{self, Captions, OpenRun, ServedRequest, SubjectsRequest};
use crate::model::Placement;
use crate::model::generation_config::GenerationChoice;
use crate::model::preprocess::PixelLimits;
use crate::model::weights::is_embedded;
use crate::prompting;
use crate::record::{self, Opened, Sitting};
use crate::study::{Evaluate, PlannedEvaluation, RespondentRequest};

fn check_numbers(args: &EvalOptions) -> Result<()> {
    if args.batch_size == Some(0) || args.max_new_tokens == 0 || args.limit == Some(0) {
        bail!("--batch-size, --max-new-tokens and --limit must be at least 1");
    }
    Ok(())
}

/// Settles everything before weights are read; `out` is the folder of the run, or of the runs with adapters. What is fetched
/// from the hub is told to `err`.
pub(in crate::cli) fn prepare(
    model: &Path,
    args: &EvalOptions,
    out: Option<&Path>,
    quiet: bool,
    err: &mut dyn Write,
) -> Result<PlannedEvaluation> {
    check_numbers(args)?;
    let placement = Placement::new(&args.device, &args.dtype)?;
    let (texts, datasets, mut hub_commits) = open_datasets(model, &dataset_flags(args), quiet, err)?;
    let template = prompting::load(&args.prompt)?;
    let hub = args.hub.hub(quiet, err)?;
    let modes = modes(&args.modes)?;
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let typed: BTreeMap<String, String> = datasets.iter().map(|dataset| dataset.name.clone()).zip(texts).collect();
    let open_training = |evaluated: &Dataset| {
        let text = typed.get(&evaluated.name).unwrap_or(&evaluated.name);
        let of_training = args.reading.request(text, args.split.as_deref(), args.labels.as_deref());
        dataset::open_training(&catalog, &roots, &of_training)
    };
    let (encoder, adapters) = (args.comparator.encoder(&args.encoder)?, args.adapters.requests()?);
    let is_served = is_address(model);
    let respondent = match is_served {
        true => {
            let server = args.served.request(model, args, modes.contains(&Mode::Score))?;
            RespondentRequest::Server(ServedRequest { server, encoder, hub: &hub })
        }
        false => RespondentRequest::Checkpoint(SubjectsRequest {
            model,
            encoder,
            is_zero_shot: args.comparator.may_be_zero_shot(),
            template: args.template.as_deref(),
            pixels: PixelLimits { min_pixels: args.min_pixels, max_pixels: args.max_pixels },
            generation: match args.generation_config {
                GenerationConfigName::Checkpoint => GenerationChoice::Checkpoint,
                GenerationConfigName::Ignore => GenerationChoice::Ignored,
            },
            adapters: &adapters,
            has_base: args.adapters.has_base(),
            is_merged: args.adapters.merge,
            allows_idle: args.adapters.allow_noop_adapter,
            hashes: environment::hash_memory(),
            hub: &hub,
        }),
    };
    let request = Evaluate {
        respondent,
        comparator: args.comparator.request(&open_training)?,
        datasets,
        limit: args.limit,
        sample_seed: args.sample_seed,
        template,
        captions: match args.captions {
            CaptionsName::Template => Captions::Template,
            CaptionsName::Ensemble => Captions::Ensemble,
        },
        modes,
        max_new_tokens: args.max_new_tokens,
        batch_size: args.batch_size,
        n_repeats: args.served.n_repeats(),
        placement,
        tuned_on: BTreeMap::new(),
        judges: args.judging.panel_config()?,
        feature_cache: if is_served { None } else { args.feature_cache.open()? },
        out: out.map(Path::to_owned),
        is_fresh: args.fresh,
        environment: sitting(paths(model, args), args.limit),
    };
    let judges = request.judges.clone();
    let mut planned = request.open()?.plan(tuned_on(args.tuned_on.as_deref(), &args.places)?, judges)?;
    hub_commits.extend(hub_options::found(&hub));
    for (run, described) in planned.runs.iter_mut().zip(&planned.description.runs) {
        if !hub_commits.is_empty() {
            run.environment.insert("hub".to_owned(), hub_commits.clone().into());
        }
        if !described.tuned_on.is_empty() {
            run.environment.insert(ADAPTER_TUNED_ON.to_owned(), described.tuned_on.clone().into());
        }
    }
    Ok(planned)
}

/// The modes that `--modes` names, in the order of a run.
fn modes(list: &str) -> Result<Vec<Mode>> {
    const KNOWN: [Mode; 2] = [Mode::Generate, Mode::Score];
    let mut modes = Vec::new();
    for name in list.split(',').map(str::trim) {
        let Some(mode) = KNOWN.iter().find(|known| known.name() == name) else {
            bail!("--modes names `{name}`, which is not a mode; hint: generate, score, or generate,score");
        };
        if modes.contains(mode) {
            bail!("--modes names `{name}` twice");
        }
        modes.push(*mode);
    }
    modes.sort_unstable();
    Ok(modes)
}

fn dataset_flags(args: &EvalOptions) -> DatasetFlags<'_> {
    DatasetFlags {
        datasets: args.datasets.as_deref(),
        split: args.split.as_deref(),
        labels: args.labels.as_deref(),
        places: &args.places,
        reading: &args.reading,
        hub: &args.hub,
    }
}

/// What to open of each dataset, the datasets, and which commit each name on the hub meant.
pub(in crate::cli) type OpenedDatasets = (Vec<String>, Vec<Dataset>, Map<String, Value>);

/// Which datasets are opened, and how they are read.
pub(in crate::cli) struct DatasetFlags<'a> {
    /// Those that are named, separated by commas.
    pub(in crate::cli) datasets: Option<&'a str>,
    pub(in crate::cli) split: Option<&'a str>,
    pub(in crate::cli) labels: Option<&'a Path>,
    pub(in crate::cli) places: &'a Places,
    pub(in crate::cli) reading: &'a ReadingOptions,
    pub(in crate::cli) hub: &'a HubOptions,
}

/// Opens the named datasets, or those that `model` is evaluated on by default.
pub(in crate::cli) fn open_datasets(
    model: &Path,
    args: &DatasetFlags<'_>,
    quiet: bool,
    err: &mut dyn Write,
) -> Result<OpenedDatasets> {
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let texts: Vec<String> = match args.datasets {
        Some(list) => list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect(),
        None => default_datasets(is_embedded(model), dataset::available(&catalog, &roots)),
    };
    if texts.is_empty() {
        bail!("no dataset was found; hint: `emt data fetch mnist cifar10 cifar100`, or --data DIR, or --datasets PATH");
    }
    if args.labels.is_some() && texts.len() > 1 {
        bail!("--labels is for one dataset, and --datasets names {}; hint: run them one by one", texts.len());
    }
    let hub = args.hub.datasets(quiet, err)?;
    let texts = texts.into_iter().map(|text| found_text(&catalog, &hub, text, args.split));
    let texts = texts.collect::<Result<Vec<_>>>()?;
    let mut names = HashSet::new();
    let mut datasets = Vec::with_capacity(texts.len());
    for text in &texts {
        let request = args.reading.request(text, args.split, args.labels);
        let dataset = dataset::open(&catalog, &roots, &request)?;
        if !names.insert(dataset.name.clone()) {
            bail!("--datasets names `{}` twice; hint: give one of them a name with NAME=PATH", dataset.name);
        }
        datasets.push(dataset);
    }
    eval::refuse_empty(&datasets)?;
    Ok((texts, datasets, hub_options::found_datasets(&hub)))
}

/// Names on the hub become paths in its cache; names of the catalog and what lies here stay as they are.
pub(in crate::cli) fn found_text(
    catalog: &Catalog,
    hub: &DatasetHub<'_>,
    text: String,
    split: Option<&str>,
) -> Result<String> {
    if catalog.names().any(|name| name == text) {
        return Ok(text);
    }
    Ok(hub.find(&text, split)?.unwrap_or(text))
}

/// The miniature's datasets for the miniature, else what is found of those that the catalog says.
fn default_datasets(is_miniature: bool, available: Vec<Available>) -> Vec<String> {
    let is_wanted = |row: &Available| match is_miniature {
        true => row.is_embedded,
        false => row.is_evaluated_by_default && row.is_found,
    };
    available.into_iter().filter(|row| row.is_default_split && is_wanted(row)).map(|row| row.name).collect()
}

/// The labels of the datasets in `list`, as `--tuned-on` takes them.
pub(in crate::cli) fn tuned_on(list: Option<&str>, places: &Places) -> Result<BTreeMap<String, LabelSet>> {
    let (catalog, roots) = (places.catalog()?, places.roots());
    let names = list.into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|text| {
            let labels = match catalog.labels_of(text) {
                Ok(labels) => labels.clone(),
                // Not in the catalog: perhaps a folder, whose classes are its folders.
                Err(error) if !Path::new(text).exists() && !text.contains('=') => {
                    return Err(error.context("--tuned-on names a dataset whose labels are not known"));
                }
                Err(_) => dataset::open(&catalog, &roots, &OpenRequest { text, ..OpenRequest::default() })?.labels,
            };
            Ok((text.to_owned(), labels))
        })
        .collect()
}

fn paths(model: &Path, args: &EvalOptions) -> Map<String, Value> {
    let mut paths = Map::new();
    paths.insert("model".into(), shown(model).into());
    paths.insert("encoder".into(), args.encoder.clone().into());
    if !args.adapters.adapters.is_empty() {
        paths.insert("adapters".into(), args.adapters.adapters.clone().into());
    }
    if let Some(data) = &args.places.data {
        paths.insert("data".into(), data.display().to_string().into());
    }
    paths
}

/// What is recorded of this sitting.
pub(in crate::cli) fn sitting(paths: Map<String, Value>, limit: Option<usize>) -> Map<String, Value> {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut fields = record::environment(&Sitting { n_threads, batch_size: None, limit, paths });
    fields.insert("kernels".into(), crate::model::kernels_name().into());
    fields.insert("command".into(), results::command_line().into());
    fields
}

pub(in crate::cli) fn announce(progress: &mut Progress, prepared: &PlannedEvaluation, open_runs: &[OpenRun]) {
    let is_resumed = open_runs.iter().any(|open| !open.recorded.is_empty());
    for open in open_runs {
        if let Opened::Resumed { added_modes, n_trials, .. } = open.folder.opened()
            && !added_modes.is_empty()
        {
            let modes: Vec<&str> = added_modes.iter().map(|mode| mode.name()).collect();
            progress.say(&format!(
                "`{}` gains the mode {}; its {n_trials} recorded trials stay",
                open.folder.dir().display(),
                modes.join(",")
            ));
        }
    }
    let n_samples: usize = prepared.tasks.iter().map(|task| task.work.selected.len()).sum();
    let n_recorded: usize = prepared.tasks.iter().map(|task| task.work.n_recorded).sum();
    let spec = &prepared.runs[0].spec;
    let names: Vec<&str> = prepared.runs.iter().map(|run| run.spec.model.name.as_str()).collect();
    let dirs: Vec<String> = prepared.runs.iter().map(|run| run.dir.display().to_string()).collect();
    progress.say(&format!(
        "{} ({}), batches of {}: {n_samples} images of {} dataset(s){}, into {}",
        names.join(", "),
        words::how_run(&spec.model.family, &spec.computing),
        prepared.batching.size,
        prepared.tasks.len(),
        if is_resumed { format!(", {n_recorded} recorded already") } else { String::new() },
        dirs.join(", ")
    ));
    if prepared.batching.is_served {
        progress.say(&format!("server: {} requests, retries aside", prepared.n_requests()));
    }
    let n_judged = if spec.modes.contains(&Mode::Generate) { n_samples * prepared.runs.len() } else { 0 };
    let n_calls_max = prepared.panel.upper_bound_of_calls(n_judged as u64);
    if n_calls_max > 0 {
        progress.say(&format!("judge: at most {n_calls_max} calls, one for each distinct pair of label and answer, and one fixed question first"));
    }
}

/// What a person should know before anything is asked.
pub(in crate::cli) fn warn(progress: &mut Progress, planned: &PlannedEvaluation) {
    for warning in &planned.warnings {
        progress.say(&format!("warning: {warning}"));
    }
}
