//! An evaluation: models and their encoder are asked about images, judged, and recorded.

mod comparator;
mod folders;
mod respondents;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

pub use self::comparator::{ComparatorChoice, ComparatorRequest};
pub use self::folders::{BASE_NAME, LOGPROB_TOLERANCE, logprobs_apart, probe_logprobs};
pub use self::respondents::RespondentRequest;
use self::respondents::{Asked, Wanted};
use crate::compare::{self, ServerFlips, Summary, SummaryInput};
use crate::dataset::Dataset;
use crate::domain::{Computing, LabelSet, Mode, Outcome, RunId, RunSpec, SampleNames, SampleSet, Trial};
use crate::eval::SubjectsRequest;
use crate::eval::{
    self, Batching, Captions, DatasetWork, Description, Ended, EvalRun, Event, Observer, OpenRun, Selection, Task,
};
use crate::judging::{Panel, PanelConfig};
use crate::model::Placement;
use crate::model::checkpoint::weights::Hub;
use crate::model::run::scoring;
use crate::prompting::{self, PromptTemplate};
use crate::record::{FeatureCache, Manifest, RunFolder};

/// An evaluation, as it is asked for.
pub struct Evaluate<'a> {
    /// Who is asked.
    pub respondent: RespondentRequest<'a>,
    /// What the model is compared with.
    pub comparator: ComparatorRequest<'a>,
    /// The datasets, opened, in the order of evaluation.
    pub datasets: Vec<Dataset>,
    /// Samples per dataset, balanced over its classes; `None` is all.
    pub limit: Option<usize>,
    /// Only these samples; `None` is all. Like the limit they are no part of a run's identity.
    pub samples: Option<SampleNames>,
    /// The seed of the order of samples; `None` is that of the first dataset.
    pub sample_seed: Option<u64>,
    /// The question.
    pub template: PromptTemplate,
    /// The encoder's captions.
    pub captions: Captions,
    /// How the model answers.
    pub modes: Vec<Mode>,
    /// Tokens per answer, at most.
    pub max_new_tokens: usize,
    /// Images in one forward pass; `None` is as many as memory allows.
    pub batch_size: Option<usize>,
    /// Samples per run that a server is asked about again at the end.
    pub n_repeats: usize,
    /// Where, and in which numbers, models compute.
    pub placement: Placement,
    /// The label sets that the model was fine-tuned on, by dataset.
    pub tuned_on: BTreeMap<String, LabelSet>,
    /// Who judges.
    pub judges: PanelConfig,
    /// Where features of towers are kept.
    pub feature_cache: Option<Arc<FeatureCache>>,
    /// The folder of the run, or of several runs; `None` is a folder of `reports` that the identity names.
    pub out: Option<PathBuf>,
    /// Whether a folder that is not empty is refused.
    pub is_fresh: bool,
    /// What `run.json` records beside the specification.
    pub environment: Map<String, Value>,
}

/// An evaluation whose respondents are opened; no weight is read yet.
pub struct OpenedEvaluation<'a> {
    request: Evaluate<'a>,
    asked: Asked,
    description: Description,
    sample_seed: u64,
    samples: Option<SampleSet>,
}

/// An evaluation of which everything is settled before weights are read.
pub struct PlannedEvaluation {
    /// Who will be asked.
    pub respondent: Box<dyn eval::Opened>,
    /// What is known of them.
    pub description: Description,
    /// The datasets with what is asked of them.
    pub tasks: Vec<Task>,
    /// How samples come together.
    pub batching: Batching,
    /// The judges.
    pub panel: Panel,
    /// One entry per run.
    pub runs: Vec<PlannedRun>,
    /// What a person should know of what the model is compared with.
    pub comparator_warnings: Vec<String>,
    /// Where models compute.
    pub placement: Placement,
    /// Where features of towers are kept; never of served models.
    pub feature_cache: Option<Arc<FeatureCache>>,
    /// Samples per run that a server is asked about again at the end; 0 where the models run here.
    pub n_repeats: usize,
    /// Only these samples are asked about; `None` is all.
    pub samples: Option<SampleSet>,
    limit: Option<usize>,
    is_fresh: bool,
}

