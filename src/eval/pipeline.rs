//! One run from prepared subjects to a finished folder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::events::{Event, Observer};
use super::features::RunFeatures;
use super::images::{BATCHES_AHEAD, ImageSource};
use super::judge::{self, Bench, Tally, append};
use super::plan::{DatasetWork, order, unjudged};
use super::probe::probe_trial;
use super::repeat;
use super::respondent::{Asked, Loaded, Respondent};
use super::subjects::{AnsweredBatch, AnsweredSample, Answers, Failure, FromServer};
use super::task::{Task, TaskId};
use super::timing::{Stage, Stages, TIMING};
use super::trials::{CAPTION, GENERATED, PROBED, SCORED, ZERO_SHOT, chosen, held_trial, scored_trial, trial};
use crate::dataset::Dataset;
use crate::domain::{Mode, Outcome, Response, RunId, Subject, Trial, UnscoredReason};
use crate::judging::{JudgeNotice, Panel};
use crate::model::run::subjects::ImageAnswers;
use crate::record::RunFolder;

/// Everything that a run needs, ready.
pub struct EvalRun<'a> {
    /// The datasets with what is asked of them, as the specification lists them.
    pub tasks: Vec<Task>,
    /// What the models are asked to do with them.
    pub modes: Vec<Mode>,
    /// Generation stops after this many tokens.
    pub max_new_tokens: usize,
    /// Images in one forward pass.
    pub batch_size: usize,
    /// Samples per run that a server is asked about again at the end; 0 where the models run here.
    pub n_repeats: usize,
    /// The judges.
    pub panel: Panel,
    /// The runs that go on in lock-step.
    pub runs: Vec<OpenRun>,
    /// Whether somebody asked the run to stop.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
}

/// A run's folder, locked, and what earlier sittings recorded in it.
pub struct OpenRun {
    /// Where it is journalled.
    pub folder: RunFolder,
    /// One trial a key.
    pub recorded: Vec<Trial>,
}

/// How it ended.
pub enum Ended {
    /// All is asked and recorded.
    Complete {
        /// Of each run, one trial per key, in dataset order.
        trials: Vec<Vec<Trial>>,
        /// The tasks that were done.
        tasks: Vec<Task>,
        /// Why the language-model judge could not be asked any more, if so.
        judge_error: Option<String>,
    },
    /// Stopped on request; the same command goes on.
    Interrupted,
}

/// Runs to the end of what is planned, or until stopped. `load` reads the weights; it is not called where nothing is left to
/// ask.
pub fn run(run: EvalRun<'_>, load: impl FnOnce() -> Result<Loaded>, observer: &mut dyn Observer) -> Result<Ended> {
    let mut load = Some(load);
    let mut session = Session::open(run)?;
    let mut take = || load.take().context("the subjects are loaded once")?();
    if !session.ask(&mut take, observer)? || !session.repeat(&mut take)? {
        return Ok(Ended::Interrupted);
    }
    session.finish()
}

/// Runs that go on in lock-step, piece by piece: subjects are loaded once, and everything that was asked is journalled.
pub struct Session<'a> {
    tasks: Vec<Task>,
    modes: Vec<Mode>,
    max_new_tokens: usize,
    batch_size: usize,
    is_stopped: &'a (dyn Fn() -> bool + Sync),
    bench: Bench,
    folders: Vec<RunFolder>,
    respondent: Option<Box<dyn Respondent>>,
    n_repeats: usize,
    /// Whether anything was asked in this sitting.
    has_asked: bool,
    /// Whether the judge was asked the fixed questions.
    is_judge_checked: bool,
    /// What it showed, to be told.
    judge_notice: Option<JudgeNotice>,
    /// Where towers' features are kept.
    features: Option<Arc<RunFeatures>>,
    stages: Stages,
}

