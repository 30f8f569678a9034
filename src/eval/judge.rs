//! Passes answers through the judges and into the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::events::{Event, Observer};
use super::trials::thought_apart;
use crate::assets;
use crate::domain::{Answer, LabelSet, Mode, Outcome, RunId, RunSpec, Subject, Trial, UnscoredReason};
use crate::judging::{JudgeCounters, JudgeNotice, Judged, JudgedDataset, Panel};
use crate::record::{JUDGE_DOUBT, RunFolder};
use crate::taxonomy::{Grader, Lexicon};

/// Returns what the judges need of a run's datasets, all from the run's specification.
pub fn judged_datasets(spec: &RunSpec) -> Result<Vec<JudgedDataset>> {
    let lexicon = Lexicon::parse(assets::lexicon::LEXICON).context("the embedded lexicon is broken")?;
    let tuned_on: Vec<&LabelSet> = spec.tuned_on.values().collect();
    spec.datasets
        .iter()
        .map(|dataset| {
            let labels = LabelSet::new(dataset.labels.clone(), dataset.answer_type)
                .with_context(|| format!("the labels of `{}` in run.json are broken", dataset.dataset))?;
            let question = dataset
                .prompt(Subject::Model, Mode::Generate)
                .or_else(|| dataset.prompt(Subject::Model, Mode::Score))
                .with_context(|| format!("run.json has no prompt of the model for `{}`", dataset.dataset))?;
            let grader = Grader::new(&labels, &tuned_on, &lexicon);
            Ok(JudgedDataset { question: question.text.clone(), labels, grader })
        })
        .collect()
}

/// The judges of all runs in lock-step, and the trials that wait for a verdict. Equal pairs are judged once.
pub(super) struct Bench {
    panel: Panel,
    datasets: BTreeMap<String, (usize, BTreeMap<String, usize>)>,
    /// By token, the run and its trial.
    waiting: BTreeMap<u64, (RunId, Trial)>,
    next_token: u64,
    tallies: BTreeMap<String, Tally>,
}

/// Model trials of one dataset in this sitting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub n_correct: usize,
    /// Includes those that wait for a judge.
    pub n_unscored: usize,
}

impl Bench {
    pub fn new(panel: Panel, spec: &RunSpec) -> Self {
        let datasets = spec
            .datasets
            .iter()
            .enumerate()
            .map(|(index, dataset)| {
                let labels = dataset.label_names().enumerate().map(|(i, name)| (name.to_owned(), i)).collect();
                (dataset.dataset.clone(), (index, labels))
            })
            .collect();
        Self { panel, datasets, waiting: BTreeMap::new(), next_token: 0, tallies: BTreeMap::new() }
    }

    /// Asks the judge the fixed questions, and returns a notice if its replies call for one.
    pub fn check(&mut self, is_stopped: &dyn Fn() -> bool) -> Result<Option<JudgeNotice>> {
        self.panel.check(is_stopped)
    }

    /// Takes over verdicts of an earlier sitting, so that no pair is judged twice.
    pub fn remember(&mut self, trials: &[Trial]) -> Result<()> {
        for trial in trials.iter().filter(|trial| is_judged(trial)) {
            let Some(answer) = trial.answer() else { continue };
            let (dataset, label) = self.place(trial)?;
            for verdict in &trial.verdicts {
                self.panel.remember(dataset, label, &answer.text, verdict);
            }
        }
        Ok(())
    }

    /// Submits a trial of the model of `run`. Returns it as it should be journalled now: decided or pending.
    pub fn submit(&mut self, run: RunId, trial: Trial) -> Result<Trial> {
        let mut trial = thought_apart(trial);
        let Some(Answer { text, .. }) = trial.answer() else {
            self.tally_mut(&trial).n_unscored += 1;
            return Ok(trial);
        };
        let (dataset, label) = self.place(&trial)?;
        let token = self.next_token;
        self.next_token += 1;
        match self.panel.submit(token, dataset, label, text)? {
            Some(judged) => {
                self.settle(&mut trial, judged);
                Ok(trial)
            }
            None => {
                trial.verdicts = Vec::new();
                trial.outcome = Outcome::Unscored(UnscoredReason::Pending);
                self.tally_mut(&trial).n_unscored += 1;
                self.waiting.insert(token, (run, trial.clone()));
                Ok(trial)
            }
        }
    }

    /// Counts a trial that needs no judge.
    pub fn count(&mut self, trial: &Trial) {
        let tally = self.tally_mut(trial);
        match trial.outcome {
            Outcome::Correct => tally.n_correct += 1,
            Outcome::Unscored(_) => tally.n_unscored += 1,
            Outcome::Incorrect(_) => {}
        }
    }

    /// Returns newly decided trials with their runs. Waits up to `wait` for the first.
    pub fn decided(&mut self, wait: Duration) -> Vec<(RunId, Trial)> {
        let completed = self.panel.completed(wait);
        let mut trials = Vec::with_capacity(completed.len());
        for (token, judged) in completed {
            if let Some((run, mut trial)) = self.waiting.remove(&token) {
                self.tally_mut(&trial).n_unscored -= 1;
                self.settle(&mut trial, judged);
                trials.push((run, trial));
            }
        }
        trials
    }