/// A run, before its folder is opened.
#[derive(Clone, Debug)]
pub struct PlannedRun {
    /// What it is a run of.
    pub spec: RunSpec,
    /// Its folder.
    pub dir: PathBuf,
    /// What `run.json` records beside the specification.
    pub environment: Map<String, Value>,
}

/// A finished evaluation.
#[derive(Debug)]
pub struct Evaluation {
    /// One entry per run.
    pub runs: Vec<EvaluatedRun>,
    /// The datasets that were evaluated.
    pub datasets: Vec<Dataset>,
    /// Why the language-model judge could not be asked any more, if so.
    pub judge_error: Option<String>,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct EvaluatedRun {
    /// What it is a run of.
    pub spec: RunSpec,
    /// Its folder.
    pub dir: PathBuf,
    /// One trial per key, in dataset order.
    pub trials: Vec<Trial>,
}

impl<'a> Evaluate<'a> {
    /// The evaluation of `model` on `datasets` with every default, recorded in the folder `out`: the paper's question, all
    /// samples, the encoder that the checkpoint names, the CPU in f32, and the rules as the judge. Names on the hub are looked
    /// up in `hub`.
    ///
    /// # Errors
    /// The embedded template is broken.
    pub fn new(model: &'a Path, hub: &'a Hub<'a>, datasets: Vec<Dataset>, out: &Path) -> Result<Self> {
        Ok(Self {
            respondent: RespondentRequest::Checkpoint(SubjectsRequest::new(model, hub)),
            comparator: ComparatorRequest::default(),
            datasets,
            limit: None,
            samples: None,
            sample_seed: None,
            template: prompting::load("emt")?,
            captions: Captions::Template,
            modes: vec![Mode::Generate],
            max_new_tokens: 32,
            batch_size: None,
            n_repeats: 0,
            placement: Placement::new("cpu", "f32")?,
            tuned_on: BTreeMap::new(),
            judges: PanelConfig::rules(),
            feature_cache: None,
            out: Some(out.to_owned()),
            is_fresh: false,
            environment: Map::new(),
        })
    }

    /// Evaluates until all is answered, judged and recorded, or `is_stopped`: then there is nothing to return, and an equal
    /// request goes on.
    ///
    /// # Errors
    /// What was asked for cannot be opened, does not fit together, or fails on the way; what was answered is recorded.
    pub fn run(
        mut self,
        is_stopped: &(dyn Fn() -> bool + Sync),
        observer: &mut dyn Observer,
    ) -> Result<Option<Evaluation>> {
        let (tuned_on, judges) = (std::mem::take(&mut self.tuned_on), self.judges.clone());
        self.open()?.plan(tuned_on, judges)?.evaluate(is_stopped, observer)
    }

    /// Opens who is asked, and renders what is asked of each dataset.
    ///
    /// # Errors
    /// A checkpoint, an adapter or a server cannot be opened, a prompt does not fit, or no dataset has a named sample.
    pub fn open(mut self) -> Result<OpenedEvaluation<'a>> {
        let datasets = std::mem::take(&mut self.datasets);
        eval::refuse_empty(&datasets)?;
        let first = datasets.first().context("an evaluation needs a dataset")?;
        let sample_seed = self.sample_seed.unwrap_or(first.sample_seed);
        let samples = self.samples.as_ref().map(|names| found(names, &datasets)).transpose()?;
        let wanted = Wanted {
            datasets,
            sample_seed,
            // A probe learns from no image that the run may be asked about later. After named samples that is any.
            limit: self.limit.filter(|_| samples.is_none()),
            template: &self.template,
            captions: self.captions,
            modes: &self.modes,
            max_new_tokens: self.max_new_tokens,
            batch_size: self.batch_size,
            placement: &self.placement,
            comparator: &self.comparator,
        };
        let asked = self.respondent.open(wanted)?;
        let description = asked.respondent.describe()?;
        Ok(OpenedEvaluation { request: self, asked, description, sample_seed, samples })
    }
}

