//! The gate that evaluates: base and adapter in lock-step, each dataset until it is decided.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::Path;

use anyhow::{Error, Result, anyhow, bail, ensure};

use super::calibration::{Calibrations, Outcomes};
use super::history::History;
use super::{GateArgs, datasets, next, output, run_names};
use crate::cli::comparability;
use crate::cli::comparison::{self, RecordedRun, Rules};
use crate::cli::eval::{self, EvalOptions, Prepared};
use crate::cli::gallery::Gallery;
use crate::cli::progress::Progress;
use crate::cli::results::{self, Format, Results};
use crate::cli::served_options::is_address;
use crate::cli::{exit_code, interrupt};
use crate::compare::{self, CandidateComparison, FieldDifference};
use crate::dataset::Dataset;
use crate::domain::{Mode, Outcome, RunId, RunSet, Subject, Trial, TrialKey};
use crate::eval::{Batching, DatasetWork, Ended, EvalRun, Loaded, SERVER, Session, Task, settled_keys};
use crate::gate::{Decision, Policy, RunName, Sequence};
use crate::study::{PlannedEvaluation, PlannedRun};
use crate::{record, report};

/// Evaluates and decides; returns the exit code.
pub(super) fn run(
    args: &GateArgs,
    model: &Path,
    mut policy: Policy,
    quiet: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8> {
    let options = &args.options;
    check_models(args, model)?;
    let prepared = eval::prepare(model, options, args.runs.as_deref(), quiet, err)?;
    ensure!(
        prepared.planned.runs.len() == 2,
        "the gate compares two served models; hint: --served-model BASE,CANDIDATE, the one before fine-tuning first"
    );
    ensure!(
        prepared.planned.runs[0].spec.modes.contains(&Mode::Generate),
        "the gate decides on generated answers; hint: --modes generate or --modes generate,score"
    );
    let warnings = checked_names(args, &policy, &prepared)?;
    policy.mark_tuned_on(prepared.tuned_on(CANDIDATE));
    let mut run_names = [BASELINE, CANDIDATE].map(|run| {
        let PlannedRun { spec, dir, .. } = &prepared.planned.runs[run];
        run_names::of_planned(dir, spec, prepared.planned.description.runs[run].environment.get(SERVER).cloned())
    });
    let planned = prepared.planned;
    let differences = differences(args, &planned, &run_names)?;
    let at_hand =
        planned.tasks.iter().map(|Task { dataset, .. }| (dataset.name.clone(), n_max(dataset, usize::MAX, None)));
    let at_hand: BTreeMap<String, usize> = at_hand.collect();
    let tested: Vec<String> = at_hand.keys().filter(|name| !policy.of(name).ignore).cloned().collect();
    let history = History::open(&args.rules, &run_names, &tested)?;
    if let Some(attempt) = history.attempt {
        policy = policy.at_attempt(attempt);
    }
    let calibrations = Calibrations::read(&args.calibration)?;
    let mut progress = Progress::new(err, quiet);
    eval::warn(&mut progress, &planned);
    let cache = planned.feature_cache.clone();
    let asked = ask(args, &policy, planned, &calibrations, &mut progress)?;
    if let Some(cache) = cache {
        progress.say(&cache.summary());
    }
    let Some((sequence, runs)) = asked else { return Ok(exit_code::INTERRUPTED) };
    let mut decision = sequence.decision();
    decision.warnings.extend(warnings);
    decision.warnings.extend(comparability::allowed(&differences));
    take_manifests(&mut decision, &mut run_names, &runs, &calibrations)?;
    decision.warnings.extend(comparison::settings_note(
        &runs[BASELINE].spec,
        &runs[CANDIDATE].spec,
        &run_names[CANDIDATE].run,
    ));
    let [baseline, candidate] = run_names;
    decision.baseline = Some(baseline);
    decision.candidate = Some(candidate);
    decision.attempt = history.attempt;
    let by_run = RecordedRun::open(&runs[CANDIDATE].dir)?.tuned_on();
    let places = next::Places {
        runs: [&runs[BASELINE].dir, &runs[CANDIDATE].dir],
        decision: args.output.out.clone().or_else(|| history.path()),
        tuned_on: &by_run,
    };
    decision.next = next::of_sequence(args, &policy, &places, &at_hand, &decision);
    history.add(&decision)?;
    output::write(&args.output, &decision, out)?;
    for run in runs {
        progress.say(&format!("{}: report.html, trials.jsonl and the rest of the run", run.dir.display()));
    }
    Ok(decision.exit_code)
}

/// What the finished runs' manifests and journals say of the runs themselves.
fn take_manifests(
    decision: &mut Decision,
    names: &mut [RunName; 2],
    runs: &[PlannedRun],
    calibrations: &Calibrations,
) -> Result<()> {
    let manifests = [record::read_manifest(&runs[BASELINE].dir)?, record::read_manifest(&runs[CANDIDATE].dir)?];
    for ((run, name), manifest) in runs.iter().zip(names.iter_mut()).zip(&manifests) {
        let digest = record::trials_digest(&run.dir)?;
        (name.n_trials, name.trials) = (Some(digest.n_trials), Some(digest.trials));
        let flips = results::server_flips(manifest);
        decision.warnings.extend(flips.map(|flips| report::server_flips_note(&name.run, &flips)));
    }
    let named = [BASELINE, CANDIDATE].map(|run| (names[run].run.as_str(), &manifests[run]));
    calibrations.doubt_unmeasured(decision, named);
    Ok(())
}

/// In what the runs will differ; two runs of one model are refused.
fn differences(args: &GateArgs, planned: &PlannedEvaluation, names: &[RunName; 2]) -> Result<Vec<FieldDifference>> {
    let specs = [BASELINE, CANDIDATE].map(|run| &planned.runs[run].spec);
    let differences = compare::field_differences(&record::comparable(specs[0]), &record::comparable(specs[1]));
    if !args.rules.allow_same {
        comparability::refuse_same([&names[BASELINE].run, &names[CANDIDATE].run], specs, &differences)?;
    }
    Ok(differences)
}

/// Refuses what cannot be a baseline and a candidate, before anything is opened or asked.
fn check_models(args: &GateArgs, model: &Path) -> Result<()> {
    let options = &args.options;
    ensure!(
        is_address(model) || (options.adapters.adapters.len() == 1 && options.adapters.has_base()),
        "the gate compares a base with one adapter over it; hint: one --adapter, without --no-base; for more, `emt eval` \
         and `emt gate --baseline RUN --candidate RUN`"
    );
    let n_served = options.served.n_named();
    ensure!(
        !is_address(model) || n_served == 0 || n_served == 2,
        "the gate compares two served models, and --served-model names {n_served}; hint: --served-model BASE,CANDIDATE, the \
         one before fine-tuning first"
    );
    Ok(())
}

/// The folder of a gate's runs has a flag of its own: `--out` is for the decision.
fn with_runs_flag(error: Error) -> Error {
    match format!("{error:#}").rsplit_once("; hint: ") {
        Some((what, hint)) if hint.contains("--out") => anyhow!("{what}; hint: {}", hint.replace("--out", "--runs")),
        _ => error,
    }
}

/// Checks the names of datasets in policy and flags; returns what should be told.
fn checked_names(args: &GateArgs, policy: &Policy, prepared: &Prepared) -> Result<Vec<String>> {
    let places = &args.options.places;
    let compared: BTreeSet<String> = prepared.planned.tasks.iter().map(|task| task.dataset.name.clone()).collect();
    let said = prepared.said_tuned_on(CANDIDATE);
    let mut known = datasets::known(places, compared.iter().map(String::as_str))?;
    // Their labels are known.
    known.extend(said.iter().cloned());
    datasets::check(policy, &args.rules, &said, &known)?;
    let mut warnings = datasets::unchecked(policy, &args.rules, places, &compared, &BTreeSet::new())?;
    warnings.extend(datasets::only_tuned_on(policy, &said, &compared));
    Ok(warnings)
}

const BASELINE: usize = 0;
const CANDIDATE: usize = 1;

/// Asks look by look until nothing is open; `None` where somebody interrupted.
fn ask(
    args: &GateArgs,
    policy: &Policy,
    planned: PlannedEvaluation,
    calibrations: &Calibrations,
    progress: &mut Progress,
) -> Result<Option<(Sequence, Vec<PlannedRun>)>> {
    let options = &args.options;
    let open_runs = planned.open_folders().map_err(with_runs_flag)?;
    let [baseline, candidate] = [BASELINE, CANDIDATE].map(|run| RecordedRun::open(&planned.runs[run].dir));
    check(args, calibrations, &baseline?, &candidate?)?;
    let n_max: Vec<(String, usize)> = planned
        .tasks
        .iter()
        .map(|Task { dataset, .. }| {
            (dataset.name.clone(), n_max(dataset, policy.of(&dataset.name).max_pairs, options.limit))
        })
        .collect();
    let mut sequence = Sequence::new(policy.clone(), &n_max);
    for (dataset, n) in sequence.unreachable() {
        progress.say(&format!(
            "warning: {dataset}: {n} images are too few to pass, even if no answer changes; hint: more images, a larger \
             margin, or ignore it in the policy"
        ));
    }
    interrupt::listen();
    let PlannedEvaluation { placement, respondent, tasks, batching, panel, runs, feature_cache, n_repeats, .. } =
        planned;
    let session = Session::open(EvalRun {
        tasks,
        modes: runs[BASELINE].spec.modes.clone(),
        max_new_tokens: options.max_new_tokens,
        batch_size: batching.size,
        n_repeats,
        panel,
        runs: open_runs,
        is_stopped: &interrupt::is_stopped,
    })?;
    let mut looker = Looker { args, runs: &runs, batching, asked: BTreeMap::new() };
    let mut course = Course { session, load: Some(|| respondent.load(&placement, feature_cache)) };
    if !fix_margins(&mut sequence, policy, &n_max, &mut looker, &mut course, progress)? {
        return Ok(None);
    }
    loop {
        let open: Vec<(String, usize)> =
            sequence.open().into_iter().map(|(dataset, n)| (dataset.to_owned(), n)).collect();
        let told: Vec<String> = open.iter().map(|(dataset, n)| format!("{dataset} at {n}")).collect();
        progress.say(&format!("look: {}", if told.is_empty() { "nothing to ask".to_owned() } else { told.join(", ") }));
        looker.plan(&mut course.session, &open, None)?;
        if !course.ask(progress)? {
            progress.finish();
            progress.say("interrupted; the same command goes on");
            return Ok(None);
        }
        looker.observe(course.session.tasks(), &mut sequence, policy, calibrations, &open)?;
        if sequence.open().is_empty() {
            break;
        }
    }
    looker.plan(&mut course.session, &[], None)?;
    let is_repeated = course.repeat()?;
    progress.finish();
    if !is_repeated {
        return Ok(None);
    }
    let Ended::Complete { trials, .. } = course.session.finish()? else {
        bail!("the runs did not end");
    };
    write_runs(&runs, &trials, options)?;
    Ok(Some((sequence, runs)))
}

/// Writes what a finished run leaves, for each of `runs`.
fn write_runs(runs: &[PlannedRun], trials: &[Vec<Trial>], options: &EvalOptions) -> Result<()> {
    let gallery = Gallery::none();
    let finished: Vec<Results> = runs
        .iter()
        .zip(trials)
        .map(|(run, trials)| Results {
            dir: &run.dir,
            run: &run.dir,
            spec: &run.spec,
            trials,
            charts: &options.charts,
            gallery: &gallery,
        })
        .collect();
    results::write_all(&finished, Format::Table, true, &mut std::io::sink())
}

/// Refuses runs that may not be compared before anything is asked: a candidate may have an image processor or a template of
/// its own, and a calibration another judge.
fn check(args: &GateArgs, calibrations: &Calibrations, baseline: &RecordedRun, candidate: &RecordedRun) -> Result<()> {
    comparability::checked(baseline, candidate, &args.comparison.allow_different)?;
    calibrations.check(baseline, candidate)
}

/// The largest balanced prefix of a dataset that may be asked about.
fn n_max(dataset: &Dataset, max_pairs: usize, limit: Option<usize>) -> usize {
    let mut counts = BTreeMap::new();
    for sample in &dataset.samples {
        *counts.entry(sample.label).or_insert(0_usize) += 1;
    }
    let balanced = counts.len() * counts.values().copied().min().unwrap_or(0);
    balanced.min(max_pairs).min(limit.unwrap_or(usize::MAX)).max(1)
}

fn once<L: FnOnce() -> Result<Loaded>>(load: &mut Option<L>) -> Result<Loaded> {
    match load.take() {
        Some(load) => load(),
        None => bail!("the subjects were loaded before"),
    }
}

/// A session and what loads its subjects when they are needed.
struct Course<'a, L> {
    session: Session<'a>,
    load: Option<L>,
}

