//! From flags to runs that may begin.

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::comparator::{self, Comparator};
use super::options::{CaptionsName, EvalOptions, GenerationConfigName};
use crate::chart::words;
use crate::cli::progress::Progress;
use crate::cli::served_options::{is_address, shown};
use crate::cli::sources::{self, found};
use crate::cli::{environment, hub_options, recorded_command, results, tuned_on};
use crate::dataset::{self, Available, Dataset};
use crate::domain::{DatasetSpec, Mode, ProbeSpec, RunSpec, Subject, SubjectPrompt};
use crate::eval::{
    self, AnySubjects, Batching, Captions, DatasetWork, OpenRun, OpenedSubjects, Question, SERVED_BATCH_SIZE,
    SampleWork, ServedRequest, ServedSubjects, Shots, SubjectsRequest,
};
use crate::judging::Panel;
use crate::model::Placement;
use crate::model::generation_config::GenerationChoice;
use crate::model::mllm::RenderedPrompt;
use crate::model::preprocess::PixelLimits;
use crate::model::scoring;
use crate::model::weights::{Hub, is_embedded};
use crate::prompting::{self, PromptTemplate};
use crate::record::{self, FeatureCache, Manifest, Opened, Resumption, RunFolder, Sitting};

/// Everything that is settled before weights are read.
pub(in crate::cli) struct Prepared {
    pub(in crate::cli) placement: Placement,
    pub(in crate::cli) subjects: AnySubjects,
    pub(in crate::cli) datasets: Vec<Dataset>,
    pub(in crate::cli) questions: Vec<Question>,
    /// By dataset, the shots of its probe.
    pub(in crate::cli) probes: Vec<Option<Shots>>,
    /// What a person should know of what the model is compared with.
    comparator_warnings: Vec<String>,
    pub(in crate::cli) batching: Batching,
    pub(in crate::cli) panel: Panel,
    pub(in crate::cli) runs: Vec<PlannedRun>,
    /// What the runs are said to be fine-tuned on.
    pub(in crate::cli) tuned_on: tuned_on::Planned,
    /// Which commit each name on the hub meant.
    pub(in crate::cli) hub_commits: Map<String, Value>,
    /// By dataset, how it was opened.
    sources: Map<String, Value>,
    /// Where towers' features are kept.
    pub(in crate::cli) feature_cache: Option<Arc<FeatureCache>>,
}

impl Prepared {
    /// Samples that a server is asked about again.
    pub(in crate::cli) fn n_repeats(&self, args: &EvalOptions) -> usize {
        if self.batching.is_served { args.served.n_repeats() } else { 0 }
    }

    /// The datasets that a person named as those that the model of `run` was fine-tuned on.
    pub(in crate::cli) fn said_tuned_on(&self, run: usize) -> BTreeSet<String> {
        self.tuned_on.said(run)
    }

