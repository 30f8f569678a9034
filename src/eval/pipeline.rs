//! One run from prepared subjects to a finished folder.

use std::collections::{BTreeMap, HashSet};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::events::{Event, Observer};
use super::images::{Preparation, PreparedBatch, send_batches};
use super::judge::{Bench, Tally};
use super::loaded::EvalSubjects;
use super::plan::{DatasetWork, SampleWork, order, unjudged};
use super::spec::Question;
use super::subjects::{AnsweredBatch, AnsweredSample, Answers, Asker};
use crate::dataset::Dataset;
use crate::domain::{Answer, ErrorCode, Mode, Outcome, ScoredLabel, Stop, Subject, Trial, UnscoredReason};
use crate::judging::Panel;
use crate::record::RunFolder;

/// Everything that a run needs, ready.
pub struct EvalRun<'a> {
    /// The datasets, as the spec lists them.
    pub datasets: &'a [Dataset],
    /// What each still needs.
    pub works: &'a [DatasetWork],
    /// The prompt's name.
    pub prompt_name: &'a str,
    /// The questions of each dataset.
    pub questions: &'a [Question],
    /// Generation stops after as many tokens.
    pub max_new_tokens: usize,
    /// Images in one forward pass.
    pub batch_size: usize,
    /// The judges.
    pub panel: Panel,
    /// The folder, locked.
    pub folder: RunFolder,
    /// What earlier sittings recorded.
    pub recorded: Vec<Trial>,
    /// Whether somebody asked the run to stop.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
}

/// How a run ended.
pub enum Ended {
    /// All is asked and recorded.
    Complete {
        /// One trial a key, in dataset order.
        trials: Vec<Trial>,
        /// Why the language-model judge could not be asked any more, if so.
        judge_error: Option<String>,
    },
    /// Stopped on request; the same command goes on.
    Interrupted,
}

/// Runs to the end, or until stopped. `load` reads the weights; it is not called where nothing is left to ask.
pub fn run(
    run: EvalRun<'_>,
    load: impl FnOnce() -> Result<EvalSubjects>,
    observer: &mut dyn Observer,
) -> Result<Ended> {
    let EvalRun { datasets, works, is_stopped, .. } = run;
    let mut bench = Bench::new(run.panel, &run.folder.manifest().spec.clone());
    bench.remember(&run.recorded)?;
    let mut folder = run.folder;
    let recorded: BTreeMap<_, _> = run.recorded.into_iter().map(|trial| (trial.key(), trial)).collect();
    for trial in unjudged(&recorded) {
        let trial = bench.submit(trial)?;
        if !matches!(trial.outcome, Outcome::Unscored(UnscoredReason::Pending)) {
            folder.append(&[trial])?;
        }
    }
    if works.iter().any(|work| !work.remaining.is_empty()) {
        let subjects = load()?;
        let preparation = Preparation {
            model: subjects.model.preprocessor.clone(),
            encoder: subjects.encoder.as_ref().map(|encoder| encoder.preprocessor.clone()),
        };
        let asker = Asker::new(subjects, datasets, run.questions, run.max_new_tokens)?;
        let mut scribe =
            Scribe { datasets, works, prompt_name: run.prompt_name, bench: &mut bench, folder: &mut folder };
        let todo: Vec<(&Dataset, &[SampleWork])> =
            datasets.iter().zip(works).map(|(dataset, work)| (dataset, work.remaining.as_slice())).collect();
        std::thread::scope(|scope| {
            let (prepared_sender, prepared) = sync_channel::<PreparedBatch>(BATCHES_AHEAD);
            let (answered_sender, answered) = sync_channel::<Result<AnsweredBatch>>(BATCHES_AHEAD);
            scope.spawn(move || send_batches(&preparation, &todo, run.batch_size, is_stopped, prepared_sender));
            scope.spawn(move || answer_batches(&asker, &prepared, &answered_sender));
            scribe.write(&answered, observer)
        })?;
    }
    bench.drain(&mut folder, is_stopped, observer)?;
    if is_stopped() {
        folder.sync()?;
        return Ok(Ended::Interrupted);
    }
    let judge_error = bench.fatal_error();
    let trials = folder.finish(&order(datasets, works))?;
    refuse_unreadable(datasets, &trials)?;
    Ok(Ended::Complete { trials, judge_error })
}

/// One batch is prepared while another is answered; more would only hold memory.
const BATCHES_AHEAD: usize = 1;