impl<L: FnOnce() -> Result<Loaded>> Course<'_, L> {
    fn ask(&mut self, progress: &mut Progress) -> Result<bool> {
        let load = &mut self.load;
        self.session.ask(|| once(load), progress)
    }

    fn repeat(&mut self) -> Result<bool> {
        let load = &mut self.load;
        self.session.repeat(|| once(load))
    }
}

/// A relative margin follows from the baseline alone and must be fixed before the candidate is read: so the baseline is
/// asked first, about all that may be asked. `false` where somebody interrupted.
fn fix_margins<L: FnOnce() -> Result<Loaded>>(
    sequence: &mut Sequence,
    policy: &Policy,
    n_max: &[(String, usize)],
    looker: &mut Looker<'_>,
    course: &mut Course<'_, L>,
    progress: &mut Progress,
) -> Result<bool> {
    let relative: Vec<(String, usize)> =
        n_max.iter().filter(|(name, _)| policy.of(name).relative_margin.is_some()).cloned().collect();
    if relative.is_empty() {
        return Ok(true);
    }
    progress.say("the margin is relative: the baseline is asked first");
    looker.plan(&mut course.session, &relative, Some(RunId::new(BASELINE)))?;
    if !course.ask(progress)? {
        return Ok(false);
    }
    let (_, trials) = record::read_run(&looker.runs[BASELINE].dir)?;
    for (name, n) in &relative {
        let found = course.session.tasks().iter().find(|task| &task.dataset.name == name);
        let Some(Task { dataset, .. }) = found else { continue };
        let samples = looker.samples(dataset, *n);
        let (mut n_correct, mut n_scored) = (0, 0);
        for trial in trials.iter().filter(|trial| {
            &trial.dataset == name
                && trial.subject == Subject::Model
                && trial.mode == Mode::Generate
                && samples.contains(trial.sample.as_str())
        }) {
            n_correct += usize::from(trial.outcome == Outcome::Correct);
            n_scored += usize::from(!matches!(trial.outcome, Outcome::Unscored(_)));
        }
        sequence.fix_margin(name, dataset.labels.len(), n_correct, n_scored);
    }
    Ok(true)
}

