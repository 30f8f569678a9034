//! One run from prepared subjects to a finished folder.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::desk::ServerAsker;
use super::events::{Event, Observer};
use super::features::RunFeatures;
use super::images::{Preparation, Prepare, Prepared, PreparedBatch, send_batches};
use super::judge::{self, Bench, Tally, append};
use super::opened::LoadedSubjects;
use super::plan::{DatasetWork, SampleWork, order, unjudged};
use super::probe::{Shots, probe_trial};
use super::repeat;
use super::spec::Question;
use super::subjects::{AnsweredBatch, AnsweredSample, Answers, Asker, Failure, FromServer};
use super::timing::{Stage, Stages, TIMING};
use super::trials::{CAPTION, GENERATED, PROBED, SCORED, ZERO_SHOT, chosen, held_trial, scored_trial, trial};
use crate::dataset::Dataset;
use crate::domain::{Mode, Outcome, Subject, Trial, UnscoredReason};
use crate::judging::{JudgeNotice, Panel};
use crate::model::subjects::ImageAnswers;
use crate::record::RunFolder;

/// Everything that a run needs, ready.
pub struct EvalRun<'a> {
    /// The datasets, as the spec lists them.
    pub datasets: &'a [Dataset],
    /// The prompt's name.
    pub prompt_name: &'a str,
    /// The questions of each dataset.
    pub questions: &'a [Question],
    /// The shots of each dataset's probe, where it has one.
    pub probes: &'a [Option<Shots>],
    /// What the models are asked to do with them.
    pub modes: &'a [Mode],
    /// Generation stops after as many tokens.
    pub max_new_tokens: usize,
    /// Images in one forward pass.
    pub batch_size: usize,
    /// Samples that a server is asked about again at the end, a run; 0 where the models are here.
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
        /// Of each run, one trial a key, in dataset order.
        trials: Vec<Vec<Trial>>,
        /// Why the language-model judge could not be asked any more, if so.
        judge_error: Option<String>,
    },
    /// Stopped on request; the same command goes on.
    Interrupted,
}

/// Runs to the end of `works`, or until stopped. `load` reads the weights; it is not called where nothing is left to ask.
pub fn run(
    run: EvalRun<'_>,
    works: &[DatasetWork],
    load: impl FnOnce() -> Result<LoadedSubjects>,
    observer: &mut dyn Observer,
) -> Result<Ended> {
    let mut load = Some(load);
    let mut session = Session::open(run)?;
    let mut take = || load.take().context("the subjects are loaded once")?();
    if !session.ask(works, &mut take, observer)? || !session.repeat(works, &mut take)? {
        return Ok(Ended::Interrupted);
    }
    session.finish(works)
}

/// Runs that go on in lock-step, piece by piece: subjects are loaded once, and everything that was asked is journalled.
pub struct Session<'a> {
    datasets: &'a [Dataset],
    prompt_name: &'a str,
    questions: &'a [Question],
    probes: &'a [Option<Shots>],
    modes: &'a [Mode],
    max_new_tokens: usize,
    batch_size: usize,
    is_stopped: &'a (dyn Fn() -> bool + Sync),
    bench: Bench,
    folders: Vec<RunFolder>,
    asker: Option<Answerer<'a>>,
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

