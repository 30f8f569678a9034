//! Takes a run from prepared subjects to a finished folder.

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
use crate::model::run::subjects::ItemAnswers;
use crate::record::RunFolder;

/// Everything that a run needs.
pub struct EvalRun<'a> {
    /// The datasets and what is asked of them, in the order of the specification.
    pub tasks: Vec<Task>,
    /// The modes in which the models are evaluated.
    pub modes: Vec<Mode>,
    /// Generation stops after this many tokens.
    pub max_new_tokens: usize,
    /// Images per forward pass.
    pub batch_size: usize,
    /// Samples per run that a server is asked again at the end; 0 if the models run locally.
    pub n_repeats: usize,
    /// The judges.
    pub panel: Panel,
    /// The runs that proceed in lock-step.
    pub runs: Vec<OpenRun>,
    /// Whether the run should stop.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
}

/// A run's folder, locked, and what earlier sittings recorded in it.
pub struct OpenRun {
    /// The folder with its journal.
    pub folder: RunFolder,
    /// The recorded trials, one per key.
    pub recorded: Vec<Trial>,
}

/// How a run ended.
pub enum Ended {
    /// Everything is asked and recorded.
    Complete {
        /// By run, one trial per key, in dataset order.
        trials: Vec<Vec<Trial>>,
        /// The tasks that were done.
        tasks: Vec<Task>,
        /// The error that ended the language-model judge, if any.
        judge_error: Option<String>,
    },
    /// Stopped on request; the same command resumes.
    Interrupted,
}

/// Runs until the plan is done or the run is stopped. `load` reads the weights and is called only if something is left
/// to ask.
pub fn run(run: EvalRun<'_>, load: impl FnOnce() -> Result<Loaded>, observer: &mut dyn Observer) -> Result<Ended> {
    let mut load = Some(load);
    let mut session = Session::open(run)?;
    let mut take = || load.take().context("the subjects are loaded once")?();
    if !session.ask(&mut take, observer)? || !session.repeat(&mut take)? {
        return Ok(Ended::Interrupted);
    }
    session.finish()
}

/// Runs in lock-step, in several steps. Subjects are loaded once, and every answer is journalled.
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
    /// The notice from the fixed questions, not shown yet.
    judge_notice: Option<JudgeNotice>,
    /// The cache of tower features.
    features: Option<Arc<RunFeatures>>,
    stages: Stages,
}

impl<'a> Session<'a> {
    /// Opens the bench of judges and submits the answers that earlier sittings left unjudged.
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

    /// The tasks of the session.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Replans what remains to be asked of each task.
    ///
    /// # Errors
    /// `plan` fails.
    pub fn plan(&mut self, mut plan: impl FnMut(&Dataset) -> Result<DatasetWork>) -> Result<()> {
        for task in &mut self.tasks {
            task.work = plan(&task.dataset)?;
        }
        Ok(())
    }

    /// Asks what the plan has left and waits for the judges. `load` reads the weights when they are first needed.
    /// Returns `false` if the run was stopped; all answers are then on disk.
    pub fn ask(&mut self, load: impl FnOnce() -> Result<Loaded>, observer: &mut dyn Observer) -> Result<bool> {
        if self.tasks.iter().any(|task| !task.work.remaining.is_empty()) {
            self.has_asked = true;
            let is_generated = self.modes.contains(&Mode::Generate);
            // The judge is checked before weights are read: a wrong key or model shows in seconds.
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

    /// Passes images to the respondent, on its own thread, and its answers into the journal.
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

    /// Asks a server about some samples again and notes how many answers changed: the server's own noise. `load` is as
    /// in [`ask`](Self::ask). Returns `false` if the run was stopped.
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

    /// Loads the respondent unless it is loaded.
    fn load(&mut self, load: impl FnOnce() -> Result<Loaded>) -> Result<()> {
        if self.respondent.is_none() {
            let Loaded(mut respondent) = load()?;
            respondent.prepare(&self.tasks, &Asked { modes: &self.modes, max_new_tokens: self.max_new_tokens })?;
            self.features = respondent.features();
            self.respondent = Some(respondent);
        }
        Ok(())
    }

    /// Finishes the runs and sorts their journals into the order of the planned samples.
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

/// Writes to the journals and the judges, on the caller's thread.
struct Scribe<'a> {
    tasks: &'a [Task],
    /// Whether progress counts choices among labels, because nothing is generated.
    counts_scores: bool,
    bench: &'a mut Bench,
    folders: &'a mut [RunFolder],
    /// Failures of a server that were already shown: it may repeat one for every image.
    told: BTreeSet<String>,
    /// The cache of tower features.
    features: Option<&'a RunFeatures>,
    stages: &'a Stages,
}

impl Scribe<'_> {
    /// Writes down all answers.
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
            if let (Some(features), Ok(Answers { images, answers, .. })) = (self.features, &sample.result) {
                images.iter().zip(&answers.made).try_for_each(|(content, made)| features.keep(content, made))?;
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
            Ok(Answers { content, answers, probed, from_server, .. }) => {
                let ItemAnswers { generated, scored, encoder, .. } = answers;
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

    /// Adds the trials of a served sample. `new` makes a trial of the model in a mode.
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

    /// Returns the warning for a server's failure, the first time that it occurs.
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

    /// Returns the warning for a cut-off thought, the first time that it occurs.
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

/// Returns the warning for a sample that cannot be evaluated.
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

/// The most kinds of server failures that are shown: some servers put a varying number into each message.
const N_FAILURES_TOLD: usize = 20;

/// Refuses a dataset without a readable image, since it has no accuracy.
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

/// Refuses a dataset without samples.
pub fn refuse_empty(datasets: &[Dataset]) -> Result<()> {
    for dataset in datasets {
        dataset
            .samples
            .first()
            .with_context(|| format!("`{}` has no sample in its split `{}`", dataset.name, dataset.split))?;
    }
    Ok(())
}
