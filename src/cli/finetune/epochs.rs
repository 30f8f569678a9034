//! What is shown and evaluated while a training goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Map;

use super::super::eval::sitting;
use super::super::gallery::{Gallery, N_ERRORS_SHOWN};
use super::super::progress::Progress;
use super::super::results::{self, ChartOptions, Format, Results};
use super::super::{environment, interrupt};
use crate::chart::{self, LineChart};
use crate::dataset::Dataset;
use crate::domain::LabelSet;
use crate::eval::{AdapterRequest, EncoderChoice, Event, Observer, SubjectsRequest};
use crate::finetune::{Curve, TrainingEvent, Watcher};
use crate::judging::PanelConfig;
use crate::model::Placement;
use crate::model::checkpoint::weights::Hub;
use crate::model::vision::preprocess::PixelLimits;
use crate::prompting;
use crate::record::{self, FeatureCache, TrainingFolder};
use crate::study::{
    self, ComparatorChoice, ComparatorRequest, Evaluate, Evaluation, PlannedEvaluation, RespondentRequest,
};

/// Without a terminal a line is written so often.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What is evaluated before training and after each epoch, and how.
pub(in crate::cli) struct EpochEvaluations<'a> {
    /// The base.
    pub model: &'a Path,
    /// Where names on the hub are looked up.
    pub hub: &'a Hub<'a>,
    /// What it is evaluated on.
    pub datasets: Vec<Dataset>,
    /// The label sets that are trained on, by dataset.
    pub tuned_on: BTreeMap<String, LabelSet>,
    /// Images per dataset, at most.
    pub limit: usize,
    /// What it is compared with.
    pub encoder: EncoderChoice,
    /// A chat template over the checkpoint's own.
    pub template: Option<&'a str>,
    /// Limits to the pixels of an image.
    pub pixels: PixelLimits,
    /// The question's name or file.
    pub question: &'a str,
    /// Tokens per answer, at most.
    pub max_new_tokens: usize,
    /// Where it computes.
    pub device: &'a str,
    /// Who judges.
    pub judges: PanelConfig,
    /// Where features of the tower are kept.
    pub feature_cache: Option<Arc<FeatureCache>>,
}

impl EpochEvaluations<'_> {
    /// Evaluates the base, or the adapter of `checkpoint` over it, into `dir`; `None` where somebody asked to stop.
    fn run(
        &self,
        epoch: usize,
        checkpoint: Option<&Path>,
        dir: &Path,
        observer: &mut dyn Observer,
    ) -> Result<Option<Evaluation>> {
        self.plan(epoch, checkpoint, dir)?.evaluate(&interrupt::is_stopped, observer)
    }

    /// Settles the evaluation of the base, or of the adapter of `checkpoint` over it; no weight is read yet.
    pub fn plan(&self, epoch: usize, checkpoint: Option<&Path>, dir: &Path) -> Result<PlannedEvaluation> {
        let adapter = checkpoint.map(|path| AdapterRequest::new(Some(format!("epoch-{epoch}")), path.into()));
        let choice = match self.encoder {
            EncoderChoice::None => ComparatorChoice::Nothing,
            EncoderChoice::Auto | EncoderChoice::Folder(_) => ComparatorChoice::Auto,
        };
        let subjects = SubjectsRequest {
            encoder: self.encoder.clone(),
            template: self.template,
            pixels: self.pixels,
            adapters: adapter.as_slice(),
            has_base: checkpoint.is_none(),
            // A rate of 0 changes nothing, and that is no fault of the training.
            allows_idle: true,
            hashes: environment::hash_memory(),
            ..SubjectsRequest::new(self.model, self.hub)
        };
        let mut paths = Map::from_iter([("model".to_owned(), self.model.display().to_string().into())]);
        paths.extend(checkpoint.map(|path| ("adapters".to_owned(), vec![path.display().to_string()].into())));
        let request = Evaluate {
            respondent: RespondentRequest::Checkpoint(subjects),
            comparator: ComparatorRequest { choice, ..ComparatorRequest::default() },
            limit: Some(self.limit),
            template: prompting::load(self.question)?,
            max_new_tokens: self.max_new_tokens,
            placement: Placement::new(self.device, "f32")?,
            feature_cache: self.feature_cache.clone(),
            environment: sitting(paths, Some(self.limit), None),
            ..Evaluate::new(self.model, self.hub, self.datasets.clone(), dir)?
        };
        let mut planned = request.open()?.plan(self.tuned_on.clone(), self.judges.clone())?;
        // An answer without a verdict is unscored in the curve, and is no reason to end the training.
        planned.panel.tolerate_unparsable();
        Ok(planned)
    }
}

/// Shows steps, evaluates epochs, and keeps the curve on the disk.
pub(super) struct Epochs<'a, 'p> {
    evaluations: Option<EpochEvaluations<'a>>,
    dir: PathBuf,
    progress: &'a mut Progress<'p>,
    curve: Curve,
    /// Warnings of earlier epochs' evaluations.
    told: BTreeSet<String>,
    last_line: Option<Instant>,
    seconds: f64,
    n_steps: usize,
}

impl<'a, 'p> Epochs<'a, 'p> {
    pub fn new(
        evaluations: Option<EpochEvaluations<'a>>,
        curve: Curve,
        folder: &TrainingFolder,
        progress: &'a mut Progress<'p>,
    ) -> Self {
        Self {
            evaluations,
            dir: folder.dir().to_owned(),
            progress,
            curve,
            told: BTreeSet::new(),
            last_line: None,
            seconds: 0.0,
            n_steps: 0,
        }
    }