/// Whoever answers, with how images are prepared for it.
enum Answerer<'a> {
    Local(Box<Asker<'a>>, Preparation),
    Served(Box<ServerAsker>),
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
        for (index, OpenRun { mut folder, recorded }) in run.runs.into_iter().enumerate() {
            let recorded: BTreeMap<_, _> = recorded.into_iter().map(|trial| (trial.key(), trial)).collect();
            let unjudged = unjudged(&recorded);
            if !unjudged.is_empty() && !std::mem::replace(&mut is_judge_checked, true) {
                judge_notice = bench.check(run.is_stopped)?;
            }
            for trial in unjudged {
                let trial = bench.submit(index, trial)?;
                if !matches!(trial.outcome, Outcome::Unscored(UnscoredReason::Pending)) {
                    folder.append(&[trial])?;
                }
            }
            folders.push(folder);
        }
        Ok(Self {
            datasets: run.datasets,
            prompt_name: run.prompt_name,
            questions: run.questions,
            probes: run.probes,
            modes: run.modes,
            max_new_tokens: run.max_new_tokens,
            batch_size: run.batch_size,
            is_stopped: run.is_stopped,
            bench,
            folders,
            asker: None,
            n_repeats: run.n_repeats,
            has_asked: false,
            is_judge_checked,
            judge_notice,
            features: None,
            stages: Stages::default(),
        })
    }

    /// Asks what remains of `works`, one a dataset, and waits for its judges; `load` reads the weights where they are needed
    /// for the first time. `false` where somebody asked to stop: then all that was answered is on the disk.
    pub fn ask(
        &mut self,
        works: &[DatasetWork],
        load: impl FnOnce() -> Result<LoadedSubjects>,
        observer: &mut dyn Observer,
    ) -> Result<bool> {
        if works.iter().any(|work| !work.remaining.is_empty()) {
            self.has_asked = true;
            let is_generated = self.modes.contains(&Mode::Generate);
            // Before weights are read: a wrong key or model shows in seconds.
            if is_generated && !std::mem::replace(&mut self.is_judge_checked, true) {
                self.judge_notice = self.bench.check(self.is_stopped)?;
            }
            self.tell_of_judge(observer);
            let answerer = match self.asker.take() {
                Some(loaded) => loaded,
                None => self.load(works, load)?,
            };
            self.asker = Some(match answerer {
                Answerer::Local(mut asker, preparation) => {
                    let asker = self.flow(works, &preparation, observer, move |prepared, sender, stages| {
                        answer_batches(&mut asker, prepared, sender, stages);
                        asker
                    })?;
                    Answerer::Local(asker, preparation)
                }
                Answerer::Served(asker) => {
                    let (preparation, is_stopped) = (asker.preparation(), self.is_stopped);
                    Answerer::Served(self.flow(works, &preparation, observer, move |prepared, sender, _| {
                        asker.answer_all(prepared, sender, is_stopped);
                        asker
                    })?)
                }
            });
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

    /// Lets images flow to `answer`, and its answers into the journal. The thread that answers owns the subjects while it
    /// runs, and gives them back.
    fn flow<P: Prepare, A: Send>(
        &mut self,
        works: &[DatasetWork],
        preparation: &P,
        observer: &mut dyn Observer,
        answer: impl FnOnce(&Receiver<PreparedBatch<P::Image>>, &SyncSender<Result<AnsweredBatch>>, &Stages) -> A + Send,
    ) -> Result<A> {
        let mut scribe = Scribe {
            datasets: self.datasets,
            works,
            probes: self.probes,
            prompt_name: self.prompt_name,
            counts_scores: !self.modes.contains(&Mode::Generate),
            bench: &mut self.bench,
            folders: &mut self.folders,
            told: HashSet::new(),
            features: self.features.as_deref(),
            stages: &self.stages,
        };
        let todo: Vec<(&Dataset, &[SampleWork])> =
            self.datasets.iter().zip(works).map(|(dataset, work)| (dataset, work.remaining.as_slice())).collect();
        let (batch_size, is_stopped, stages) = (self.batch_size, self.is_stopped, &self.stages);
        let flow = || {
            std::thread::scope(|scope| {
                let (prepared_sender, prepared) = sync_channel(BATCHES_AHEAD);
                let (answered_sender, answered) = sync_channel::<Result<AnsweredBatch>>(BATCHES_AHEAD);
                scope.spawn(move || send_batches(preparation, &todo, batch_size, is_stopped, stages, prepared_sender));
                let answering = scope.spawn(move || answer(&prepared, &answered_sender, stages));
                scribe.write(&answered, observer)?;
                answering.join().map_err(|_| anyhow!("the thread that answers panicked"))
            })
        };
        stages.time(Stage::Flow, flow)
    }

    /// Asks a server again about some samples, and notes how many answers changed: its own noise. `load` is as in
    /// [`ask`](Self::ask). `false` where somebody asked to stop.
    pub fn repeat(&mut self, works: &[DatasetWork], load: impl FnOnce() -> Result<LoadedSubjects>) -> Result<bool> {
        let is_noted = |folder: &RunFolder| folder.manifest().environment.contains_key(repeat::SERVER_FLIPS);
        let is_generated = self.modes.contains(&Mode::Generate);
        if self.n_repeats == 0 || !is_generated || (!self.has_asked && self.folders.iter().all(is_noted)) {
            return Ok(true);
        }
        if self.asker.is_none() {
            self.asker = Some(self.load(works, load)?);
        }
        if let Some(Answerer::Served(asker)) = &self.asker {
            for run in 0..self.folders.len() {
                if (self.is_stopped)() {
                    return Ok(false);
                }
                let chosen = repeat::choose(self.folders[run].dir(), self.datasets, works, self.n_repeats)?;
                let flips = repeat::ask(asker, &mut self.bench, run, self.datasets, &chosen)?;
                self.folders[run].note(repeat::SERVER_FLIPS, flips);
            }
        }
        Ok(true)
    }

    fn load(&mut self, works: &[DatasetWork], load: impl FnOnce() -> Result<LoadedSubjects>) -> Result<Answerer<'a>> {
        let subjects = match load()? {
            LoadedSubjects::Local(local) => local,
            LoadedSubjects::Served(ready) => {
                let asker = ServerAsker::new(ready, self.datasets, self.questions, self.max_new_tokens)?;
                return Ok(Answerer::Served(Box::new(asker)));
            }
        };
        let preparation = Preparation {
            views: subjects.loaded.views().to_vec(),
            view_of: subjects.loaded.view_of().to_vec(),
            encoder: subjects.loaded.encoder_preprocessor().cloned(),
            features: subjects.features.clone(),
        };
        let scores_labels = self.modes.contains(&Mode::Score);
        let asker =
            Asker::new(subjects, self.datasets, self.questions, self.probes, self.max_new_tokens, scores_labels)?;
        asker.refuse_idle_adapters(self.datasets, works)?;
        self.features = preparation.features.clone();
        Ok(Answerer::Local(Box::new(asker), preparation))
    }

    /// Ends the runs: their journals are compacted to the order of `works`' samples.
    pub fn finish(mut self, works: &[DatasetWork]) -> Result<Ended> {
        if let Some(parameters) = self.bench.effective_parameters() {
            self.folders.iter_mut().for_each(|folder| folder.note("judge_parameters", parameters.clone()));
        }
        let in_sync = self.folders.iter().map(RunFolder::time_in_sync).sum();
        if let Some(timing) = self.stages.to_json(in_sync) {
            self.folders.iter_mut().for_each(|folder| folder.note(TIMING, timing.clone()));
        }
        let judge_error = self.bench.fatal_error();
        let order = order(self.datasets, works);
        let trials: Vec<Vec<Trial>> =
            self.folders.into_iter().map(|folder| folder.finish(&order)).collect::<Result<_, _>>()?;
        trials.iter().try_for_each(|trials| refuse_unreadable(self.datasets, trials))?;
        Ok(Ended::Complete { trials, judge_error })
    }
}

