//! `emt eval`.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::adapter_options::AdapterOptions;
use super::data::Places;
use super::judge_options::JudgeOptions;
use super::progress::Progress;
use super::results::{self, ChartOptions, Format, Results};
use super::{environment, exit_code, interrupt};
use crate::dataset::{self, Available, Dataset, OpenRequest};
use crate::domain::{DatasetSpec, Mode, RunSpec, Subject, SubjectPrompt, Trial};
use crate::eval::{
    self, Captions, DatasetWork, EncoderChoice, Ended, EvalRun, OpenRun, OpenedSubjects, Question, SubjectsRequest,
};
use crate::judging::Panel;
use crate::model::Placement;
use crate::model::mllm::RenderedPrompt;
use crate::model::weights::is_embedded;
use crate::prompting;
use crate::record::{self, Manifest, RunFolder, Sitting};

/// Flags of `emt eval`.
#[derive(Args, Debug)]
pub(super) struct EvalArgs {
    /// Checkpoint folder of the model; `embedded`: the miniature that is a part of the program
    #[arg(long, short, value_name = "DIR|embedded")]
    model: PathBuf,
    #[command(flatten)]
    adapters: AdapterOptions,
    /// Folder of the encoder to compare with; `auto`: the one that the checkpoint names; `embedded`: the miniature's;
    /// `none`: no comparison
    #[arg(long, value_name = "DIR|auto|embedded|none", default_value = "auto")]
    encoder: String,
    /// Names of `emt data list`, folders, or NAME=FOLDER, separated by commas; default: what is found of mnist,
    /// cifar10, cifar100, miniimagenet; for the embedded model embedded/mnist, embedded/cifar10, embedded/cifar100
    #[arg(long, value_name = "A,B")]
    datasets: Option<String>,
    #[command(flatten)]
    places: Places,
    /// Split to evaluate; default: the held-out one
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Sheet with other names for the classes of one dataset (CSV with class,name,aliases; or a line a class)
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Evaluate so many samples of each dataset, balanced over its classes; a larger limit goes on with the same run
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Seed of the order of samples
    #[arg(long, value_name = "N")]
    sample_seed: Option<u64>,
    /// Run folder; default: reports/<model>-<identity>. With adapters the runs lie in DIR/base and DIR/<adapter>. The
    /// same command again resumes
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Refuse a folder that exists
    #[arg(long)]
    fresh: bool,
    /// `emt` (the paper's, with the class list), `emt-open` (without), or a file with {noun} and {labels}
    #[arg(long, value_name = "NAME|FILE", default_value = "emt")]
    prompt: String,
    /// The encoder's captions: each dataset's one template, or the mean over its ensemble where it has one
    #[arg(long, value_enum, default_value = "template")]
    captions: CaptionsName,
    /// Chat template over the checkpoint's own: a name such as vicuna_v1, or a jinja file
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
    /// How the model answers: `generate` (free text), `score` (the label of the highest log-probability), or both,
    /// separated by a comma
    #[arg(long, value_name = "A,B", default_value = "generate")]
    modes: String,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = 32)]
    max_new_tokens: usize,
    /// Images in one forward pass; default: what memory allows, at most 32
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// cpu, cuda, cuda:1, metal; auto: the GPU that the binary was built for, else cpu
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// f32, bf16, f16; auto: f32 on a cpu, bf16 on a GPU
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dtype: String,
    /// Datasets that the model was fine-tuned on: an answer from their labels gets the code `leak`
    #[arg(long, value_name = "A,B")]
    tuned_on: Option<String>,
    /// Exit with 2 where a larger share of one subject's trials of a dataset is unscored
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    max_unscored: f64,
    /// What standard output gets
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    judging: JudgeOptions,
    #[command(flatten)]
    charts: ChartOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CaptionsName {
    Template,
    Ensemble,
}

