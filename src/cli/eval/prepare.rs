//! From flags to runs that may begin.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::comparator::{self, Comparator};
use super::options::{CaptionsName, EvalOptions, GenerationConfigName};
use crate::chart::words;
use crate::cli::comparison::ADAPTER_TUNED_ON;
use crate::cli::data::Places;
use crate::cli::progress::Progress;
use crate::cli::served_options::{is_address, shown};
use crate::cli::{environment, hub_options, results};
use crate::dataset::{self, Available, Catalog, Dataset, DatasetHub, OpenRequest};
use crate::domain::{Computing, DatasetSpec, LabelSet, Mode, ProbeSpec, RunId, RunSpec};
use crate::eval::{
    self, Batching, Captions, Description, OpenRun, OpenedSubjects, Question, RunDescription, SERVED_BATCH_SIZE,
    SERVER, SampleWork, ServedRequest, ServedSubjects, SubjectsRequest, Task,
};
use crate::judging::Panel;
use crate::model::Placement;
use crate::model::generation_config::GenerationChoice;
use crate::model::mllm::RenderedPrompt;
use crate::model::preprocess::PixelLimits;
use crate::model::weights::{Hub, is_embedded};
use crate::prompting::{self, PromptTemplate};
use crate::record::{self, FeatureCache, Manifest, Opened, Resumption, RunFolder, Sitting};

/// Everything that is settled before weights are read.
pub(in crate::cli) struct Prepared {
    pub(in crate::cli) placement: Placement,
    pub(in crate::cli) subjects: Box<dyn eval::Opened>,
    /// What is known of them.
    pub(in crate::cli) description: Description,
    /// The datasets with what is asked of them.
    pub(in crate::cli) tasks: Vec<Task>,
    /// What a person should know of what the model is compared with.
    comparator_warnings: Vec<String>,
    pub(in crate::cli) batching: Batching,
    pub(in crate::cli) panel: Panel,
    pub(in crate::cli) runs: Vec<PlannedRun>,
    /// Which commit each name on the hub meant.
    pub(in crate::cli) hub_commits: Map<String, Value>,
    /// Where towers' features are kept.
    pub(in crate::cli) feature_cache: Option<Arc<FeatureCache>>,
}

impl Prepared {
    /// Samples that a server is asked about again.
    pub(in crate::cli) fn n_repeats(&self, args: &EvalOptions) -> usize {
        if self.batching.is_served { args.served.n_repeats() } else { 0 }
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
    let (texts, datasets, mut hub_commits) = open_datasets(model, args, quiet, err)?;
    let template = prompting::load(&args.prompt)?;
    let hub = args.hub.hub(quiet, err)?;
    let modes = modes(&args.modes)?;
    let sample_seed = args.sample_seed.unwrap_or(datasets[0].sample_seed);
    let wanted =
        Wanted { model, args, texts: &texts, datasets, sample_seed, template: &template, modes: &modes, hub: &hub };
    let asked = match is_address(model) {
        true => ask_server(wanted)?,
        false => ask_checkpoint(wanted, &placement)?,
    };
    let Asked { subjects, mut specs, tasks, comparator_warnings, probe, batching } = asked;
    let computing = match batching.is_served {
        true => Computing::Served,
        false => {
            Computing::Local { compute_type: placement.compute_type(), device_kind: placement.device_kind().to_owned() }
        }
    };
    let description = subjects.describe()?;
    let first = description.runs.first().context("there is no run to make")?;
    let mut spec = RunSpec {
        model: first.model.clone(),
        encoder: first.encoder.clone(),
        probe,
        datasets: specs.first().cloned().unwrap_or_default(),
        sample_seed,
        modes,
        max_new_tokens: args.max_new_tokens,
        computing,
        judges: Vec::new(),
        tuned_on: tuned_on(args.tuned_on.as_deref(), &args.places)?,
    };
    let panel = Panel::new(args.judging.panel_config()?, eval::judged_datasets(&spec)?)?;
    spec.judges = panel.specs();
    let runs = planned_runs(out, subjects.as_ref(), &description, &spec, &mut specs)?;
    hub_commits.extend(hub_options::found(&hub));
    Ok(Prepared {
        placement,
        subjects,
        description,
        tasks,
        comparator_warnings,
        batching,
        panel,
        runs,
        hub_commits,
        feature_cache: if batching.is_served { None } else { args.feature_cache.open()? },
    })
}

/// Subjects with what they are asked.
struct Asked {
    subjects: Box<dyn eval::Opened>,
    /// By run.
    specs: Vec<Vec<DatasetSpec>>,
    tasks: Vec<Task>,
    comparator_warnings: Vec<String>,
    probe: Option<ProbeSpec>,
    batching: Batching,
}

/// What is asked for, before any of it is opened.
struct Wanted<'a> {
    model: &'a Path,
    args: &'a EvalOptions,
    /// What a person typed of the datasets.
    texts: &'a [String],
    datasets: Vec<Dataset>,
    sample_seed: u64,
    template: &'a PromptTemplate,
    modes: &'a [Mode],
    hub: &'a Hub<'a>,
}

