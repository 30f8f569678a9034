//! The gate that evaluates: two models in lock-step, each dataset until it is decided.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Error, Result, bail, ensure};

use super::calibration::{Calibrations, Outcomes};
use super::history::History;
use super::{DecisionRules, datasets, only_named, run_names};
use crate::compare::{self, CandidateComparison, FieldDifference};
use crate::dataset::Dataset;
use crate::domain::{Mode, Outcome, RunId, RunSet, SampleSet, Subject, Trial, TrialKey};
use crate::eval::{
    Batching, DatasetWork, Ended, EvalRun, Event, Loaded, Observer, OpenRun, SERVER, Selection, Session, Task,
    settled_keys,
};
use crate::gate::{Decision, Policy, RunName, Sequence};
use crate::record;
use crate::study::compare::{Compare, settings_note};
use crate::study::recorded_run::RecordedRun;
use crate::study::{EvaluatedRun, PlannedEvaluation, PlannedRun, comparability};

const BASELINE: usize = 0;
const CANDIDATE: usize = 1;

/// A decision that evaluates as many images as it needs, as it is asked for.
pub struct DecideInSequence {
    /// The evaluation of two models, the baseline first.
    pub planned: PlannedEvaluation,
    /// What is decided by.
    pub rules: DecisionRules,
    /// The datasets that somebody says that the candidate was fine-tuned on.
    pub said_tuned_on: BTreeSet<String>,
    /// All datasets that it was fine-tuned on, as far as is known.
    pub tuned_on: BTreeSet<String>,
    /// Images per dataset, at most.
    pub limit: Option<usize>,
}

/// The same, of which everything is checked that can be before folders are opened.
pub struct CheckedSequence {
    planned: PlannedEvaluation,
    rules: DecisionRules,
    /// As it will be applied.
    policy: Policy,
    limit: Option<usize>,
    run_names: [RunName; 2],
    differences: Vec<FieldDifference>,
    /// By dataset, the images that it could give.
    at_hand: BTreeMap<String, usize>,
    history: History,
    warnings: Vec<String>,
}

/// A decision on two runs that were evaluated for it.
#[derive(Debug)]
pub struct DecidedInSequence {
    /// What was decided.
    pub decision: Decision,
    /// The policy as it was applied.
    pub policy: Policy,
    /// The baseline and the candidate.
    pub runs: Vec<EvaluatedRun>,
    /// By dataset, the images that it could have given.
    pub at_hand: BTreeMap<String, usize>,
    /// What the candidate's run itself says of its fine-tuning.
    pub tuned_on: BTreeSet<String>,
    /// Where the decision is added; nothing is added yet.
    pub history: History,
}

impl DecideInSequence {
    /// Checks what can be before anything is opened or asked.
    ///
    /// # Errors
    /// There are not two models or they are the same one, a name of the policy is not known, or a file cannot be read.
    pub fn check(self) -> Result<CheckedSequence> {
        let Self { planned, rules, said_tuned_on, tuned_on, limit } = self;
        ensure!(
            planned.runs.len() == 2,
            "the gate compares two served models; hint: --served-model BASE,CANDIDATE, the one before fine-tuning first"
        );
        ensure!(
            planned.runs[BASELINE].spec.modes.contains(&Mode::Generate),
            "the gate decides on generated answers; hint: --modes generate or --modes generate,score"
        );
        let mut warnings = checked_names(&rules, &said_tuned_on, &planned)?;
        warnings.extend(planned.samples.as_ref().map(only_named));
        let mut policy = rules.policy.clone();
        policy.mark_tuned_on(tuned_on);
        let run_names = [BASELINE, CANDIDATE].map(|run| {
            let PlannedRun { spec, dir, .. } = &planned.runs[run];
            run_names::of_planned(dir, spec, planned.description.runs[run].environment.get(SERVER).cloned())
        });
        let differences = differences(&rules, &planned, &run_names)?;
        let at_hand: BTreeMap<String, usize> = planned
            .tasks
            .iter()
            .map(|Task { dataset, .. }| (dataset.name.clone(), n_at_hand(dataset, planned.samples.as_ref())))
            .collect();
        let tested: Vec<String> = at_hand.keys().filter(|name| !policy.of(name).ignore).cloned().collect();
        let history = History::open(&rules.attempts, &run_names, &tested)?;
        if let Some(attempt) = history.attempt {
            policy = policy.at_attempt(attempt);
        }
        Ok(CheckedSequence { planned, rules, policy, limit, run_names, differences, at_hand, history, warnings })
    }
}

impl CheckedSequence {
    /// The evaluation.
    pub fn planned(&self) -> &PlannedEvaluation {
        &self.planned
    }