/// One batch is prepared while another is answered; more would only hold memory.
const BATCHES_AHEAD: usize = 1;

fn answer_batches(
    asker: &mut Asker<'_>,
    prepared: &Receiver<PreparedBatch<Prepared>>,
    sender: &SyncSender<Result<AnsweredBatch>>,
    stages: &Stages,
) {
    while let Ok(batch) = stages.time(Stage::WaitForImages, || prepared.recv()) {
        let answered = stages.time(Stage::Answer, || asker.answer(batch));
        let is_failed = answered.is_err();
        if sender.send(answered).is_err() || is_failed {
            return;
        }
    }
}

/// The thread that owns journal and judges.
struct Scribe<'a> {
    datasets: &'a [Dataset],
    works: &'a [DatasetWork],
    probes: &'a [Option<Shots>],
    prompt_name: &'a str,
    /// Whether progress is told of choices among labels, since nothing is generated.
    counts_scores: bool,
    bench: &'a mut Bench,
    folders: &'a mut [RunFolder],
    /// A server's failures that were told already: it may say the same of every image.
    told: HashSet<String>,
    /// Where towers' features are kept.
    features: Option<&'a RunFeatures>,
    stages: &'a Stages,
}

impl Scribe<'_> {
    /// Writes down all that is answered.
    fn write(&mut self, answered: &Receiver<Result<AnsweredBatch>>, observer: &mut dyn Observer) -> Result<()> {
        let mut n_done: Vec<usize> = self.works.iter().map(|work| work.selected.len() - work.remaining.len()).collect();
        let mut started = HashSet::new();
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
        started: &mut HashSet<usize>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let index = batch.dataset;
        let dataset = &self.datasets[index];
        if started.insert(index) {
            let n_total = self.works[index].selected.len();
            observer.event(Event::DatasetStarted { dataset: &dataset.name, n_total, n_done: n_done[index] });
        }
        n_done[index] += batch.n_done;
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
            self.add_trials(index, sample, &mut trials)?;
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
            n_done: n_done[index],
            n_correct,
            n_unscored,
            judges: self.bench.counters(),
        });
        Ok(())
    }

    fn add_trials(&mut self, index: usize, sample: AnsweredSample, trials: &mut Vec<(usize, Trial)>) -> Result<()> {
        let (work, dataset, prompt_name) = (sample.work, &self.datasets[index], self.prompt_name);
        let probe_name = self.probes[index].as_ref().map(Shots::prompt_name).unwrap_or_default();
        match sample.result {
            Ok(Answers { content, answers: ImageAnswers { generated, scored, encoder, .. }, probed, from_server }) => {
                let new = |asked, prompt| trial(dataset, work.position, &content, asked, prompt);
                for (run, answer) in generated {
                    let trial = new(GENERATED, self.prompt_name);
                    let trial = match answer {
                        Ok(answer) => Trial { answer: Some(answer), ..trial },
                        Err(_) => Trial { outcome: Outcome::Unscored(UnscoredReason::ModelError), ..trial },
                    };
                    trials.push((run, self.bench.submit(run, trial)?));
                }
                for (run, choice) in scored {
                    let trial = scored_trial(new(SCORED, self.prompt_name), choice);
                    trials.push((run, self.count(trial)));
                }
                if let Some(scores) = encoder {
                    let trial = chosen(new(ZERO_SHOT, CAPTION), scores);
                    trials.extend(work.encoder.iter().map(|run| (run, trial.clone())));
                }
                for (runs, choice) in probed {
                    let trial = probe_trial(new(PROBED, &probe_name), dataset, choice);
                    trials.extend(runs.iter().map(|run| (run, trial.clone())));
                }
                self.add_from_server(from_server, &|mode| new((Subject::Model, mode), prompt_name), trials)?;
            }
            Err(unreadable) => {
                let new = |asked, prompt| Trial {
                    outcome: Outcome::Unscored(UnscoredReason::ImageUnreadable),
                    ..trial(dataset, work.position, &unreadable.content, asked, prompt)
                };
                for run in work.generate.iter() {
                    trials.push((run, self.bench.submit(run, new(GENERATED, self.prompt_name))?));
                }
                for run in work.score.iter() {
                    trials.push((run, self.count(new(SCORED, self.prompt_name))));
                }
                trials.extend(work.encoder.iter().map(|run| (run, new(ZERO_SHOT, CAPTION))));
                trials.extend(work.probe.iter().map(|run| (run, new(PROBED, &probe_name))));
            }
        }
        Ok(())
    }

    /// `new` makes a trial of the model in a mode.
    fn add_from_server(
        &mut self,
        from_server: FromServer,
        new: &dyn Fn(Mode) -> Trial,
        trials: &mut Vec<(usize, Trial)>,
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
        let hint = if failure.may_pass { ", and the same command asks again" } else { "" };
        Some(format!("{id}: {}; it counts as unscored{hint}; of other images this is not told again", failure.message))
    }

    /// That a model's thought was cut off, for people, the first time.
    fn cut_thought(&mut self, trials: &[(usize, Trial)]) -> Option<String> {
        let is_cut = |trial: &Trial| trial.outcome == Outcome::Unscored(UnscoredReason::ThoughtCutOff);
        let (_, trial) = trials.iter().find(|(_, trial)| is_cut(trial))?;
        let text = "the model's thought was cut off, or never closed, and no answer stands behind it; it counts as unscored; hint: \
                    --max-new-tokens gives thoughts more room";
        let is_new = self.told.insert(text.to_owned());
        is_new.then(|| format!("{}: {text}; of other images this is not told again", trial.sample))
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
fn refuse_unreadable(datasets: &[Dataset], trials: &[Trial]) -> Result<()> {
    for dataset in datasets {
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