impl OpenedEvaluation<'_> {
    /// What is known of who will be asked.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Settles the specification of every run: `tuned_on` are the label sets that decide the code `leak`.
    ///
    /// # Errors
    /// A judge cannot be made, or a run is no run of its dataset.
    pub fn plan(self, tuned_on: BTreeMap<String, LabelSet>, judges: PanelConfig) -> Result<PlannedEvaluation> {
        let Self { request, asked, description, sample_seed, samples } = self;
        let Asked { respondent, mut specs, tasks, comparator_warnings, probe, batching } = asked;
        let first = description.runs.first().context("there is no run to make")?;
        let computing = match batching.is_served {
            true => Computing::Served,
            false => Computing::Local {
                compute_type: request.placement.compute_type(),
                device_kind: request.placement.device_kind().to_owned(),
            },
        };
        let mut spec = RunSpec {
            model: first.model.clone(),
            encoder: first.encoder.clone(),
            probe,
            datasets: specs.first().cloned().unwrap_or_default(),
            sample_seed,
            label_scoring_version: scoring::version_in(&request.modes),
            modes: request.modes,
            max_new_tokens: request.max_new_tokens,
            computing,
            judges: Vec::new(),
            tuned_on,
        };
        let panel = Panel::new(judges, eval::judged_datasets(&spec)?)?;
        spec.judges = panel.specs();
        let mut environment = request.environment;
        environment.insert("batch_size".to_owned(), batching.size.into());
        let place = folders::Place { out: request.out.as_deref(), environment: &environment };
        let runs = folders::planned_runs(place, respondent.as_ref(), &description, &spec, &mut specs)?;
        Ok(PlannedEvaluation {
            respondent,
            tasks,
            panel,
            runs,
            comparator_warnings,
            placement: request.placement,
            feature_cache: request.feature_cache.filter(|_| !batching.is_served),
            n_repeats: if batching.is_served { request.n_repeats } else { 0 },
            batching,
            description,
            samples,
            limit: request.limit,
            is_fresh: request.is_fresh,
        })
    }
}

impl PlannedEvaluation {
    /// What a person should know of datasets, comparator and respondents before anything is asked.
    pub fn warnings(&self) -> Vec<String> {
        let of_datasets = self.tasks.iter().flat_map(|Task { dataset, .. }| {
            let of_split = dataset.is_training_split.then(|| format!("`{}` is a training split", dataset.split));
            let warnings = dataset.warnings.iter().cloned().chain(of_split);
            warnings.map(|warning| format!("{}: {warning}", dataset.name))
        });
        of_datasets.chain(self.comparator_warnings.clone()).chain(self.description.warnings.clone()).collect()
    }

    /// Tells what a person should know, opens the folders of all runs, and asks what remains; `None` where somebody asked to
    /// stop.
    ///
    /// # Errors
    /// A folder cannot be opened, or asking fails on the way; what was answered is recorded.
    pub fn evaluate(
        mut self,
        is_stopped: &(dyn Fn() -> bool + Sync),
        observer: &mut dyn Observer,
    ) -> Result<Option<Evaluation>> {
        self.warnings().into_iter().for_each(|warning| observer.event(Event::Warning(warning)));
        let open_runs = self.open_folders()?;
        self.plan_what_remains(&open_runs);
        self.run(open_runs, is_stopped, observer)
    }

    /// Opens the folders of all runs, new or to go on with.
    ///
    /// # Errors
    /// A folder has another run, is being written, or cannot be.
    pub fn open_folders(&self) -> Result<Vec<OpenRun>> {
        let open = |run: &PlannedRun| {
            if let Some(server) = run.environment.get(eval::SERVER) {
                folders::refuse_another_model(&run.dir, &run.spec, server)?;
            }
            let manifest = Manifest::new(run.spec.clone(), run.environment.clone());
            let (folder, recorded) = RunFolder::create_or_resume(&run.dir, manifest, self.is_fresh)?;
            Ok(OpenRun { folder, recorded })
        };
        self.runs.iter().map(open).collect()
    }

    /// Plans what remains to be asked, given what `open_runs` recorded.
    pub fn plan_what_remains(&mut self, open_runs: &[OpenRun]) {
        let recorded: Vec<HashSet<_>> = open_runs.iter().map(|open| eval::settled_keys(&open.recorded)).collect();
        let Some(PlannedRun { spec, .. }) = self.runs.first() else { return };
        let selection = Selection { sample_seed: spec.sample_seed, limit: self.limit, samples: self.samples.as_ref() };
        let batching = self.batching;
        let plan = |dataset: &Dataset| -> DatasetWork {
            let comparator = spec.comparator(&dataset.name);
            eval::plan(dataset, selection, &spec.modes, comparator, &recorded, batching)
        };
        for task in &mut self.tasks {
            task.work = plan(&task.dataset);
        }
    }