    /// Draws the loss of all steps so far.
    pub fn write_losses(&self, folder: &TrainingFolder) -> Result<()> {
        let losses: Vec<(u64, f64)> =
            folder.logged()?.iter().filter_map(|line| Some((line["step"].as_u64()?, line["loss"].as_f64()?))).collect();
        let Some(chart) = LineChart::of_losses(&losses) else { return Ok(()) };
        Ok(record::write_file(&self.dir, "loss.svg", chart::lines(&chart).as_bytes())?)
    }

    /// What was evaluated.
    pub fn into_curve(self) -> Curve {
        self.curve
    }

    fn write_curve(&self) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.curve)?;
        record::write_file(&self.dir, "curve.json", format!("{json}\n").as_bytes())?;
        let Some(chart) = LineChart::of_curve(&self.curve) else { return Ok(()) };
        let svg = chart::lines(&chart);
        record::write_file(&self.dir, "curve.png", &chart::png(&svg, chart::PNG_WIDTH_PX)?)?;
        Ok(record::write_file(&self.dir, "curve.svg", svg.as_bytes())?)
    }
}

/// Tells the warnings of evaluations, each once in a training.
struct WarningsOnly<'a, 'p> {
    progress: &'a mut Progress<'p>,
    told: &'a mut BTreeSet<String>,
}

impl Observer for WarningsOnly<'_, '_> {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Warning(text) = event
            && self.told.insert(text.clone())
        {
            self.progress.say(&format!("warning: {text}"));
        }
    }
}

impl Watcher for Epochs<'_, '_> {
    fn event(&mut self, event: TrainingEvent) {
        match event {
            TrainingEvent::Step { step, n_steps, epoch, report, learning_rate, duration } => {
                self.seconds += duration.as_secs_f64();
                self.n_steps += 1;
                let is_due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) || step == n_steps;
                if is_due {
                    self.last_line = Some(Instant::now());
                    let per_step = self.seconds / self.n_steps as f64;
                    let left = Duration::from_secs((per_step * (n_steps - step) as f64) as u64);
                    self.progress.say(&format!(
                        "step {step}/{n_steps} (epoch {epoch}): loss {:.4}, gradient norm {:.3}, rate \
                         {learning_rate:.2e}, {per_step:.2} s per step, {} left",
                        report.loss,
                        report.grad_norm,
                        humantime::format_duration(left)
                    ));
                }
            }
            TrainingEvent::Saved { step } => self.progress.say(&format!("checkpoint-{step} is written")),
        }
    }

    fn epoch_ended(&mut self, epoch: usize, step: usize, checkpoint: Option<&Path>) -> Result<bool> {
        let Some(evaluations) = &self.evaluations else { return Ok(true) };
        let dir = study::epoch_dir(&self.dir, epoch);
        let mut observer = WarningsOnly { progress: &mut *self.progress, told: &mut self.told };
        let evaluated = evaluations.run(epoch, checkpoint, &dir, &mut observer);
        let place = || format!("the evaluation after epoch {epoch} failed");
        let Some(Evaluation { runs, datasets, .. }) = evaluated.with_context(place)? else { return Ok(false) };
        let (charts, gallery) = (ChartOptions::plain(), Gallery::of_datasets(datasets, N_ERRORS_SHOWN));
        let finished: Vec<Results> = runs.iter().map(|run| Results::of(run, &charts, &gallery)).collect();
        results::write_all(&finished, Format::Table, true, &mut std::io::sink())?;
        let summary = record::read_summary(&dir)?;
        self.curve.add(epoch, step, &summary);
        let shares: Vec<String> = summary
            .datasets
            .iter()
            .filter_map(|dataset| {
                let accuracy = dataset.model.as_ref()?.accuracy?;
                Some(format!("{} {:.1}%", dataset.dataset, accuracy * 100.0))
            })
            .collect();
        let when = if epoch == 0 { "before training".to_owned() } else { format!("after epoch {epoch}") };
        self.progress.say(&format!("{when}: {}", shares.join(", ")));
        self.write_curve()?;
        Ok(true)
    }
}

/// The curve as a table: a row a dataset, a column an epoch.
pub(in crate::cli) fn print(curve: &Curve, dir: &Path, quiet: bool, out: &mut dyn Write) -> Result<()> {
    let width = curve.datasets.iter().map(|curve| curve.dataset.chars().count() + 11).max().unwrap_or(0).max(20);
    let Some(longest) = curve.datasets.iter().max_by_key(|curve| curve.points.len()) else {
        return Ok(());
    };
    let epochs: Vec<usize> = longest.points.iter().map(|point| point.epoch).collect();
    let heads: Vec<String> =
        epochs.iter().map(|&epoch| if epoch == 0 { "base".to_owned() } else { format!("epoch {epoch}") }).collect();
    let head: String = heads.iter().map(|head| format!("{head:>10}")).collect();
    writeln!(out, "{:<width$}{head}", "accuracy, %")?;
    for dataset in &curve.datasets {
        let name =
            if dataset.is_tuned_on { format!("{} (tuned on)", dataset.dataset) } else { dataset.dataset.clone() };
        let cells: String = dataset
            .points
            .iter()
            .map(|point| {
                let text = chart::words::percent_number(point.accuracy);
                format!("{:>10}", if point.marks.is_empty() { text } else { format!("{text} !") })
            })
            .collect();
        writeln!(out, "{name:<width$}{cells}")?;
    }
    if !quiet {
        writeln!(
            out,
            "\n! early warning, see curve.json\n{}: curve.svg, curve.png, curve.json, loss.svg, the adapter",
            dir.display()
        )?;
    }
    Ok(())
}