    /// The datasets that the model of `run` was fine-tuned on: what a person said, else what its adapter says.
    pub(in crate::cli) fn tuned_on(&self, run: usize) -> BTreeSet<String> {
        self.tuned_on.of_run(run, self.subjects.provenance(run))
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
    let OpenedDatasets { texts, datasets, mut hub_commits, sources } = open_datasets(model, args, quiet, err)?;
    let template = prompting::load(&args.prompt)?;
    let hub = args.hub.hub(quiet, err)?;
    let modes = modes(&args.modes)?;
    let sample_seed = args.sample_seed.unwrap_or(datasets[0].sample_seed);
    let wanted = Wanted {
        model,
        args,
        texts: &texts,
        datasets: &datasets,
        sample_seed,
        template: &template,
        modes: &modes,
        hub: &hub,
    };
    let asked = match is_address(model) {
        true => ask_server(&wanted)?,
        false => ask_checkpoint(&wanted, &placement)?,
    };
    let Asked { subjects, mut specs, questions, comparator, probe, batching } = asked;
    let (compute_type, device_kind) = match batching.is_served {
        true => (SERVED.to_owned(), SERVED.to_owned()),
        false => (placement.compute_type(), placement.device_kind().to_owned()),
    };
    let tuned_on = planned_tuned_on(args, out, &subjects)?;
    let mut spec = RunSpec {
        model: subjects.model_spec(0)?,
        encoder: subjects.encoder_spec(0)?,
        probe,
        datasets: specs.first().cloned().unwrap_or_default(),
        sample_seed,
        label_scoring_version: scoring::version_in(&modes),
        modes,
        max_new_tokens: args.max_new_tokens,
        compute_type,
        device_kind,
        judges: Vec::new(),
        tuned_on: tuned_on.of_all.clone(),
    };
    let panel = Panel::new(args.judging.panel_config()?, eval::judged_datasets(&spec)?)?;
    spec.judges = panel.specs();
    let runs = planned_runs(out, &subjects, &spec, &mut specs)?;
    hub_commits.extend(hub_options::found(&hub));
    Ok(Prepared {
        placement,
        subjects,
        datasets,
        questions,
        probes: comparator.probes,
        comparator_warnings: comparator.warnings,
        batching,
        panel,
        runs,
        tuned_on,
        hub_commits,
        sources,
        feature_cache: if batching.is_served { None } else { args.feature_cache.open()? },
    })
}

/// Subjects with what they are asked.
struct Asked {
    subjects: AnySubjects,
    /// By run.
    specs: Vec<Vec<DatasetSpec>>,
    questions: Vec<Question>,
    comparator: Comparator,
    probe: Option<ProbeSpec>,
    batching: Batching,
}

/// What is asked for, before any of it is opened.
struct Wanted<'a> {
    model: &'a Path,
    args: &'a EvalOptions,
    /// What a person typed of the datasets.
    texts: &'a [String],
    datasets: &'a [Dataset],
    sample_seed: u64,
    template: &'a PromptTemplate,
    modes: &'a [Mode],
    hub: &'a Hub<'a>,
}

/// What a server tells neither of its numbers nor of its device.
const SERVED: &str = "served";

fn captions(args: &EvalOptions) -> Captions {
    match args.captions {
        CaptionsName::Template => Captions::Template,
        CaptionsName::Ensemble => Captions::Ensemble,
    }
}

fn ask_checkpoint(wanted: &Wanted<'_>, placement: &Placement) -> Result<Asked> {
    let Wanted { model, args, texts, datasets, sample_seed, template, modes, hub } = *wanted;
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
    let comparator = comparator::choose(args, &subjects, texts, datasets, sample_seed)?;
    let n_runs = subjects.runs().len();
    let mut specs: Vec<Vec<DatasetSpec>> = vec![Vec::new(); n_runs];
    let (mut questions, mut n_tokens_max) = (Vec::new(), 0);
    for (dataset, shots) in datasets.iter().zip(&comparator.probes) {
        let prompt = template.render(&dataset.noun, &dataset.labels)?;
        let question = Question { text: prompt.text.clone(), captions: captions(args).of(dataset) };
        let spec = eval::dataset_spec(dataset, &question, subjects.has_encoder(), shots.as_ref());
        for (run, specs) in specs.iter_mut().enumerate() {
            let rendered = subjects.render(run, &prompt.text)?;
            let n_new = n_new_positions(args, modes, &subjects, run, dataset, &rendered)?;
            n_tokens_max = n_tokens_max.max(rendered.ids.len() + n_new);
            let mut spec = spec.clone();
            spec.prompts.splice(0..0, eval::model_prompts(&prompt, &rendered, modes));
            specs.push(spec);
        }
        questions.push(question);
    }
    let size = subjects.batch_size(args.batch_size, n_tokens_max, placement)?;
    let batching = Batching { size, is_served: false };
    let probe = comparator::probe_spec(&subjects, 0, datasets, &comparator.probes)?;
    Ok(Asked { subjects: AnySubjects::Local(subjects), specs, questions, comparator, probe, batching })
}