fn captions(args: &EvalOptions) -> Captions {
    match args.captions {
        CaptionsName::Template => Captions::Template,
        CaptionsName::Ensemble => Captions::Ensemble,
    }
}

fn ask_checkpoint(wanted: Wanted<'_>, placement: &Placement) -> Result<Asked> {
    let Wanted { model, args, texts, datasets, sample_seed, template, modes, hub } = wanted;
    if args.adapters.merge && placement.rounds_to_int8 {
        bail!(
            "--merge would round to 8 bits what was rounded before; hint: without it updates are computed beside, or leave `+int8` out of --dtype"
        );
    }
    let request = SubjectsRequest {
        model,
        encoder: args.comparator.encoder(&args.encoder)?,
        is_zero_shot: args.comparator.may_be_zero_shot(),
        template: args.template.as_deref(),
        pixels: PixelLimits { min_pixels: args.min_pixels, max_pixels: args.max_pixels },
        generation: match args.generation_config {
            GenerationConfigName::Checkpoint => GenerationChoice::Checkpoint,
            GenerationConfigName::Ignore => GenerationChoice::Ignored,
        },
        adapters: &args.adapters.requests()?,
        has_base: args.adapters.has_base(),
        is_merged: args.adapters.merge,
        allows_idle: args.adapters.allow_noop_adapter,
        hashes: environment::hash_memory(),
        hub,
    };
    let subjects = OpenedSubjects::open(&request)?;
    let Comparator { probes, warnings } = comparator::choose(args, &subjects, texts, &datasets, sample_seed)?;
    let probe = comparator::probe_spec(&subjects, RunId::new(0), &datasets, &probes)?;
    let mut specs: Vec<Vec<DatasetSpec>> = vec![Vec::new(); subjects.n_runs()];
    let (mut tasks, mut n_tokens_max) = (Vec::with_capacity(datasets.len()), 0);
    for (dataset, shots) in datasets.into_iter().zip(probes) {
        let prompt = template.render(&dataset.noun, &dataset.labels)?;
        let question = Question { prompt: prompt.clone(), captions: captions(args).of(&dataset) };
        let spec = eval::dataset_spec(&dataset, &question, subjects.has_encoder(), shots.as_ref());
        for (run, specs) in RunId::all(specs.len()).zip(&mut specs) {
            let rendered = subjects.render(run, &prompt.text)?;
            let n_new = n_new_positions(args, modes, &subjects, run, &dataset, &rendered)?;
            n_tokens_max = n_tokens_max.max(rendered.ids.len() + n_new);
            let mut spec = spec.clone();
            spec.prompts.splice(0..0, eval::model_prompts(&prompt, &rendered, modes));
            specs.push(spec);
        }
        tasks.push(Task::new(dataset, question, shots));
    }
    let size = subjects.batch_size(args.batch_size, n_tokens_max, placement)?;
    let batching = Batching { size, is_served: false };
    Ok(Asked { subjects: Box::new(subjects), specs, tasks, comparator_warnings: warnings, probe, batching })
}