impl<'a> Session<'a> {
    /// Opens the bench of judges, and hands in what earlier sittings left unjudged.
    pub fn open(run: EvalRun<'a>) -> Result<Self> {
        let first = run.runs.first().context("there is no run to make")?;
        let mut bench = Bench::new(run.panel, &first.folder.manifest().spec.clone());
        for open in &run.runs {
            bench.remember(&open.recorded)?;
        }
        let mut folders = Vec::with_capacity(run.runs.len());
        let (mut is_judge_checked, mut judge_notice) = (false, None);
        for (place, OpenRun { mut folder, recorded }) in run.runs.into_iter().enumerate() {
            let recorded: BTreeMap<_, _> = recorded.into_iter().map(|trial| (trial.key(), trial)).collect();
            let unjudged = unjudged(&recorded);
            if !unjudged.is_empty() && !std::mem::replace(&mut is_judge_checked, true) {
                judge_notice = bench.check(run.is_stopped)?;
            }
            for trial in unjudged {
                let trial = bench.submit(RunId::new(place), trial)?;
                if !matches!(trial.outcome, Outcome::Unscored(UnscoredReason::Pending)) {
                    folder.append(&[trial])?;
                }
            }
            folders.push(folder);
        }
        Ok(Self {
            tasks: run.tasks,
            modes: run.modes,
            max_new_tokens: run.max_new_tokens,
            batch_size: run.batch_size,
            is_stopped: run.is_stopped,
            bench,
            folders,
            respondent: None,
            n_repeats: run.n_repeats,
            has_asked: false,
            is_judge_checked,
            judge_notice,
            features: None,
            stages: Stages::default(),
        })
    }

    /// What is asked about.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Plans anew what remains to be asked of each task.
    ///
    /// # Errors
    /// That of `plan`.
    pub fn plan(&mut self, mut plan: impl FnMut(&Dataset) -> Result<DatasetWork>) -> Result<()> {
        for task in &mut self.tasks {
            task.work = plan(&task.dataset)?;
        }
        Ok(())
    }

    /// Asks what is planned and remains, and waits for its judges; `load` reads the weights where they are needed for the
    /// first time. `false` where somebody asked to stop: then all that was answered is on the disk.
    pub fn ask(&mut self, load: impl FnOnce() -> Result<Loaded>, observer: &mut dyn Observer) -> Result<bool> {
        if self.tasks.iter().any(|task| !task.work.remaining.is_empty()) {
            self.has_asked = true;
            let is_generated = self.modes.contains(&Mode::Generate);
            // Before weights are read: a wrong key or model shows in seconds.
            if is_generated && !std::mem::replace(&mut self.is_judge_checked, true) {
                self.judge_notice = self.bench.check(self.is_stopped)?;
            }
            self.tell_of_judge(observer);
            self.load(load)?;
            self.flow(observer)?;
        }
        self.tell_of_judge(observer);
        self.bench.drain(&mut self.folders, self.is_stopped, observer)?;
        if (self.is_stopped)() {
            self.folders.iter_mut().try_for_each(RunFolder::sync)?;
            return Ok(false);
        }
        Ok(true)
    }

    fn tell_of_judge(&mut self, observer: &mut dyn Observer) {
        if let Some(notice) = self.judge_notice.take() {
            judge::tell(notice, &mut self.folders, observer);
        }
    }

    /// Lets images flow to whoever answers, on a thread of its own, and the answers into the journal.
    fn flow(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let (tasks, stages) = (self.tasks.as_slice(), &self.stages);
        let respondent = self.respondent.as_mut().context("the respondent is loaded")?;
        let mut scribe = Scribe {
            tasks,
            counts_scores: !self.modes.contains(&Mode::Generate),
            bench: &mut self.bench,
            folders: &mut self.folders,
            told: BTreeSet::new(),
            features: self.features.as_deref(),
            stages,
        };
        let source = ImageSource { tasks, batch_size: self.batch_size, is_stopped: self.is_stopped, stages };
        let flow = || {
            std::thread::scope(|scope| {
                let (sender, answered) = sync_channel::<Result<AnsweredBatch>>(BATCHES_AHEAD);
                let answering = scope.spawn(move || respondent.answer_all(&source, &sender));
                scribe.write(&answered, observer)?;
                answering.join().map_err(|_| anyhow!("the thread that answers panicked"))
            })
        };
        stages.time(Stage::Flow, flow)
    }

