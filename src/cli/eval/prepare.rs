//! From flags to an evaluation that may begin.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::options::{CaptionsName, EvalOptions, GenerationConfigName};
use crate::chart::words;
use crate::cli::data::Places;
use crate::cli::hub_options::HubOptions;
use crate::cli::progress::Progress;
use crate::cli::reading::ReadingOptions;
use crate::cli::served_options::{is_address, shown};
use crate::cli::sources::{self, found};
use crate::cli::{environment, hub_options, recorded_command, results, tuned_on};
use crate::dataset::{self, Available, Dataset};
use crate::domain::Mode;
use crate::eval::{self, Captions, Description, OpenRun, ServedRequest, SubjectsRequest, Task};
use crate::model::Placement;
use crate::model::checkpoint::weights::{Hub, is_embedded};
use crate::model::run::generation_config::GenerationChoice;
use crate::model::vision::preprocess::PixelLimits;
use crate::prompting;
use crate::record::{self, Opened, Sitting};
use crate::study::{BASE_NAME, Evaluate, PlannedEvaluation, RespondentRequest};

/// Everything that is settled before weights are read.
pub(in crate::cli) struct Prepared {
    pub(in crate::cli) planned: PlannedEvaluation,
    /// What the runs are said to be fine-tuned on.
    tuned_on: tuned_on::Planned,
}

impl Prepared {
    /// The datasets that a person named as those that the model of `run` was fine-tuned on.
    pub(in crate::cli) fn said_tuned_on(&self, run: usize) -> BTreeSet<String> {
        self.tuned_on.said(run)
    }

    /// The datasets that the model of `run` was fine-tuned on: what a person said, else what its adapter says.
    pub(in crate::cli) fn tuned_on(&self, run: usize) -> BTreeSet<String> {
        self.tuned_on.of_run(run, self.planned.description.runs[run].provenance.as_ref())
    }
}

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
) -> Result<Prepared> {
    check_numbers(args)?;
    let placement = Placement::new(&args.device, &args.dtype)?;
    let OpenedDatasets { texts, datasets, hub_commits, sources } =
        open_datasets(model, &dataset_flags(args), quiet, err)?;
    let template = prompting::load(&args.prompt)?;
    let hub = args.hub.hub(quiet, err)?;
    let modes = modes(&args.modes)?;
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let typed: BTreeMap<String, String> = datasets.iter().map(|dataset| dataset.name.clone()).zip(texts).collect();
    let open_training = |evaluated: &Dataset| {
        let text = typed.get(&evaluated.name).unwrap_or(&evaluated.name);
        // The name says which columns are meant, and is part of what was found.
        let of_training = args.reading.request_of(text, text, args.split.as_deref(), args.labels.as_deref());
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
            image_attention: args.visual_attention,
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
        samples: args.samples.read()?,
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
        environment: sitting(paths(model, args), args.limit, args.samples.path()),
    };
    let origin = Origin { tuned_on: args.tuned_on.as_deref(), places: &args.places, sources, hub_commits, hub: &hub };
    settle(request, origin)
}

/// Where what is evaluated comes from: `run.json` records it beside the specification.
#[derive(Clone)]
pub(in crate::cli) struct Origin<'a> {
    /// The datasets that models were fine-tuned on, as `--tuned-on` takes them.
    pub(in crate::cli) tuned_on: Option<&'a str>,
    pub(in crate::cli) places: &'a Places,
    /// By dataset, how it was opened.
    pub(in crate::cli) sources: Map<String, Value>,
    /// Which commit each name of a dataset on the hub meant.
    pub(in crate::cli) hub_commits: Map<String, Value>,
    /// Where models were looked up.
    pub(in crate::cli) hub: &'a Hub<'a>,
}

/// Opens who is asked, and settles what is recorded of every run.
pub(in crate::cli) fn settle(request: Evaluate<'_>, origin: Origin<'_>) -> Result<Prepared> {
    let Origin { tuned_on: list, places, sources, mut hub_commits, hub } = origin;
    let (judges, out) = (request.judges.clone(), request.out.clone());
    let opened = request.open()?;
    let tuned_on = planned_tuned_on(list, places, out.as_deref(), opened.description())?;
    let mut planned = opened.plan(tuned_on.of_all.clone(), judges)?;
    hub_commits.extend(hub_options::found(hub));
    for (place, run) in planned.runs.iter_mut().enumerate() {
        if !hub_commits.is_empty() {
            run.environment.insert("hub".to_owned(), hub_commits.clone().into());
        }
        if !sources.is_empty() {
            run.environment.insert(sources::KEY.to_owned(), sources.clone().into());
        }
        let notes = planned.description.runs[place].provenance.as_ref();
        run.environment.extend(tuned_on.environment(place, notes, places)?);
    }
    Ok(Prepared { planned, tuned_on })
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

/// Datasets that were opened for an evaluation.
pub(in crate::cli) struct OpenedDatasets {
    /// What to open of each dataset.
    texts: Vec<String>,
    pub(in crate::cli) datasets: Vec<Dataset>,
    /// Which commit each name on the hub meant.
    hub_commits: Map<String, Value>,
    /// By dataset, how it was opened.
    sources: Map<String, Value>,
}

impl OpenedDatasets {
    /// The datasets, how each was opened, and which commit each name on the hub meant.
    pub(in crate::cli) fn into_parts(self) -> (Vec<Dataset>, Map<String, Value>, Map<String, Value>) {
        (self.datasets, self.sources, self.hub_commits)
    }
}

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
    let mut names = HashSet::new();
    let (mut texts_found, mut datasets, mut sources) = (Vec::new(), Vec::new(), Map::new());
    for given in &texts {
        let found = found(&catalog, &hub, given, args.split)?;
        let request = args.reading.request(given, &found, args.labels);
        let opened = dataset::open(&catalog, &roots, &request);
        let mut dataset =
            if texts.len() > 1 { opened.map_err(|error| args.reading.columns().of_one(error))? } else { opened? };
        if dataset.chosen_of.is_empty() {
            dataset.chosen_of.clone_from(&found.chosen_of);
        }
        if !names.insert(dataset.name.clone()) {
            bail!("--datasets names `{}` twice; hint: give one of them a name with NAME=PATH", dataset.name);
        }
        if let Some(source) = sources::recorded(&catalog, &roots, given, &request) {
            sources.insert(dataset.name.clone(), source);
        }
        texts_found.push(found.text);
        datasets.push(dataset);
    }
    args.reading.columns().refuse_idle(&texts, &datasets)?;
    eval::refuse_empty(&datasets)?;
    Ok(OpenedDatasets { texts: texts_found, datasets, hub_commits: hub_options::found_datasets(&hub), sources })
}