/// The server renders prompts and knows its own limits; what does not fit, it refuses.
fn ask_server(wanted: &Wanted<'_>) -> Result<Asked> {
    let Wanted { model, args, datasets, template, modes, hub, .. } = *wanted;
    let encoder = args.comparator.encoder(&args.encoder)?;
    let server = args.served.request(model, args, modes.contains(&Mode::Score))?;
    let subjects = ServedSubjects::open(ServedRequest { server, encoder, hub })?;
    let comparator = args.comparator.of_served(subjects.has_encoder(), datasets.len())?;
    let (mut specs, mut questions) = (Vec::new(), Vec::new());
    for dataset in datasets {
        let prompt = template.render(&dataset.noun, &dataset.labels)?;
        let question = Question { text: prompt.text.clone(), captions: captions(args).of(dataset) };
        let mut spec = eval::dataset_spec(dataset, &question, subjects.has_encoder(), None);
        spec.prompts.splice(0..0, eval::served_prompts(&prompt, modes));
        specs.push(spec);
        questions.push(question);
    }
    let batching = Batching { size: args.batch_size.unwrap_or(SERVED_BATCH_SIZE), is_served: true };
    let specs = vec![specs; subjects.runs().len()];
    Ok(Asked { subjects: AnySubjects::Served(subjects), specs, questions, comparator, probe: None, batching })
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
    run: usize,
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
    subjects: &AnySubjects,
    common: &RunSpec,
    datasets: &mut [Vec<DatasetSpec>],
) -> Result<Vec<PlannedRun>> {
    let names = subjects.runs();
    let is_alone = names.len() == 1;
    names
        .iter()
        .enumerate()
        .map(|(run, name)| {
            let (model, encoder) = (subjects.model_spec(run)?, subjects.encoder_spec(run)?);
            let datasets = datasets.get_mut(run).map(std::mem::take).unwrap_or_default();
            let mut spec = RunSpec { model, encoder, datasets, ..common.clone() };
            if let Some(probe) = &mut spec.probe {
                probe.tower = subjects.probe_tower(run)?;
            }
            let dir = match out {
                Some(dir) if is_alone => dir.to_owned(),
                Some(dir) => dir.join(name.as_deref().unwrap_or(BASE_NAME)),
                None => default_folder(&spec),
            };
            Ok(PlannedRun { spec, dir })
        })
        .collect()
}