    /// Asks look by look until nothing is open, and decides; `None` where somebody asked to stop. `open_runs` are the opened
    /// folders of the evaluation.
    ///
    /// # Errors
    /// The runs are not comparable, or asking fails on the way; what was answered is recorded.
    pub fn run(
        self,
        open_runs: Vec<OpenRun>,
        is_stopped: &(dyn Fn() -> bool + Sync),
        observer: &mut dyn Observer,
    ) -> Result<Option<DecidedInSequence>> {
        let Self { planned, rules, policy, limit, mut run_names, differences, at_hand, history, warnings } = self;
        let samples = planned.samples.clone();
        let basis = Basis { rules: &rules, policy: &policy, limit, samples: samples.as_ref() };
        let Some((sequence, runs)) = ask(basis, planned, open_runs, is_stopped, observer)? else { return Ok(None) };
        let mut decision = sequence.decision();
        decision.warnings.extend(warnings);
        decision.warnings.extend(comparability::allowed(&differences));
        take_manifests(&mut decision, &mut run_names, &runs, &rules.calibrations)?;
        decision.warnings.extend(settings_note(&runs[BASELINE].spec, &runs[CANDIDATE].spec, &run_names[CANDIDATE].run));
        let [baseline, candidate] = run_names;
        decision.baseline = Some(baseline);
        decision.candidate = Some(candidate);
        decision.attempt = history.attempt;
        let tuned_on = RecordedRun::open(&runs[CANDIDATE].dir)?.tuned_on();
        Ok(Some(DecidedInSequence { decision, policy, runs, at_hand, tuned_on, history }))
    }
}

/// What looks are decided by.
#[derive(Clone, Copy)]
struct Basis<'a> {
    rules: &'a DecisionRules,
    policy: &'a Policy,
    limit: Option<usize>,
    samples: Option<&'a SampleSet>,
}

/// What the finished runs' manifests and journals say of the runs themselves.
fn take_manifests(
    decision: &mut Decision,
    names: &mut [RunName; 2],
    runs: &[EvaluatedRun],
    calibrations: &Calibrations,
) -> Result<()> {
    let manifests = [record::read_manifest(&runs[BASELINE].dir)?, record::read_manifest(&runs[CANDIDATE].dir)?];
    for (run, name) in runs.iter().zip(names.iter_mut()) {
        let digest = record::trials_digest(&run.dir)?;
        (name.n_trials, name.trials) = (Some(digest.n_trials), Some(digest.trials));
    }
    let named = [BASELINE, CANDIDATE].map(|run| (names[run].run.as_str(), &manifests[run]));
    calibrations.doubt_unmeasured(decision, named);
    Ok(())
}

/// In what the runs will differ; two runs of one model are refused.
fn differences(
    rules: &DecisionRules,
    planned: &PlannedEvaluation,
    names: &[RunName; 2],
) -> Result<Vec<FieldDifference>> {
    let specs = [BASELINE, CANDIDATE].map(|run| &planned.runs[run].spec);
    let differences = compare::field_differences(&record::comparable(specs[0]), &record::comparable(specs[1]));
    if !rules.allows_same {
        comparability::refuse_same([&names[BASELINE].run, &names[CANDIDATE].run], specs, &differences)?;
    }
    Ok(differences)
}

/// Checks the names of datasets in policy and flags; returns what should be told.
fn checked_names(rules: &DecisionRules, said: &BTreeSet<String>, planned: &PlannedEvaluation) -> Result<Vec<String>> {
    let compared: BTreeSet<String> = planned.tasks.iter().map(|task| task.dataset.name.clone()).collect();
    let mut known = datasets::known(&rules.catalog, compared.iter().map(String::as_str));
    // Their labels are known.
    known.extend(said.iter().cloned());
    datasets::check(rules, said, &known)?;
    let mut warnings = datasets::unchecked(rules, &compared, &BTreeSet::new())?;
    warnings.extend(datasets::only_tuned_on(&rules.policy, said, &compared));
    Ok(warnings)
}