/// The server renders prompts and knows its own limits; what does not fit, it refuses.
fn ask_server(wanted: Wanted<'_>) -> Result<Asked> {
    let Wanted { model, args, datasets, template, modes, hub, .. } = wanted;
    let encoder = args.comparator.encoder(&args.encoder)?;
    let server = args.served.request(model, args, modes.contains(&Mode::Score))?;
    let subjects = ServedSubjects::open(ServedRequest { server, encoder, hub })?;
    let warnings = args.comparator.of_served(subjects.has_encoder())?;
    let (mut specs, mut tasks) = (Vec::new(), Vec::with_capacity(datasets.len()));
    for dataset in datasets {
        let prompt = template.render(&dataset.noun, &dataset.labels)?;
        let question = Question { prompt: prompt.clone(), captions: captions(args).of(&dataset) };
        let mut spec = eval::dataset_spec(&dataset, &question, subjects.has_encoder(), None);
        spec.prompts.splice(0..0, eval::served_prompts(&prompt, modes));
        specs.push(spec);
        tasks.push(Task::new(dataset, question, None));
    }
    let batching = Batching { size: args.batch_size.unwrap_or(SERVED_BATCH_SIZE), is_served: true };
    let specs = vec![specs; subjects.n_runs()];
    Ok(Asked { subjects: Box::new(subjects), specs, tasks, comparator_warnings: warnings, probe: None, batching })
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

/// Positions that answers to a dataset's prompt need after it, once they are known to fit.
fn n_new_positions(
    args: &EvalOptions,
    modes: &[Mode],
    subjects: &OpenedSubjects,
    run: RunId,
    dataset: &Dataset,
    rendered: &RenderedPrompt,
) -> Result<usize> {
    subjects.check_length(run, &dataset.name, rendered.ids.len(), args.max_new_tokens)?;
    if !modes.contains(&Mode::Score) {
        return Ok(args.max_new_tokens);
    }
    let labels: Vec<&str> = dataset.labels.names().collect();
    let trie = subjects
        .label_trie(run, rendered, &labels)
        .with_context(|| format!("the labels of `{}` cannot be scored", dataset.name))?;
    subjects.check_length(run, &dataset.name, rendered.ids.len(), trie.depth())?;
    Ok(args.max_new_tokens.max(trie.n_nodes()))
}

/// A run of this command, before its folder is opened.
pub(in crate::cli) struct PlannedRun {
    pub(in crate::cli) spec: RunSpec,
    pub(in crate::cli) dir: PathBuf,
}

/// One run without adapters; with them, the base's (unless left out) and one for each.
fn planned_runs(
    out: Option<&Path>,
    subjects: &dyn eval::Opened,
    description: &Description,
    common: &RunSpec,
    datasets: &mut [Vec<DatasetSpec>],
) -> Result<Vec<PlannedRun>> {
    let is_alone = description.runs.len() == 1;
    RunId::all(description.runs.len())
        .zip(&description.runs)
        .map(|(run, RunDescription { name, model, encoder, .. })| {
            let datasets = datasets.get_mut(run.place()).map(std::mem::take).unwrap_or_default();
            let mut spec = RunSpec { model: model.clone(), encoder: encoder.clone(), datasets, ..common.clone() };
            if let Some(probe) = &mut spec.probe {
                probe.tower = subjects.probe_tower(run)?;
            }
            let dir = match out {
                Some(dir) if is_alone => dir.to_owned(),
                Some(dir) => dir.join(name.as_deref().unwrap_or("base")),
                None => default_folder(&spec),
            };
            Ok(PlannedRun { spec, dir })
        })
        .collect()
}

/// What to open of each dataset, the datasets, and which commit each name on the hub meant.
type OpenedDatasets = (Vec<String>, Vec<Dataset>, Map<String, Value>);

fn open_datasets(model: &Path, args: &EvalOptions, quiet: bool, err: &mut dyn Write) -> Result<OpenedDatasets> {
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let texts: Vec<String> = match &args.datasets {
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
    let texts = texts.into_iter().map(|text| found_text(&catalog, &hub, text, args.split.as_deref()));
    let texts = texts.collect::<Result<Vec<_>>>()?;
    let mut names = HashSet::new();
    let mut datasets = Vec::with_capacity(texts.len());
    for text in &texts {
        let request = args.reading.request(text, args.split.as_deref(), args.labels.as_deref());
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

fn default_folder(spec: &RunSpec) -> PathBuf {
    let identity = record::identity(spec);
    let digits = identity.rsplit(':').next().unwrap_or_default();
    // A repository's name has a slash, and is one folder.
    let name = spec.model.name.replace('/', "--");
    Path::new("reports").join(format!("{name}-{}", &digits[..8.min(digits.len())]))
}

fn sitting(model: &Path, args: &EvalOptions, batch_size: usize) -> serde_json::Map<String, Value> {
    let mut paths = serde_json::Map::new();
    paths.insert("model".into(), shown(model).into());
    paths.insert("encoder".into(), args.encoder.clone().into());
    if !args.adapters.adapters.is_empty() {
        paths.insert("adapters".into(), args.adapters.adapters.clone().into());
    }
    if let Some(data) = &args.places.data {
        paths.insert("data".into(), data.display().to_string().into());
    }
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut fields =
        record::environment(&Sitting { n_threads, batch_size: Some(batch_size), limit: args.limit, paths });
    fields.insert("kernels".into(), crate::model::kernels_name().into());
    fields.insert("command".into(), results::command_line().into());
    fields
}

pub(in crate::cli) fn plan(args: &EvalOptions, prepared: &mut Prepared, open_runs: &[OpenRun]) {
    let recorded: Vec<HashSet<_>> = open_runs.iter().map(|open| eval::settled_keys(&open.recorded)).collect();
    let spec = &prepared.runs[0].spec;
    let plan = |dataset: &Dataset| {
        let comparator = spec.comparator(&dataset.name);
        eval::plan(dataset, spec.sample_seed, args.limit, &spec.modes, comparator, &recorded, prepared.batching)
    };
    for task in &mut prepared.tasks {
        task.work = plan(&task.dataset);
    }
}

pub(in crate::cli) fn announce(progress: &mut Progress, prepared: &Prepared, open_runs: &[OpenRun]) {
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
        progress.say(&format!("server: {} requests, retries aside", n_requests(prepared)));
    }
    let n_judged = if spec.modes.contains(&Mode::Generate) { n_samples * prepared.runs.len() } else { 0 };
    let n_calls_max = prepared.panel.upper_bound_of_calls(n_judged as u64);
    if n_calls_max > 0 {
        progress.say(&format!("judge: at most {n_calls_max} calls, one for each distinct pair of label and answer, and one fixed question first"));
    }
}

/// Requests to a server that what remains needs.
fn n_requests(prepared: &Prepared) -> usize {
    let of_task = |Task { dataset, work, .. }: &Task| -> usize {
        let n_scoring = |run| prepared.subjects.n_requests_per_scoring(run, dataset.labels.len());
        let of_sample =
            |sample: &SampleWork| sample.generate.iter().count() + sample.score.iter().map(n_scoring).sum::<usize>();
        work.remaining.iter().map(of_sample).sum()
    };
    prepared.tasks.iter().map(of_task).sum()
}

/// Opens the folders of all runs, new or to go on with.
pub(in crate::cli) fn open_runs(model: &Path, args: &EvalOptions, prepared: &Prepared) -> Result<Vec<OpenRun>> {
    let mut open_runs = Vec::with_capacity(prepared.runs.len());
    for (PlannedRun { spec, dir }, described) in prepared.runs.iter().zip(&prepared.description.runs) {
        let mut environment = sitting(model, args, prepared.batching.size);
        environment.extend(described.environment.clone());
        if !prepared.hub_commits.is_empty() {
            environment.insert("hub".into(), prepared.hub_commits.clone().into());
        }
        if let Some(server) = described.environment.get(SERVER) {
            refuse_another_model(dir, spec, server)?;
        }
        if !described.tuned_on.is_empty() {
            environment.insert(ADAPTER_TUNED_ON.into(), described.tuned_on.clone().into());
        }
        let manifest = Manifest::new(spec.clone(), environment);
        let (folder, recorded) = RunFolder::create_or_resume(dir, manifest, args.fresh)?;
        open_runs.push(OpenRun { folder, recorded });
    }
    Ok(open_runs)
}

/// How far the log-probabilities of one answer of one model may lie apart: what else a server does at the time changes their
/// digits, an update of the weights changes more.
const LOGPROB_TOLERANCE: f64 = 0.1;

/// Refuses to go on with a run where another model answers under the name by now: its probe has the same text, and other
/// log-probabilities.
fn refuse_another_model(dir: &Path, spec: &RunSpec, server: &Value) -> Result<()> {
    let Ok(recorded) = record::read_manifest(dir) else { return Ok(()) };
    // Any other difference is told field by field.
    if !matches!(record::resumption(&recorded, spec), Resumption::Same | Resumption::Grows(_)) {
        return Ok(());
    }
    let logprobs = |server: &Value| -> Option<Vec<f64>> {
        Some(server["probe"]["logprobs"].as_array()?.iter().filter_map(Value::as_f64).collect())
    };
    let before = recorded.environment.get(SERVER).and_then(logprobs);
    let (Some(before), Some(now)) = (before, logprobs(server)) else { return Ok(()) };
    let apart = before.iter().zip(&now).map(|(before, now)| (before - now).abs()).fold(0.0, f64::max);
    if apart > LOGPROB_TOLERANCE || before.len() != now.len() {
        bail!(
            "another model answers under this name than when `{}` began: the log-probabilities of its answer to the probe are \
             up to {apart:.2} apart; hint: give another folder with --out, or serve the first model again",
            dir.display()
        );
    }
    Ok(())
}

/// What a person should know before anything is asked.
pub(in crate::cli) fn warn(progress: &mut Progress, prepared: &Prepared) {
    for Task { dataset, .. } in &prepared.tasks {
        for warning in dataset.warnings.iter().chain(&dataset.notes) {
            progress.say(&format!("warning: {}: {warning}", dataset.name));
        }
        if dataset.is_training_split {
            progress.say(&format!("warning: {}: `{}` is a training split", dataset.name, dataset.split));
        }
    }
    for warning in &prepared.comparator_warnings {
        progress.say(&format!("warning: {warning}"));
    }
    for warning in &prepared.description.warnings {
        progress.say(&format!("warning: {warning}"));
    }
}