/// The miniature's datasets for the miniature, else what is found of those that the catalog says.
fn default_datasets(is_miniature: bool, available: Vec<Available>) -> Vec<String> {
    let is_wanted = |row: &Available| match is_miniature {
        true => row.is_embedded,
        false => row.is_evaluated_by_default && row.is_found,
    };
    available.into_iter().filter(|row| row.is_default_split && is_wanted(row)).map(|row| row.name).collect()
}

/// Reads `--tuned-on` for the runs of this command. A run alone may also be named as its folder is.
fn planned_tuned_on(
    list: Option<&str>,
    places: &Places,
    out: Option<&Path>,
    description: &Description,
) -> Result<tuned_on::Planned> {
    let names = description.runs.iter().map(|run| run.name.clone().unwrap_or_else(|| BASE_NAME.to_owned()));
    let mut names: Vec<String> = names.collect();
    if let ([name], Some(dir)) = (names.as_mut_slice(), out) {
        let folder = record::run_name(dir);
        if list.is_some_and(|list| !list.contains(&format!("{name}:"))) {
            *name = folder;
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    tuned_on::Planned::new(list, &names, places)
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

/// What is recorded of this sitting; `samples` is the file that names them.
pub(in crate::cli) fn sitting(
    paths: Map<String, Value>,
    limit: Option<usize>,
    samples: Option<&Path>,
) -> Map<String, Value> {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let samples = samples.map(|path| path.display().to_string());
    let mut fields = record::environment(&Sitting { n_threads, batch_size: None, limit, samples, paths });
    fields.insert("kernels".into(), crate::model::kernels_name().into());
    fields.insert("command".into(), results::command_line().into());
    fields.extend(recorded_command::directory().map(|dir| (recorded_command::DIRECTORY.to_owned(), dir)));
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
                "`{}` gains the mode {}; its {n_trials} recorded trials are kept",
                open.folder.dir().display(),
                modes.join(",")
            ));
        }
    }
    let n_samples: usize = prepared.tasks.iter().map(|task| task.work.selected.len()).sum();
    let n_recorded: usize = prepared.tasks.iter().map(|task| task.work.n_recorded).sum();
    let spec = &prepared.runs[0].spec;
    let names: Vec<String> = prepared.runs.iter().map(|run| run.spec.model.name.clone()).collect();
    let dirs: Vec<String> = prepared.runs.iter().map(|run| run.dir.display().to_string()).collect();
    progress.say(&format!(
        "{} ({}), batches of {}: {n_samples} images of {} dataset(s){}, into {}",
        some(&names),
        words::how_run(&spec.model.family, &spec.computing),
        prepared.batching.size,
        prepared.tasks.len(),
        if is_resumed { format!(", {n_recorded} recorded already") } else { String::new() },
        some(&dirs)
    ));
    if prepared.batching.is_served {
        progress.say(&format!("server: {} requests, retries aside", prepared.n_requests()));
    }
    let n_judged = if spec.modes.contains(&Mode::Generate) { n_samples * prepared.runs.len() } else { 0 };
    let n_calls_max = prepared.panel.upper_bound_of_calls(n_judged as u64);
    if n_calls_max > 0 {
        progress.say(&format!(
            "judge: at most {n_calls_max} calls, two fixed questions first, then one for each distinct pair of label \
             and answer"
        ));
    }
}

/// Names of a list that are shown, at most.
const N_NAMES_SHOWN: usize = 4;

/// The list, or its beginning and how many more there are.
fn some(names: &[String]) -> String {
    match names.len() {
        n if n > N_NAMES_SHOWN + 1 => {
            format!("{} and {} more", names[..N_NAMES_SHOWN].join(", "), n - N_NAMES_SHOWN)
        }
        _ => names.join(", "),
    }
}

/// What a person should know before anything is asked.
pub(in crate::cli) fn warn(progress: &mut Progress, planned: &PlannedEvaluation) {
    for Task { dataset, .. } in &planned.tasks {
        for warning in dataset.warnings.iter().chain(&dataset.notes) {
            progress.say(&format!("warning: {}: {warning}", dataset.name));
        }
        if let Some(note) = dataset.split_note() {
            progress.say(&format!("note: {}: {note}", dataset.name));
        }
        if dataset.is_training_split {
            progress.say(&format!("warning: {}: `{}` is a training split", dataset.name, dataset.split));
        }
    }
    for warning in planned.comparator_warnings.iter().chain(&planned.description.warnings) {
        progress.say(&format!("warning: {warning}"));
    }
}