    /// Asks again about some samples where the models are behind a server, and notes how many answers changed: its own
    /// noise. `load` is as in [`ask`](Self::ask). `false` where somebody asked to stop.
    pub fn repeat(&mut self, load: impl FnOnce() -> Result<Loaded>) -> Result<bool> {
        let is_noted = |folder: &RunFolder| folder.manifest().environment.contains_key(repeat::SERVER_FLIPS);
        let is_generated = self.modes.contains(&Mode::Generate);
        if self.n_repeats == 0 || !is_generated || (!self.has_asked && self.folders.iter().all(is_noted)) {
            return Ok(true);
        }
        self.load(load)?;
        let respondent = self.respondent.as_deref().context("the respondent is loaded")?;
        for run in RunId::all(self.folders.len()) {
            if (self.is_stopped)() {
                return Ok(false);
            }
            let folder = &mut self.folders[run.place()];
            let chosen = repeat::choose(folder.dir(), &self.tasks, self.n_repeats)?;
            let flips = repeat::ask(respondent, &mut self.bench, run, &self.tasks, &chosen)?;
            folder.note(repeat::SERVER_FLIPS, flips);
        }
        Ok(true)
    }

    /// Loads whoever answers, where that was not done before.
    fn load(&mut self, load: impl FnOnce() -> Result<Loaded>) -> Result<()> {
        if self.respondent.is_none() {
            let Loaded(mut respondent) = load()?;
            respondent.prepare(&self.tasks, &Asked { modes: &self.modes, max_new_tokens: self.max_new_tokens })?;
            self.features = respondent.features();
            self.respondent = Some(respondent);
        }
        Ok(())
    }

    /// Ends the runs: their journals are compacted to the order of the planned samples.
    pub fn finish(mut self) -> Result<Ended> {
        if let Some(parameters) = self.bench.effective_parameters() {
            self.folders.iter_mut().for_each(|folder| folder.note("judge_parameters", parameters.clone()));
        }
        let in_sync = self.folders.iter().map(RunFolder::time_in_sync).sum();
        if let Some(timing) = self.stages.to_json(in_sync) {
            self.folders.iter_mut().for_each(|folder| folder.note(TIMING, timing.clone()));
        }
        let judge_error = self.bench.fatal_error();
        let order = order(&self.tasks);
        let trials: Vec<Vec<Trial>> =
            self.folders.into_iter().map(|folder| folder.finish(&order)).collect::<Result<_, _>>()?;
        trials.iter().try_for_each(|trials| refuse_unreadable(&self.tasks, trials))?;
        Ok(Ended::Complete { trials, tasks: self.tasks, judge_error })
    }
}

/// The thread that owns journal and judges.
struct Scribe<'a> {
    tasks: &'a [Task],
    /// Whether progress is told of choices among labels, since nothing is generated.
    counts_scores: bool,
    bench: &'a mut Bench,
    folders: &'a mut [RunFolder],
    /// A server's failures that were told already: it may say the same of every image.
    told: BTreeSet<String>,
    /// Where towers' features are kept.
    features: Option<&'a RunFeatures>,
    stages: &'a Stages,
}