    /// Judges an answer that belongs to no trial. No other trial may be pending.
    pub fn outcome_of(&mut self, trial: &Trial, text: &str) -> Result<Outcome> {
        let (dataset, label) = self.place(trial)?;
        let token = self.next_token;
        self.next_token += 1;
        if let Some(judged) = self.panel.submit(token, dataset, label, text)? {
            return Ok(judged.outcome);
        }
        loop {
            let completed = self.panel.completed(Duration::from_millis(200));
            if let Some((_, judged)) = completed.into_iter().find(|(other, _)| *other == token) {
                return Ok(judged.outcome);
            }
        }
    }

    /// Waits for all pending trials and journals them. Ends early if `is_stopped`.
    pub fn drain(
        &mut self,
        folders: &mut [RunFolder],
        is_stopped: &dyn Fn() -> bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        while self.n_open() > 0 && !is_stopped() {
            append(folders, self.decided(Duration::from_millis(200)))?;
            observer.event(Event::WaitingForJudges { n_open: self.n_open(), judges: self.counters() });
        }
        Ok(())
    }

    pub fn n_open(&self) -> usize {
        self.waiting.len()
    }

    pub fn tally(&self, dataset: &str) -> Tally {
        self.tallies.get(dataset).copied().unwrap_or_default()
    }

    fn tally_mut(&mut self, trial: &Trial) -> &mut Tally {
        self.tallies.entry(trial.dataset.clone()).or_default()
    }

    pub fn counters(&self) -> JudgeCounters {
        self.panel.counters()
    }

    /// Returns the parameters that were actually sent to the language model's server.
    pub fn effective_parameters(&self) -> Option<serde_json::Value> {
        self.panel.effective_parameters()
    }

    pub fn fatal_error(&self) -> Option<String> {
        self.panel.fatal_error()
    }

    fn settle(&mut self, trial: &mut Trial, judged: Judged) {
        trial.verdicts = judged.verdicts;
        trial.outcome = judged.outcome;
        self.count(trial);
    }

    fn place(&self, trial: &Trial) -> Result<(usize, usize)> {
        let found =
            self.datasets.get(&trial.dataset).and_then(|(index, labels)| Some((*index, *labels.get(&trial.label)?)));
        match found {
            Some(place) => Ok(place),
            None => bail!("the trial of `{}` has a dataset or label that run.json does not know", trial.sample),
        }
    }
}

/// Judges the answers of an old run again, without the model. `folder` is a new run whose spec differs only in the
/// judges. Trials of other subjects, and those without an answer, are copied.
pub fn rejudge(
    spec: &RunSpec,
    trials: &[Trial],
    panel: Panel,
    folder: &mut RunFolder,
    recorded: &[Trial],
    is_stopped: &dyn Fn() -> bool,
    observer: &mut dyn Observer,
) -> Result<Option<String>> {
    let mut bench = Bench::new(panel, spec);
    bench.remember(recorded)?;
    let settled: BTreeSet<_> = recorded
        .iter()
        .filter(|trial| !matches!(trial.outcome, Outcome::Unscored(reason) if reason.is_retried_on_resume()))
        .map(Trial::key)
        .collect();
    let todo: Vec<&Trial> = trials.iter().filter(|trial| !settled.contains(&trial.key())).collect();
    if todo.iter().any(|trial| is_judged(trial))
        && let Some(notice) = bench.check(is_stopped)?
    {
        tell(notice, std::slice::from_mut(folder), observer);
    }
    for (index, chunk) in todo.chunks(TRIALS_PER_APPEND).enumerate() {
        if is_stopped() {
            return Ok(None);
        }
        let mut batch = Vec::with_capacity(chunk.len());
        for &trial in chunk {
            batch.push(if is_judged(trial) { bench.submit(ONLY, trial.clone())? } else { trial.clone() });
        }
        folder.append(&batch)?;
        append(std::slice::from_mut(folder), bench.decided(Duration::ZERO))?;
        let Tally { n_correct, n_unscored } = bench.tally(&chunk[0].dataset);
        observer.event(Event::Progress {
            dataset: &chunk[0].dataset,
            n_done: (index * TRIALS_PER_APPEND + chunk.len()).min(todo.len()),
            n_correct,
            n_unscored,
            judges: bench.counters(),
        });
    }
    bench.drain(std::slice::from_mut(folder), is_stopped, observer)?;
    if let Some(parameters) = bench.effective_parameters() {
        folder.note("judge_parameters", parameters);
    }
    Ok(bench.fatal_error())
}

/// Reports the result of the fixed questions. A doubt is recorded in the runs, so that no gate passes on such verdicts.
pub(super) fn tell(notice: JudgeNotice, folders: &mut [RunFolder], observer: &mut dyn Observer) {
    if notice.is_doubt {
        folders.iter_mut().for_each(|folder| folder.note(JUDGE_DOUBT, notice.text.clone().into()));
    }
    observer.event(Event::Warning(notice.text));
}

/// Whether judges decide this trial. A choice among labels is decided by equality.
pub fn is_judged(trial: &Trial) -> bool {
    trial.subject == Subject::Model && trial.answer().is_some()
}

/// Appends each trial to the journal of its run.
pub(super) fn append(folders: &mut [RunFolder], trials: Vec<(RunId, Trial)>) -> Result<()> {
    let mut by_run: Vec<Vec<Trial>> = folders.iter().map(|_| Vec::new()).collect();
    for (run, trial) in trials {
        by_run[run.place()].push(trial);
    }
    for (folder, trials) in folders.iter_mut().zip(&by_run) {
        if !trials.is_empty() {
            folder.append(trials)?;
        }
    }
    Ok(())
}

const TRIALS_PER_APPEND: usize = 256;

/// The run that is judged again.
const ONLY: RunId = RunId::new(0);