fn answer_batches(asker: &Asker, prepared: &Receiver<PreparedBatch>, sender: &SyncSender<Result<AnsweredBatch>>) {
    while let Ok(batch) = prepared.recv() {
        let answered = asker.answer(batch);
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
    prompt_name: &'a str,
    bench: &'a mut Bench,
    folder: &'a mut RunFolder,
}

impl Scribe<'_> {
    /// Writes down all that is answered.
    fn write(&mut self, answered: &Receiver<Result<AnsweredBatch>>, observer: &mut dyn Observer) -> Result<()> {
        let mut n_done: Vec<usize> = self.works.iter().map(|work| work.selected.len() - work.remaining.len()).collect();
        let mut started = HashSet::new();
        while let Ok(batch) = answered.recv() {
            let batch = batch?;
            let index = batch.dataset;
            let dataset = &self.datasets[index];
            if started.insert(index) {
                let n_total = self.works[index].selected.len();
                observer.event(Event::DatasetStarted { dataset: &dataset.name, n_total, n_done: n_done[index] });
            }
            n_done[index] += batch.samples.len();
            let mut trials = Vec::with_capacity(2 * batch.samples.len());
            for sample in batch.samples {
                if let Some(failure) = failure(dataset, &sample) {
                    observer.event(Event::Warning(format!("{failure}; it counts as unscored")));
                }
                self.add_trials(dataset, sample, &mut trials)?;
            }
            self.folder.append(&trials)?;
            let decided = self.bench.decided(Duration::ZERO);
            self.folder.append(&decided)?;
            let Tally { n_correct, n_unscored } = self.bench.tally(&dataset.name);
            observer.event(Event::Progress {
                dataset: &dataset.name,
                n_done: n_done[index],
                n_correct,
                n_unscored,
                judges: self.bench.counters(),
            });
        }
        Ok(())
    }

    fn add_trials(&mut self, dataset: &Dataset, sample: AnsweredSample, trials: &mut Vec<Trial>) -> Result<()> {
        let work = sample.work;
        match sample.result {
            Ok(Answers { content, model, encoder }) => {
                if let Some(answer) = model {
                    let trial = self.model_trial(dataset, work.position, &content, answer);
                    trials.push(self.bench.submit(trial)?);
                }
                if let Some(scores) = encoder {
                    trials.push(encoder_trial(dataset, work.position, &content, scores));
                }
            }
            Err(unreadable) => {
                let outcome = Outcome::Unscored(UnscoredReason::ImageUnreadable);
                if work.needs_model {
                    let trial = trial(dataset, work.position, &unreadable.content, Subject::Model, self.prompt_name);
                    trials.push(self.bench.submit(Trial { outcome, ..trial })?);
                }
                if work.needs_encoder {
                    let trial = trial(dataset, work.position, &unreadable.content, Subject::Encoder, CAPTION);
                    trials.push(Trial { outcome, ..trial });
                }
            }
        }
        Ok(())
    }

    fn model_trial(
        &self,
        dataset: &Dataset,
        position: usize,
        content: &str,
        answer: std::result::Result<Answer, String>,
    ) -> Trial {
        let trial = trial(dataset, position, content, Subject::Model, self.prompt_name);
        match answer {
            Ok(answer) => Trial { answer: Some(answer), ..trial },
            Err(_) => Trial { outcome: Outcome::Unscored(UnscoredReason::ModelError), ..trial },
        }
    }
}

/// Why nothing can be said about a sample, for people.
fn failure(dataset: &Dataset, sample: &AnsweredSample) -> Option<String> {
    match &sample.result {
        Err(unreadable) => Some(unreadable.to_string()),
        Ok(Answers { model: Some(Err(error)), .. }) => {
            Some(format!("{}: {error}", dataset.samples[sample.work.position].id))
        }
        Ok(_) => None,
    }
}

/// The prompt's name in an encoder's trials.
pub(super) const CAPTION: &str = "caption";

/// A trial of which nothing is known yet.
fn trial(dataset: &Dataset, position: usize, content: &str, subject: Subject, prompt: &str) -> Trial {
    let sample = &dataset.samples[position];
    Trial {
        dataset: dataset.name.clone(),
        split: dataset.split.clone(),
        sample: sample.id.clone(),
        content: content.to_owned(),
        label: dataset.labels.labels()[sample.label].name.clone(),
        subject,
        mode: match subject {
            Subject::Model => Mode::Generate,
            Subject::Encoder => Mode::ZeroShot,
        },
        prompt: prompt.to_owned(),
        answer: None,
        scores: Vec::new(),
        verdicts: Vec::new(),
        outcome: Outcome::Unscored(UnscoredReason::Pending),
    }
}

fn encoder_trial(dataset: &Dataset, position: usize, content: &str, scores: Vec<ScoredLabel>) -> Trial {
    let trial = trial(dataset, position, content, Subject::Encoder, CAPTION);
    let Some(best) = scores.first().filter(|best| best.score.is_finite()) else {
        return Trial { outcome: Outcome::Unscored(UnscoredReason::ModelError), ..trial };
    };
    let outcome = if best.label == trial.label { Outcome::Correct } else { Outcome::Incorrect(ErrorCode::Wrong) };
    let answer = Answer {
        text: best.label.clone(),
        stop: Stop::Eos,
        n_prompt_tokens: None,
        n_answer_tokens: None,
        logit_gap: None,
    };
    Trial { answer: Some(answer), scores, outcome, ..trial }
}

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

/// The share of one subject's trials of one dataset that are unscored for another reason than an unreadable image.
pub fn largest_unscored_share(trials: &[Trial]) -> Option<(String, Subject, f64)> {
    let mut counts: BTreeMap<(&str, Subject), (usize, usize)> = BTreeMap::new();
    for trial in trials {
        let (n, n_unscored) = counts.entry((&trial.dataset, trial.subject)).or_default();
        *n += 1;
        if matches!(trial.outcome, Outcome::Unscored(reason) if reason != UnscoredReason::ImageUnreadable) {
            *n_unscored += 1;
        }
    }
    counts
        .into_iter()
        .map(|((dataset, subject), (n, n_unscored))| (dataset.to_owned(), subject, n_unscored as f64 / n as f64))
        .max_by(|a, b| a.2.total_cmp(&b.2))
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