impl Scribe<'_> {
    /// Writes down all that is answered.
    fn write(&mut self, answered: &Receiver<Result<AnsweredBatch>>, observer: &mut dyn Observer) -> Result<()> {
        let mut n_done: Vec<usize> =
            self.tasks.iter().map(|Task { work, .. }| work.selected.len() - work.remaining.len()).collect();
        let mut started = BTreeSet::new();
        let stages = self.stages;
        while let Ok(batch) = answered.recv() {
            stages.time(Stage::Record, || self.write_batch(batch?, &mut n_done, &mut started, observer))?;
        }
        Ok(())
    }

    fn write_batch(
        &mut self,
        batch: AnsweredBatch,
        n_done: &mut [usize],
        started: &mut BTreeSet<TaskId>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Task { dataset, work, .. } = &self.tasks[batch.task.place()];
        let n_done = &mut n_done[batch.task.place()];
        if started.insert(batch.task) {
            let n_total = work.selected.len();
            observer.event(Event::DatasetStarted { dataset: &dataset.name, n_total, n_done: *n_done });
        }
        *n_done += batch.n_done;
        self.stages.count(batch.n_done);
        let mut trials = Vec::new();
        for sample in batch.samples {
            if let Some(failure) = failure(dataset, &sample) {
                observer.event(Event::Warning(format!("{failure}; it counts as unscored")));
            }
            if let Some(failure) = self.server_failure(dataset, &sample) {
                observer.event(Event::Warning(failure));
            }
            if let (Some(features), Ok(Answers { content, answers, .. })) = (self.features, &sample.result) {
                features.keep(content, &answers.made)?;
            }
            self.add_trials(batch.task, sample, &mut trials)?;
        }
        if let Some(warning) = self.cut_thought(&trials) {
            observer.event(Event::Warning(warning));
        }
        append(self.folders, trials)?;
        append(self.folders, self.bench.decided(Duration::ZERO))?;
        for warning in self.features.map(RunFeatures::take_warnings).into_iter().flatten() {
            observer.event(Event::Warning(warning));
        }
        let Tally { n_correct, n_unscored } = self.bench.tally(&dataset.name);
        observer.event(Event::Progress {
            dataset: &dataset.name,
            n_done: *n_done,
            n_correct,
            n_unscored,
            judges: self.bench.counters(),
        });
        Ok(())
    }

    fn add_trials(&mut self, task: TaskId, sample: AnsweredSample, trials: &mut Vec<(RunId, Trial)>) -> Result<()> {
        let Task { dataset, question, probe, .. } = &self.tasks[task.place()];
        let (work, prompt_name) = (sample.work, question.prompt.name.as_str());
        let probe_name = probe.as_ref().map(|shots| shots.prompt_name());
        match sample.result {
            Ok(Answers { content, answers: ImageAnswers { generated, scored, encoder, .. }, probed, from_server }) => {
                let new = |asked, prompt: &str| trial(dataset, work.position, &content, asked, prompt);
                for (run, answer) in generated {
                    let trial = new(GENERATED, prompt_name);
                    let trial = match answer {
                        Ok(answer) => Trial { response: Some(Response::Generated(answer)), ..trial },
                        Err(_) => Trial { outcome: Outcome::Unscored(UnscoredReason::ModelError), ..trial },
                    };
                    trials.push((run, self.bench.submit(run, trial)?));
                }
                for (run, choice) in scored {
                    let trial = scored_trial(new(SCORED, prompt_name), choice);
                    trials.push((run, self.count(trial)));
                }
                if let Some(scores) = encoder {
                    let trial = chosen(new(ZERO_SHOT, CAPTION), scores, None);
                    trials.extend(work.encoder.iter().map(|run| (run, trial.clone())));
                }
                for ((runs, choice), name) in probed.into_iter().zip(probe_name.iter().cycle()) {
                    let trial = probe_trial(new(PROBED, name), dataset, choice);
                    trials.extend(runs.iter().map(|run| (run, trial.clone())));
                }
                self.add_from_server(from_server, &|mode| new((Subject::Model, mode), prompt_name), trials)?;
            }
            Err(unreadable) => {
                let new = |asked, prompt: &str| Trial {
                    outcome: Outcome::Unscored(UnscoredReason::ImageUnreadable),
                    ..trial(dataset, work.position, &unreadable.content, asked, prompt)
                };
                for run in work.generate.iter() {
                    trials.push((run, self.bench.submit(run, new(GENERATED, prompt_name))?));
                }
                for run in work.score.iter() {
                    trials.push((run, self.count(new(SCORED, prompt_name))));
                }
                trials.extend(work.encoder.iter().map(|run| (run, new(ZERO_SHOT, CAPTION))));
                if let Some(name) = &probe_name {
                    trials.extend(work.probe.iter().map(|run| (run, new(PROBED, name))));
                }
            }
        }
        Ok(())
    }

    /// `new` makes a trial of the model in a mode.
    fn add_from_server(
        &mut self,
        from_server: FromServer,
        new: &dyn Fn(Mode) -> Trial,
        trials: &mut Vec<(RunId, Trial)>,
    ) -> Result<()> {
        for (run, label, n_prompt_tokens) in from_server.held {
            let trial = held_trial(new(Mode::Score), label, n_prompt_tokens);
            trials.push((run, self.count(trial)));
        }
        for failure in from_server.failed {
            let reason = if failure.may_pass { UnscoredReason::ModelUnreachable } else { UnscoredReason::ModelError };
            let trial = Trial { outcome: Outcome::Unscored(reason), ..new(failure.mode) };
            let trial =
                if failure.mode == Mode::Generate { self.bench.submit(failure.run, trial)? } else { self.count(trial) };
            trials.push((failure.run, trial));
        }
        Ok(())
    }

    /// Why a server gave no answer, for people, the first time that it says so.
    fn server_failure(&mut self, dataset: &Dataset, sample: &AnsweredSample) -> Option<String> {
        let failed = &sample.result.as_ref().ok()?.from_server.failed;
        let is_new = |failure: &&Failure| !self.told.contains(&failure.message);
        let failure = failed.iter().find(is_new).filter(|_| self.told.len() < N_FAILURES_TOLD)?;
        self.told.insert(failure.message.clone());
        let id = &dataset.samples[sample.work.position].id;
        let hint = if failure.may_pass { ", and the same command retries it" } else { "" };
        Some(format!(
            "{id}: {}; it counts as unscored{hint}; this is not reported again for other images",
            failure.message
        ))
    }

    /// That a model's thought was cut off, for people, the first time.
    fn cut_thought(&mut self, trials: &[(RunId, Trial)]) -> Option<String> {
        let is_cut = |trial: &Trial| trial.outcome == Outcome::Unscored(UnscoredReason::ThoughtCutOff);
        let (_, trial) = trials.iter().find(|(_, trial)| is_cut(trial))?;
        let text = "the model's thought was cut off or never closed, and no answer follows it; it counts as unscored; \
                    hint: --max-new-tokens gives thoughts more room";
        let is_new = self.told.insert(text.to_owned());
        is_new.then(|| format!("{}: {text}; this is not reported again for other images", trial.sample))
    }

    fn count(&mut self, trial: Trial) -> Trial {
        if self.counts_scores {
            self.bench.count(&trial);
        }
        trial
    }
}