struct OpenedDatasets {
    /// What to open of each dataset.
    texts: Vec<String>,
    datasets: Vec<Dataset>,
    /// Which commit each name on the hub meant.
    hub_commits: Map<String, Value>,
    /// By dataset, how it was opened.
    sources: Map<String, Value>,
}

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
    let mut names = HashSet::new();
    let (mut texts_found, mut datasets, mut sources) = (Vec::new(), Vec::new(), Map::new());
    for given in &texts {
        let found = found(&catalog, &hub, given, args.split.as_deref())?;
        let request = args.reading.request(given, &found, args.labels.as_deref());
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

/// What the run without an adapter is called beside those of adapters.
const BASE_NAME: &str = "base";

fn run_names(subjects: &AnySubjects) -> Vec<String> {
    subjects.runs().into_iter().map(|name| name.unwrap_or_else(|| BASE_NAME.to_owned())).collect()
}

/// Reads `--tuned-on` for the runs of this command. A run alone may also be named as its folder is.
fn planned_tuned_on(args: &EvalOptions, out: Option<&Path>, subjects: &AnySubjects) -> Result<tuned_on::Planned> {
    let mut names = run_names(subjects);
    if let ([name], Some(dir)) = (names.as_mut_slice(), out) {
        let folder = results::name_of(dir);
        if args.tuned_on.as_deref().is_some_and(|list| !list.contains(&format!("{name}:"))) {
            *name = folder;
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    tuned_on::Planned::new(args.tuned_on.as_deref(), &names, &args.places)
}

pub(in crate::cli) fn prompt_name(spec: &RunSpec) -> &str {
    let of_model = |dataset: &'_ DatasetSpec| -> Option<usize> {
        dataset.prompts.iter().position(|prompt: &SubjectPrompt| prompt.subject == Subject::Model)
    };
    spec.datasets
        .iter()
        .find_map(|dataset| of_model(dataset).map(|index| dataset.prompts[index].prompt.as_str()))
        .unwrap_or("emt")
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
    fields.extend(recorded_command::directory().map(|dir| (recorded_command::DIRECTORY.to_owned(), dir)));
    fields
}

pub(in crate::cli) fn plan(args: &EvalOptions, prepared: &Prepared, open_runs: &[OpenRun]) -> Vec<DatasetWork> {
    let recorded: Vec<HashSet<_>> = open_runs.iter().map(|open| eval::settled_keys(&open.recorded)).collect();
    let spec = &prepared.runs[0].spec;
    let plan = |dataset: &Dataset| {
        let comparator = spec.comparator(&dataset.name);
        eval::plan(dataset, spec.sample_seed, args.limit, &spec.modes, comparator, &recorded, prepared.batching)
    };
    prepared.datasets.iter().map(plan).collect()
}

pub(in crate::cli) fn announce(
    progress: &mut Progress,
    prepared: &Prepared,
    works: &[DatasetWork],
    open_runs: &[OpenRun],
) {
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
    let n_samples: usize = works.iter().map(|work| work.selected.len()).sum();
    let n_recorded: usize = works.iter().map(|work| work.n_recorded).sum();
    let spec = &prepared.runs[0].spec;
    let names: Vec<&str> = prepared.runs.iter().map(|run| run.spec.model.name.as_str()).collect();
    let dirs: Vec<String> = prepared.runs.iter().map(|run| run.dir.display().to_string()).collect();
    progress.say(&format!(
        "{} ({}), batches of {}: {n_samples} images of {} dataset(s){}, into {}",
        names.join(", "),
        words::how_run(&spec.model.family, &spec.compute_type, &spec.device_kind),
        prepared.batching.size,
        works.len(),
        if is_resumed { format!(", {n_recorded} recorded already") } else { String::new() },
        dirs.join(", ")
    ));
    if prepared.batching.is_served {
        progress.say(&format!("server: {} requests, retries aside", n_requests(prepared, works)));
    }
    let n_judged = if spec.modes.contains(&Mode::Generate) { n_samples * prepared.runs.len() } else { 0 };
    let n_calls_max = prepared.panel.upper_bound_of_calls(n_judged as u64);
    if n_calls_max > 0 {
        progress.say(&format!("judge: at most {n_calls_max} calls, one for each distinct pair of label and answer, and two fixed questions first"));
    }
}

/// Requests to a server that `works` need.
fn n_requests(prepared: &Prepared, works: &[DatasetWork]) -> usize {
    let of_dataset = |(dataset, work): (&Dataset, &DatasetWork)| -> usize {
        let n_scoring = |run| prepared.subjects.n_requests_per_scoring(run, dataset.labels.len());
        let of_sample =
            |sample: &SampleWork| sample.generate.iter().count() + sample.score.iter().map(n_scoring).sum::<usize>();
        work.remaining.iter().map(of_sample).sum()
    };
    prepared.datasets.iter().zip(works).map(of_dataset).sum()
}

/// Opens the folders of all runs, new or to go on with.
pub(in crate::cli) fn open_runs(model: &Path, args: &EvalOptions, prepared: &Prepared) -> Result<Vec<OpenRun>> {
    let mut open_runs = Vec::with_capacity(prepared.runs.len());
    for (run, PlannedRun { spec, dir }) in prepared.runs.iter().enumerate() {
        let mut environment = sitting(model, args, prepared.batching.size);
        environment.insert("tower_change".into(), prepared.subjects.tower_change());
        if let Some(layers) = prepared.subjects.tower_change_by_layer() {
            environment.insert("tower_change_by_layer".into(), layers);
        }
        if !prepared.hub_commits.is_empty() {
            environment.insert("hub".into(), prepared.hub_commits.clone().into());
        }
        if !prepared.sources.is_empty() {
            environment.insert(sources::KEY.into(), prepared.sources.clone().into());
        }
        if let Some(version) = prepared.subjects.transformers_version(run) {
            environment.insert("transformers_version".into(), version.into());
        }
        let warnings = prepared.subjects.warnings_of(run);
        if !warnings.is_empty() {
            environment.insert("warnings".into(), warnings.into());
        }
        if let Some(server) = prepared.subjects.server(run) {
            refuse_another_model(dir, spec, &server)?;
            environment.insert(SERVER.into(), server);
        }
        environment.extend(prepared.tuned_on.environment(run, prepared.subjects.provenance(run), &args.places)?);
        let manifest = Manifest::new(spec.clone(), environment);
        let (folder, recorded) = RunFolder::create_or_resume(dir, manifest, args.fresh)?;
        open_runs.push(OpenRun { folder, recorded });
    }
    Ok(open_runs)
}

/// The key of `run.json`'s environment under which a served model's server stands.
pub(in crate::cli) const SERVER: &str = "server";

/// How far the log-probabilities of one answer of one model may lie apart: what else a server does at the time changes their
/// digits, an update of the weights changes more.
pub(in crate::cli) const LOGPROB_TOLERANCE: f64 = 0.1;

/// The log-probabilities of a served model's answer to the probe, where its server tells them.
pub(in crate::cli) fn probe_logprobs(server: &Value) -> Option<Vec<f64>> {
    Some(server["probe"]["logprobs"].as_array()?.iter().filter_map(Value::as_f64).collect())
}

/// How far two answers' log-probabilities lie apart at most; of answers of two lengths, infinitely far.
pub(in crate::cli) fn logprobs_apart(before: &[f64], now: &[f64]) -> f64 {
    if before.len() != now.len() {
        return f64::INFINITY;
    }
    before.iter().zip(now).map(|(before, now)| (before - now).abs()).fold(0.0, f64::max)
}

/// Refuses to go on with a run where another model answers under the name by now: its probe has the same text, and other
/// log-probabilities.
fn refuse_another_model(dir: &Path, spec: &RunSpec, server: &Value) -> Result<()> {
    let Ok(recorded) = record::read_manifest(dir) else { return Ok(()) };
    // Any other difference is told field by field.
    if !matches!(record::resumption(&recorded, spec), Resumption::Same | Resumption::Grows(_)) {
        return Ok(());
    }
    let before = recorded.environment.get(SERVER).and_then(probe_logprobs);
    let (Some(before), Some(now)) = (before, probe_logprobs(server)) else { return Ok(()) };
    let apart = logprobs_apart(&before, &now);
    if apart > LOGPROB_TOLERANCE {
        let told = if apart.is_finite() { format!("up to {apart:.2} apart") } else { "of another number".to_owned() };
        bail!(
            "another model answers under this name than when `{}` began: the log-probabilities of its answer to the probe are \
             {told}; hint: give another folder with --out, or serve the first model again",
            dir.display()
        );
    }
    Ok(())
}

/// What a person should know before anything is asked.
pub(in crate::cli) fn warn(progress: &mut Progress, prepared: &Prepared) {
    for dataset in &prepared.datasets {
        for warning in &dataset.warnings {
            progress.say(&format!("warning: {}: {warning}", dataset.name));
        }
        for note in dataset.split_note().iter().chain(&dataset.notes) {
            progress.say(&format!("note: {}: {note}", dataset.name));
        }
        if dataset.is_training_split {
            progress.say(&format!("warning: {}: `{}` is a training split", dataset.name, dataset.split));
        }
    }
    for warning in &prepared.comparator_warnings {
        progress.say(&format!("warning: {warning}"));
    }
    for warning in prepared.subjects.warnings() {
        progress.say(&format!("warning: {warning}"));
    }
}