/// Everything that is settled before weights are read.
struct Prepared {
    placement: Placement,
    subjects: OpenedSubjects,
    datasets: Vec<Dataset>,
    questions: Vec<Question>,
    batch_size: usize,
    panel: Panel,
    runs: Vec<PlannedRun>,
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &EvalArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    check_numbers(args)?;
    let prepared = prepare(args)?;
    let mut progress = Progress::new(err, quiet);
    for dataset in &prepared.datasets {
        for warning in &dataset.warnings {
            progress.say(&format!("warning: {}: {warning}", dataset.name));
        }
        if dataset.is_training_split {
            progress.say(&format!("warning: {}: `{}` is a training split", dataset.name, dataset.split));
        }
    }
    for warning in prepared.subjects.warnings() {
        progress.say(&format!("warning: {warning}"));
    }
    let mut open_runs = Vec::with_capacity(prepared.runs.len());
    for PlannedRun { spec, dir } in &prepared.runs {
        let mut environment = sitting(args, prepared.batch_size);
        environment.insert("tower_change".into(), prepared.subjects.tower_change());
        let manifest = Manifest::new(spec.clone(), environment);
        let (folder, recorded) = RunFolder::create_or_resume(dir, manifest, args.fresh)?;
        open_runs.push(OpenRun { folder, recorded });
    }
    let works = plan(args, &prepared, &open_runs);
    announce(&mut progress, &prepared, &works, open_runs.iter().any(|open| !open.recorded.is_empty()));
    interrupt::listen();
    let Prepared { placement, subjects, datasets, questions, batch_size, panel, runs } = prepared;
    let run = EvalRun {
        datasets: &datasets,
        works: &works,
        prompt_name: prompt_name(&runs[0].spec),
        questions: &questions,
        modes: &runs[0].spec.modes,
        max_new_tokens: args.max_new_tokens,
        batch_size,
        panel,
        runs: open_runs,
        is_stopped: &interrupt::is_stopped,
    };
    let ended = eval::run(run, || subjects.load(&placement), &mut progress);
    progress.finish();
    match ended? {
        Ended::Interrupted => {
            let dir = runs[0].dir.display();
            progress.say(&format!("interrupted; the same command goes on where `{dir}` ends"));
            Ok(exit_code::INTERRUPTED)
        }
        Ended::Complete { trials, judge_error } => {
            let finished: Vec<Results> = runs
                .iter()
                .zip(&trials)
                .map(|(run, trials)| Results { dir: &run.dir, run: &run.dir, spec: &run.spec, trials, charts: &args.charts })
                .collect();
            results::write_all(&finished, args.format, quiet, out)?;
            for (run, trials) in runs.iter().zip(&trials) {
                refuse_unscored(args, &run.dir, trials, judge_error.as_deref())?;
            }
            Ok(exit_code::OK)
        }
    }
}

fn check_numbers(args: &EvalArgs) -> Result<()> {
    if args.batch_size == Some(0) || args.max_new_tokens == 0 || args.limit == Some(0) {
        bail!("--batch-size, --max-new-tokens and --limit must be at least 1");
    }
    if !(0.0..=1.0).contains(&args.max_unscored) {
        bail!("--max-unscored is a share from 0 to 1, and is {}", args.max_unscored);
    }
    Ok(())
}

fn prepare(args: &EvalArgs) -> Result<Prepared> {
    let placement = Placement::new(&args.device, &args.dtype)?;
    let datasets = open_datasets(args)?;
    let template = prompting::load(&args.prompt)?;
    let request = SubjectsRequest {
        model: &args.model,
        encoder: match args.encoder.as_str() {
            "auto" => EncoderChoice::Auto,
            "none" => EncoderChoice::None,
            dir => EncoderChoice::Folder(dir.into()),
        },
        template: args.template.as_deref(),
        adapters: &args.adapters.requests()?,
        has_base: args.adapters.has_base(),
        is_merged: args.adapters.merge,
        allows_idle: args.adapters.allow_noop_adapter,
        hub_cache: environment::hub_cache(),
    };
    let subjects = OpenedSubjects::open(&request)?;
    let captions = match args.captions {
        CaptionsName::Template => Captions::Template,
        CaptionsName::Ensemble => Captions::Ensemble,
    };
    let modes = modes(&args.modes)?;
    let (mut specs, mut questions, mut n_tokens_max) = (Vec::new(), Vec::new(), 0);
    for dataset in &datasets {
        let prompt = template.render(&dataset.noun, &dataset.labels)?;
        let rendered = subjects.render(&prompt.text)?;
        let n_new = n_new_positions(args, &modes, &subjects, dataset, &rendered)?;
        n_tokens_max = n_tokens_max.max(rendered.ids.len() + n_new);
        let question = Question { text: prompt.text.clone(), captions: captions.of(dataset) };
        let mut spec = eval::dataset_spec(dataset, &question, subjects.has_encoder());
        spec.prompts.splice(0..0, eval::model_prompts(&prompt, &rendered, &modes));
        specs.push(spec);
        questions.push(question);
    }
    let batch_size = subjects.batch_size(args.batch_size, n_tokens_max, &placement)?;
    let mut spec = RunSpec {
        model: subjects.model_spec(0)?,
        encoder: subjects.encoder_spec(0)?,
        datasets: specs,
        sample_seed: args.sample_seed.unwrap_or(datasets[0].sample_seed),
        modes,
        max_new_tokens: args.max_new_tokens,
        compute_type: placement.compute_type().to_owned(),
        device_kind: placement.device_kind().to_owned(),
        judges: Vec::new(),
        tuned_on: tuned_on(args)?,
    };
    let panel = Panel::new(args.judging.panel_config()?, eval::judged_datasets(&spec)?)?;
    spec.judges = panel.specs();
    let runs = planned_runs(args, &subjects, &spec)?;
    Ok(Prepared { placement, subjects, datasets, questions, batch_size, panel, runs })
}