    /// Requests to a server that what remains needs, retries aside.
    pub fn n_requests(&self) -> usize {
        let of_task = |Task { dataset, work, .. }: &Task| -> usize {
            let n_scoring = |run: RunId| self.respondent.n_requests_per_scoring(run, dataset.labels.len());
            let of_sample = |sample: &eval::SampleWork| {
                sample.generate.iter().count() + sample.score.iter().map(n_scoring).sum::<usize>()
            };
            work.remaining.iter().map(of_sample).sum()
        };
        self.tasks.iter().map(of_task).sum()
    }

    /// Asks what remains, waits for the judges, and compacts the journals; `None` where somebody asked to stop.
    ///
    /// # Errors
    /// It fails on the way; what was answered is recorded.
    pub fn run(
        self,
        open_runs: Vec<OpenRun>,
        is_stopped: &(dyn Fn() -> bool + Sync),
        observer: &mut dyn Observer,
    ) -> Result<Option<Evaluation>> {
        let Self { respondent, tasks, batching, panel, runs, placement, feature_cache, n_repeats, .. } = self;
        let PlannedRun { spec, .. } = runs.first().context("there is no run to make")?;
        let run = EvalRun {
            tasks,
            modes: spec.modes.clone(),
            max_new_tokens: spec.max_new_tokens,
            batch_size: batching.size,
            n_repeats,
            panel,
            runs: open_runs,
            is_stopped,
        };
        let ended = eval::run(run, || respondent.load(&placement, feature_cache), observer)?;
        let Ended::Complete { trials, tasks, judge_error } = ended else { return Ok(None) };
        let finished = |(PlannedRun { spec, dir, .. }, trials)| EvaluatedRun { spec, dir, trials };
        Ok(Some(Evaluation {
            runs: runs.into_iter().zip(trials).map(finished).collect(),
            datasets: tasks.into_iter().map(|task| task.dataset).collect(),
            judge_error,
        }))
    }
}

impl EvaluatedRun {
    /// All numbers of the run.
    ///
    /// # Errors
    /// The specification contradicts itself.
    pub fn summary(&self) -> Result<Summary> {
        let name = self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        summary(&name, &self.spec, &self.trials, None)
    }

    /// Correct over scored of the model's generated answers on all datasets; `None` where nothing was scored.
    pub fn accuracy(&self) -> Option<f64> {
        let of_model = self.trials.iter().filter(|trial| trial.mode == Mode::Generate);
        let scored: Vec<bool> = of_model
            .filter_map(|trial| match trial.outcome {
                Outcome::Correct => Some(true),
                Outcome::Incorrect(_) => Some(false),
                Outcome::Unscored(_) => None,
            })
            .collect();
        let n_correct = scored.iter().filter(|&&is_correct| is_correct).count();
        (!scored.is_empty()).then(|| n_correct as f64 / scored.len() as f64)
    }
}

/// Finds the named samples in the datasets.
fn found(names: &SampleNames, datasets: &[Dataset]) -> Result<SampleSet> {
    let mut known: Vec<(&str, Vec<&str>)> = Vec::with_capacity(datasets.len());
    for dataset in datasets {
        known.push((&dataset.name, dataset.samples.iter().map(|sample| sample.id.as_str()).collect()));
    }
    Ok(names.among(&known)?)
}

/// All numbers of the run of this name; `server_flips` is what became of samples that its server was asked about again.
///
/// # Errors
/// The specification contradicts itself.
pub fn summary(run: &str, spec: &RunSpec, trials: &[Trial], server_flips: Option<ServerFlips>) -> Result<Summary> {
    let judged = eval::judged_datasets(spec)?;
    let is_certain = |trial: &Trial| {
        let place = spec.datasets.iter().position(|dataset| dataset.dataset == trial.dataset)?;
        let label = judged[place].labels.index_of(&trial.label)?;
        Some(judged[place].grader.grade(label, trial.text()?).certain)
    };
    let input = SummaryInput { run, uncertain_share: compare::uncertain_share(trials, is_certain), server_flips };
    Ok(compare::summarise(&input, spec, trials))
}