/// Asks look by look until nothing is open; `None` where somebody asked to stop.
fn ask(
    basis: Basis<'_>,
    planned: PlannedEvaluation,
    open_runs: Vec<OpenRun>,
    is_stopped: &(dyn Fn() -> bool + Sync),
    observer: &mut dyn Observer,
) -> Result<Option<(Sequence, Vec<EvaluatedRun>)>> {
    let Basis { rules, policy, limit, samples } = basis;
    let [baseline, candidate] = [BASELINE, CANDIDATE].map(|run| RecordedRun::open(&planned.runs[run].dir));
    check(rules, &baseline?, &candidate?)?;
    let n_max = |Task { dataset, .. }: &Task| {
        let n = n_at_hand(dataset, samples).min(policy.of(&dataset.name).max_pairs);
        (dataset.name.clone(), n.min(limit.unwrap_or(usize::MAX)).max(1))
    };
    let n_max: Vec<(String, usize)> = planned.tasks.iter().map(n_max).collect();
    let mut sequence = Sequence::new(policy.clone(), &n_max);
    for (dataset, n) in sequence.unreachable() {
        observer.event(Event::Warning(format!(
            "{dataset}: {n} images are too few to pass, even if no answer changes; hint: more images, a larger \
             margin, or ignore it in the policy"
        )));
    }
    let PlannedEvaluation { placement, respondent, tasks, batching, panel, runs, feature_cache, n_repeats, .. } =
        planned;
    let session = Session::open(EvalRun {
        tasks,
        modes: runs[BASELINE].spec.modes.clone(),
        max_new_tokens: runs[BASELINE].spec.max_new_tokens,
        batch_size: batching.size,
        n_repeats,
        panel,
        runs: open_runs,
        is_stopped,
    })?;
    let mut looker = Looker { basis, runs: &runs, batching, asked: BTreeMap::new() };
    let mut course = Course { session, load: Some(|| respondent.load(&placement, feature_cache)) };
    if !fix_margins(&mut sequence, &n_max, &mut looker, &mut course, observer)? {
        return Ok(None);
    }
    loop {
        let open: Vec<(String, usize)> =
            sequence.open().into_iter().map(|(dataset, n)| (dataset.to_owned(), n)).collect();
        let told: Vec<String> = open.iter().map(|(dataset, n)| format!("{dataset} at {n}")).collect();
        let told = if told.is_empty() { "nothing to ask".to_owned() } else { told.join(", ") };
        observer.event(Event::Note(format!("look: {told}")));
        looker.plan(&mut course.session, &open, None)?;
        if !course.ask(observer)? {
            return Ok(None);
        }
        looker.observe(course.session.tasks(), &mut sequence, &open)?;
        if sequence.open().is_empty() {
            break;
        }
    }
    looker.plan(&mut course.session, &[], None)?;
    if !course.repeat()? {
        return Ok(None);
    }
    let Ended::Complete { trials, .. } = course.session.finish()? else {
        bail!("the runs did not end");
    };
    let finished =
        |(PlannedRun { spec, dir, .. }, trials): (PlannedRun, Vec<Trial>)| EvaluatedRun { spec, dir, trials };
    Ok(Some((sequence, runs.into_iter().zip(trials).map(finished).collect())))
}

/// Refuses runs that may not be compared before anything is asked: a candidate may have an image processor or a template of
/// its own, and a calibration another judge.
fn check(rules: &DecisionRules, baseline: &RecordedRun, candidate: &RecordedRun) -> Result<()> {
    comparability::checked(baseline, candidate, &rules.allow_different)?;
    rules.calibrations.check(baseline, candidate)
}

/// The samples of a dataset that could be asked about: the largest prefix that is balanced over its classes, or all that were
/// named.
fn n_at_hand(dataset: &Dataset, samples: Option<&SampleSet>) -> usize {
    if let Some(samples) = samples {
        return samples.n_of(&dataset.name);
    }
    let mut counts = BTreeMap::new();
    for sample in &dataset.samples {
        *counts.entry(sample.label).or_insert(0_usize) += 1;
    }
    (counts.len() * counts.values().copied().min().unwrap_or(0)).max(1)
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
    fn ask(&mut self, observer: &mut dyn Observer) -> Result<bool> {
        let load = &mut self.load;
        self.session.ask(|| once(load), observer)
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
    n_max: &[(String, usize)],
    looker: &mut Looker<'_>,
    course: &mut Course<'_, L>,
    observer: &mut dyn Observer,
) -> Result<bool> {
    let policy = looker.basis.policy;
    let relative: Vec<(String, usize)> =
        n_max.iter().filter(|(name, _)| policy.of(name).relative_margin.is_some()).cloned().collect();
    if relative.is_empty() {
        return Ok(true);
    }
    observer.event(Event::Note("the margin is relative: the baseline is evaluated first".to_owned()));
    looker.plan(&mut course.session, &relative, Some(RunId::new(BASELINE)))?;
    if !course.ask(observer)? {
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
    basis: Basis<'a>,
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
                crate::eval::plan(dataset, self.first(n), &spec.modes, comparator, &recorded, self.batching)
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
        self.first(n).of(dataset).into_iter().map(|position| dataset.samples[position].id.as_str()).collect()
    }

    /// The first `n` samples.
    fn first(&self, n: usize) -> Selection<'_> {
        let sample_seed = self.runs[BASELINE].spec.sample_seed;
        Selection { sample_seed, limit: Some(n), samples: self.basis.samples }
    }

    /// Compares what was recorded of the samples of `open` and hands it to the sequence.
    fn observe(&self, tasks: &[Task], sequence: &mut Sequence, open: &[(String, usize)]) -> Result<()> {
        let Basis { rules, policy, .. } = self.basis;
        let calibrations = &rules.calibrations;
        let samples: SampleSet = tasks
            .iter()
            .map(|Task { dataset, .. }| {
                let n = open.iter().find(|(name, _)| *name == dataset.name).map_or(0, |(_, n)| *n);
                let samples = self.samples(dataset, n).into_iter().map(str::to_owned).collect();
                (dataset.name.clone(), samples)
            })
            .collect();
        let opened = |run: usize| Ok::<_, Error>(RecordedRun::open(&self.runs[run].dir)?.only(samples.clone()));
        let (baseline, candidates) = (opened(BASELINE)?, [opened(CANDIDATE)?]);
        let mut outcomes = Outcomes::default();
        let comparison = Compare {
            baseline: &baseline,
            candidates: &candidates,
            tuned_on: &[policy.tuned_on()],
            may_lack: &|name| policy.of(name).ignore,
            allow_different: &rules.allow_different,
            catalog: &rules.catalog,
        }
        .run(&mut |passing| {
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