/// The modes that `--modes` names, in the order of a run.
fn modes(list: &str) -> Result<Vec<Mode>> {
    const KNOWN: [(&str, Mode); 2] = [("generate", Mode::Generate), ("score", Mode::Score)];
    let mut modes = Vec::new();
    for name in list.split(',').map(str::trim) {
        let Some((_, mode)) = KNOWN.iter().find(|(known, _)| *known == name) else {
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
    args: &EvalArgs,
    modes: &[Mode],
    subjects: &OpenedSubjects,
    dataset: &Dataset,
    rendered: &RenderedPrompt,
) -> Result<usize> {
    subjects.check_length(&dataset.name, rendered.ids.len(), args.max_new_tokens)?;
    if !modes.contains(&Mode::Score) {
        return Ok(args.max_new_tokens);
    }
    let labels: Vec<&str> = dataset.labels.names().collect();
    let trie = subjects
        .label_trie(rendered, &labels)
        .with_context(|| format!("the labels of `{}` cannot be scored", dataset.name))?;
    subjects.check_length(&dataset.name, rendered.ids.len(), trie.depth())?;
    Ok(args.max_new_tokens.max(trie.n_nodes()))
}

/// A run of this command, before its folder is opened.
struct PlannedRun {
    spec: RunSpec,
    dir: PathBuf,
}

/// One run without adapters; with them, the base's (unless left out) and one for each.
fn planned_runs(args: &EvalArgs, subjects: &OpenedSubjects, common: &RunSpec) -> Result<Vec<PlannedRun>> {
    let names = subjects.runs();
    let is_alone = names.len() == 1;
    names
        .iter()
        .enumerate()
        .map(|(run, name)| {
            let (model, encoder) = (subjects.model_spec(run)?, subjects.encoder_spec(run)?);
            let spec = RunSpec { model, encoder, ..common.clone() };
            let dir = match &args.out {
                Some(dir) if is_alone => dir.clone(),
                Some(dir) => dir.join(name.unwrap_or("base")),
                None => default_folder(&spec),
            };
            Ok(PlannedRun { spec, dir })
        })
        .collect()
}

fn open_datasets(args: &EvalArgs) -> Result<Vec<Dataset>> {
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let texts: Vec<String> = match &args.datasets {
        Some(list) => list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect(),
        None => default_datasets(is_embedded(&args.model), dataset::available(&catalog, &roots)),
    };
    if texts.is_empty() {
        bail!("no dataset was found; hint: `emt data fetch mnist cifar10 cifar100`, or --data DIR, or --datasets PATH");
    }
    if args.labels.is_some() && texts.len() > 1 {
        bail!("--labels is for one dataset, and --datasets names {}; hint: run them one by one", texts.len());
    }
    let mut names = HashSet::new();
    let mut datasets = Vec::with_capacity(texts.len());
    for text in &texts {
        let request = OpenRequest { text, split: args.split.as_deref(), labels_file: args.labels.as_deref() };
        let dataset = dataset::open(&catalog, &roots, &request)?;
        if !names.insert(dataset.name.clone()) {
            bail!("--datasets names `{}` twice; hint: give one of them a name with NAME=PATH", dataset.name);
        }
        datasets.push(dataset);
    }
    eval::refuse_empty(&datasets)?;
    Ok(datasets)
}

/// The miniature's datasets for the miniature, else what is found of those that the catalog says.
fn default_datasets(is_miniature: bool, available: Vec<Available>) -> Vec<String> {
    let is_wanted = |row: &Available| match is_miniature {
        true => row.is_embedded,
        false => row.is_evaluated_by_default && row.is_found,
    };
    available.into_iter().filter(|row| row.is_default_split && is_wanted(row)).map(|row| row.name).collect()
}

fn tuned_on(args: &EvalArgs) -> Result<BTreeMap<String, crate::domain::LabelSet>> {
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let names = args.tuned_on.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|text| {
            let labels = match catalog.labels_of(text) {
                Ok(labels) => labels.clone(),
                // Not in the catalog: perhaps a folder, whose classes are its folders.
                Err(error) if !Path::new(text).exists() && !text.contains('=') => {
                    return Err(error.context("--tuned-on names a dataset whose labels are not known"));
                }
                Err(_) => {
                    dataset::open(&catalog, &roots, &OpenRequest { text, split: None, labels_file: None })?.labels
                }
            };
            Ok((text.to_owned(), labels))
        })
        .collect()
}

fn prompt_name(spec: &RunSpec) -> &str {
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
    Path::new("reports").join(format!("{}-{}", spec.model.name, &digits[..8.min(digits.len())]))
}

fn sitting(args: &EvalArgs, batch_size: usize) -> serde_json::Map<String, Value> {
    let shown = |path: &Path| Value::from(path.display().to_string());
    let mut paths = serde_json::Map::new();
    paths.insert("model".into(), shown(&args.model));
    paths.insert("encoder".into(), args.encoder.clone().into());
    if !args.adapters.adapters.is_empty() {
        paths.insert("adapters".into(), args.adapters.adapters.clone().into());
    }
    if let Some(data) = &args.places.data {
        paths.insert("data".into(), shown(data));
    }
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut fields =
        record::environment(&Sitting { n_threads, batch_size: Some(batch_size), limit: args.limit, paths });
    fields.insert("command".into(), results::command_line().into());
    fields
}

fn plan(args: &EvalArgs, prepared: &Prepared, open_runs: &[OpenRun]) -> Vec<DatasetWork> {
    let recorded: Vec<HashSet<_>> =
        open_runs.iter().map(|open| open.recorded.iter().map(Trial::key).collect()).collect();
    let spec = &prepared.runs[0].spec;
    let (has_encoder, seed) = (spec.encoder.is_some(), spec.sample_seed);
    prepared
        .datasets
        .iter()
        .map(|dataset| eval::plan(dataset, seed, args.limit, &spec.modes, has_encoder, &recorded, prepared.batch_size))
        .collect()
}

fn announce(progress: &mut Progress, prepared: &Prepared, works: &[DatasetWork], is_resumed: bool) {
    let n_samples: usize = works.iter().map(|work| work.selected.len()).sum();
    let n_recorded: usize = works.iter().map(|work| work.n_recorded).sum();
    let spec = &prepared.runs[0].spec;
    let names: Vec<&str> = prepared.runs.iter().map(|run| run.spec.model.name.as_str()).collect();
    let dirs: Vec<String> = prepared.runs.iter().map(|run| run.dir.display().to_string()).collect();
    progress.say(&format!(
        "{} ({}, {} on {}), batches of {}: {n_samples} images of {} dataset(s){}, into {}",
        names.join(", "),
        spec.model.family,
        spec.compute_type,
        spec.device_kind,
        prepared.batch_size,
        works.len(),
        if is_resumed { format!(", {n_recorded} recorded already") } else { String::new() },
        dirs.join(", ")
    ));
    if spec.encoder.is_none() {
        progress
            .say("warning: without an encoder there is no retention and no comparison with what the model could see");
    }
    let n_judged = if spec.modes.contains(&Mode::Generate) { n_samples * prepared.runs.len() } else { 0 };
    let n_calls_max = prepared.panel.upper_bound_of_calls(n_judged as u64);
    if n_calls_max > 0 {
        progress.say(&format!("judge: at most {n_calls_max} calls, one for each distinct pair of label and answer"));
    }
}

/// The run is complete on disk; may its numbers be trusted?
fn refuse_unscored(args: &EvalArgs, dir: &Path, trials: &[Trial], judge_error: Option<&str>) -> Result<()> {
    let Some(unscored) = eval::largest_unscored_share(trials) else { return Ok(()) };
    if unscored.share > args.max_unscored {
        let why = judge_error.map(|error| format!(" ({error})")).unwrap_or_default();
        bail!(
            "{:.1}% of {} are unscored, more than --max-unscored {:.1}%{why}; the run is \
             complete in `{}`; hint: run the same command again to retry, or `emt judge score {} --out NEW` to judge it \
             anew",
            unscored.share * 100.0,
            results::trials_name(&unscored),
            args.max_unscored * 100.0,
            dir.display(),
            dir.display()
        );
    }
    Ok(())
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Table, Self::Json]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(match self {
            Self::Table => clap::builder::PossibleValue::new("table"),
            Self::Json => clap::builder::PossibleValue::new("json"),
        })
    }
}