/// Why nothing can be said about a sample, for people.
fn failure(dataset: &Dataset, sample: &AnsweredSample) -> Option<String> {
    match &sample.result {
        Err(unreadable) => Some(unreadable.to_string()),
        Ok(Answers { answers, .. }) => {
            let of_generation = answers.generated.iter().find_map(|(_, answer)| answer.as_ref().err());
            let of_scoring = || answers.scored.iter().find_map(|(_, choice)| choice.as_ref().err());
            let error = of_generation.or_else(of_scoring)?;
            Some(format!("{}: {error}", dataset.samples[sample.work.position].id))
        }
    }
}

/// So many kinds of a server's failures are told: some servers put a number of its own into each.
const N_FAILURES_TOLD: usize = 20;

/// A dataset without a readable image is an error: its accuracy would be nothing at all.
fn refuse_unreadable(tasks: &[Task], trials: &[Trial]) -> Result<()> {
    for Task { dataset, .. } in tasks {
        let mut of_model =
            trials.iter().filter(|trial| trial.dataset == dataset.name && trial.subject == Subject::Model).peekable();
        if of_model.peek().is_none() {
            continue;
        }
        if of_model.all(|trial| trial.outcome == Outcome::Unscored(UnscoredReason::ImageUnreadable)) {
            bail!(
                "no image of `{}` could be read; hint: the warnings above name the files; `emt data verify {}` checks them all",
                dataset.name,
                dataset.name
            );
        }
    }
    Ok(())
}

/// A dataset must have something to evaluate.
pub fn refuse_empty(datasets: &[Dataset]) -> Result<()> {
    for dataset in datasets {
        dataset
            .samples
            .first()
            .with_context(|| format!("`{}` has no sample in its split `{}`", dataset.name, dataset.split))?;
    }
    Ok(())
}