/// Knows which samples a look needs, and reads what was recorded of them.
struct Looker<'a> {
    args: &'a GateArgs,
    runs: &'a [PlannedRun],
    batching: Batching,
    /// By dataset, the samples that were asked about so far.
    asked: BTreeMap<String, usize>,
}

impl Looker<'_> {
    /// Plans what remains to be asked for each dataset of `open` at its number of samples; of the others nothing. `only` names
    /// the one run that is asked.
    fn plan(&mut self, session: &mut Session<'_>, open: &[(String, usize)], only: Option<RunId>) -> Result<()> {
        let mut recorded: Vec<HashSet<TrialKey>> = Vec::with_capacity(self.runs.len());
        for run in self.runs {
            let (_, trials) = record::read_run(&run.dir)?;
            recorded.push(settled_keys(&trials));
        }
        let spec = &self.runs[BASELINE].spec;
        session.plan(|dataset| {
            let n_before = self.asked.get(&dataset.name).copied().unwrap_or(0);
            let look = open.iter().find(|(name, _)| *name == dataset.name).map(|(_, n)| *n);
            let n = look.unwrap_or(n_before).max(n_before);
            let plan = |n: usize| {
                let comparator = spec.comparator(&dataset.name);
                let limit = Some(n);
                crate::eval::plan(dataset, spec.sample_seed, limit, &spec.modes, comparator, &recorded, self.batching)
            };
            let mut work = plan(n);
            match (look, only) {
                (None, _) => work.remaining.clear(),
                (Some(_), Some(run)) => only_run(&mut work, run, self.runs.len()),
                (Some(_), None) => {
                    // The last batch of the look before was a short one: its samples need not be asked again.
                    let done: HashSet<usize> = work.selected[..n_before].iter().copied().collect();
                    work.remaining.retain(|sample| !done.contains(&sample.position));
                    self.asked.insert(dataset.name.clone(), n);
                }
            }
            Ok(work)
        })
    }

    /// The ids of the first `n` samples of a dataset.
    fn samples<'d>(&self, dataset: &'d Dataset, n: usize) -> BTreeSet<&'d str> {
        let names: Vec<&str> = dataset.labels.names().collect();
        let seed = self.runs[BASELINE].spec.sample_seed;
        let selected = crate::domain::select(&dataset.samples, &names, seed, Some(n));
        selected.into_iter().map(|position| dataset.samples[position].id.as_str()).collect()
    }

    /// Compares what was recorded of the samples of `open` and hands it to the sequence.
    fn observe(
        &self,
        tasks: &[Task],
        sequence: &mut Sequence,
        policy: &Policy,
        calibrations: &Calibrations,
        open: &[(String, usize)],
    ) -> Result<()> {
        let samples: BTreeMap<String, BTreeSet<String>> = tasks
            .iter()
            .map(|Task { dataset, .. }| {
                let n = open.iter().find(|(name, _)| *name == dataset.name).map_or(0, |(_, n)| *n);
                let samples = self.samples(dataset, n).into_iter().map(str::to_owned).collect();
                (dataset.name.clone(), samples)
            })
            .collect();
        let opened = |run: usize| Ok::<_, Error>(RecordedRun::open(&self.runs[run].dir)?.only(samples.clone()));
        let (baseline, candidates) = (opened(BASELINE)?, [opened(CANDIDATE)?]);
        let tuned_on = policy.tuned_on();
        let rules = Rules {
            tuned_on: std::slice::from_ref(&tuned_on),
            ignored: &|name| policy.of(name).ignore,
            options: &self.args.comparison,
            places: &self.args.options.places,
        };
        let mut outcomes = Outcomes::default();
        let comparison = comparison::compare(&baseline, &candidates, &rules, &mut |passing| {
            outcomes.take(calibrations, passing);
            Ok(())
        })?;
        let Some(compared): Option<&CandidateComparison> = comparison.candidates.first() else {
            bail!("one candidate was compared");
        };
        datasets::refuse_unchecked(policy, compared)?;
        sequence.observe(compared, &calibrations.corrections(&outcomes));
        Ok(())
    }
}

/// Leaves only `run` to be asked.
fn only_run(work: &mut DatasetWork, run: RunId, n_runs: usize) {
    let kept = RunSet::of(n_runs, |other| other == run);
    work.remaining.iter_mut().for_each(|sample| *sample = sample.only(kept));
    work.remaining.retain(|sample| !sample.runs().is_empty());
}
