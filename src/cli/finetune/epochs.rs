//! What is shown and evaluated while a training goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Map;

use super::super::eval::{DatasetFlags, open_datasets, sitting};
use super::super::gallery::{Gallery, N_ERRORS_SHOWN};
use super::super::progress::Progress;
use super::super::reading::ReadingOptions;
use super::super::results::{self, ChartOptions, Format, Results};
use super::super::{environment, interrupt, tuned_on};
use super::FinetuneArgs;
use crate::chart::{self, LineChart};
use crate::dataset::Dataset;
use crate::domain::LabelSet;
use crate::eval::{AdapterRequest, EncoderChoice, Event, Observer, SubjectsRequest};
use crate::finetune::{Curve, TrainingEvent, Watcher};
use crate::model::Placement;
use crate::prompting;
use crate::record::{self, TrainingFolder};
use crate::study::{ComparatorChoice, ComparatorRequest, Evaluate, Evaluation, RespondentRequest};

/// Without a terminal a line is written so often.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

const PNG_WIDTH_PX: u32 = 1600;

/// Shows steps, evaluates epochs, and keeps the curve on the disk.
pub(super) struct Epochs<'a, 'p> {
    args: &'a FinetuneArgs,
    dir: PathBuf,
    progress: &'a mut Progress<'p>,
    curve: Curve,
    /// What is evaluated, once it was opened.
    opened: Option<Opened>,
    /// Warnings of earlier epochs' evaluations.
    told: BTreeSet<String>,
    last_line: Option<Instant>,
    seconds: f64,
    n_steps: usize,
}

impl<'a, 'p> Epochs<'a, 'p> {
    pub fn new(args: &'a FinetuneArgs, folder: &TrainingFolder, progress: &'a mut Progress<'p>) -> Self {
        let tuned_on = args.train.split(',').map(|name| training_name(name.trim())).collect();
        let curve = Curve::new(args.method.name(), tuned_on);
        Self {
            args,
            dir: folder.dir().to_owned(),
            progress,
            curve,
            opened: None,
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

    fn is_evaluated(&self) -> bool {
        self.args.eval_datasets.as_deref() != Some("none")
    }

    /// Evaluates the base, or the adapter of `checkpoint` over it, into `dir`; `None` where somebody asked to stop.
    fn evaluate(&mut self, epoch: usize, checkpoint: Option<&Path>, dir: &Path) -> Result<Option<Evaluation>> {
        let args = self.args;
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => open(args)?,
        };
        let Opened { datasets, tuned_on } = self.opened.insert(opened);
        let mut nowhere = std::io::sink();
        let hub = args.hub.hub(true, &mut nowhere)?;
        let adapter = checkpoint.map(|path| AdapterRequest { name: Some(format!("epoch-{epoch}")), path: path.into() });
        let encoder = match args.encoder.as_deref().unwrap_or("none") {
            "none" => EncoderChoice::None,
            "auto" => EncoderChoice::Auto,
            dir => EncoderChoice::Folder(dir.into()),
        };
        let choice = match encoder {
            EncoderChoice::None => ComparatorChoice::Nothing,
            EncoderChoice::Auto | EncoderChoice::Folder(_) => ComparatorChoice::Auto,
        };
        let subjects = SubjectsRequest {
            encoder,
            template: args.template.as_deref(),
            pixels: args.pixels(),
            adapters: adapter.as_slice(),
            has_base: checkpoint.is_none(),
            // A rate of 0 changes nothing, and that is no fault of the training.
            allows_idle: true,
            hashes: environment::hash_memory(),
            ..SubjectsRequest::new(&args.model, &hub)
        };
        let mut paths = Map::from_iter([("model".to_owned(), args.model.display().to_string().into())]);
        paths.extend(checkpoint.map(|path| ("adapters".to_owned(), vec![path.display().to_string()].into())));
        let request = Evaluate {
            respondent: RespondentRequest::Checkpoint(subjects),
            comparator: ComparatorRequest { choice, ..ComparatorRequest::default() },
            limit: Some(args.eval_limit),
            template: prompting::load(&args.prompt)?,
            max_new_tokens: args.max_new_tokens,
            placement: Placement::new(&args.device, "f32")?,
            feature_cache: args.feature_cache.open()?,
            environment: sitting(paths, Some(args.eval_limit)),
            ..Evaluate::new(&args.model, &hub, datasets.clone(), dir)?
        };
        let mut planned = request.open()?.plan(tuned_on.clone(), args.judging.panel_config()?)?;
        // An answer without a verdict is unscored in the curve, and is no reason to end the training.
        planned.panel.tolerate_unparsable();
        let mut observer = WarningsOnly { progress: &mut *self.progress, told: &mut self.told };
        planned.evaluate(&interrupt::is_stopped, &mut observer)
    }

    fn write_curve(&self) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.curve)?;
        record::write_file(&self.dir, "curve.json", format!("{json}\n").as_bytes())?;
        let Some(chart) = LineChart::of_curve(&self.curve) else { return Ok(()) };
        let svg = chart::lines(&chart);
        record::write_file(&self.dir, "curve.png", &chart::png(&svg, PNG_WIDTH_PX)?)?;
        Ok(record::write_file(&self.dir, "curve.svg", svg.as_bytes())?)
    }
}

/// What every epoch is evaluated on.
struct Opened {
    datasets: Vec<Dataset>,
    /// The label sets that are trained on, by dataset.
    tuned_on: BTreeMap<String, LabelSet>,
}

fn open(args: &FinetuneArgs) -> Result<Opened> {
    let flags = DatasetFlags {
        datasets: args.eval_datasets.as_deref(),
        split: None,
        labels: None,
        places: &args.places,
        reading: &ReadingOptions::default(),
        hub: &args.hub,
    };
    let datasets = open_datasets(&args.model, &flags, true, &mut std::io::sink())?.datasets;
    let tuned_on = tuned_on::Planned::new(Some(&args.train), &[], &args.places)?;
    Ok(Opened { datasets, tuned_on: tuned_on.of_all })
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

/// A dataset's name as its runs have it.
fn training_name(text: &str) -> String {
    text.split_once('=').map_or(text, |(name, _)| name).to_owned()
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
                        "step {step}/{n_steps} (epoch {epoch}): loss {:.4}, gradient norm {:.3}, rate {learning_rate:.2e}, \
                         {per_step:.2} s a step, {} left",
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
        if !self.is_evaluated() {
            return Ok(true);
        }
        let dir = self.dir.join("eval").join(format!("epoch-{epoch}"));
        let evaluated = self.evaluate(epoch, checkpoint, &dir);
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
pub(super) fn print(curve: &Curve, dir: &Path, quiet: bool, out: &mut dyn Write) -> Result<()> {
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
