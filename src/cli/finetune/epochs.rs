//! What is shown and evaluated while a training goes on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::eval::{self, EvalArgs};
use super::super::progress::Progress;
use super::super::{exit_code, parsed};
use super::FinetuneArgs;
use crate::chart::{self, LineChart};
use crate::compare::Summary;
use crate::finetune::{Curve, TrainingEvent, Watcher};
use crate::record::{self, TrainingFolder};

/// Without a terminal a line is written so often.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

const PNG_WIDTH_PX: u32 = 1600;

/// Shows steps, evaluates epochs, and keeps the curve on the disk.
pub(super) struct Epochs<'a, 'p> {
    args: &'a FinetuneArgs,
    dir: PathBuf,
    progress: &'a mut Progress<'p>,
    curve: Curve,
    last_line: Option<Instant>,
    seconds: f64,
    n_steps: usize,
}

impl<'a, 'p> Epochs<'a, 'p> {
    pub fn new(args: &'a FinetuneArgs, folder: &TrainingFolder, progress: &'a mut Progress<'p>) -> Self {
        let tuned_on = args.train.split(',').map(|name| training_name(name.trim())).collect();
        let curve = Curve::new(args.method.name(), tuned_on);
        Self { args, dir: folder.dir().to_owned(), progress, curve, last_line: None, seconds: 0.0, n_steps: 0 }
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

    /// The flags of the evaluation after an epoch: what a person would type.
    fn flags(&self, epoch: usize, checkpoint: Option<&Path>) -> Vec<std::ffi::OsString> {
        let args = self.args;
        let mut flags: Vec<std::ffi::OsString> = vec!["--model".into(), args.model.clone().into()];
        let mut add = |flag: &str, value: &std::ffi::OsStr| flags.extend([flag.into(), value.to_owned()]);
        let out = self.dir.join("eval").join(format!("epoch-{epoch}"));
        add("--out", out.as_os_str());
        add("--encoder", args.encoder.as_deref().unwrap_or("none").as_ref());
        add("--prompt", args.prompt.as_ref());
        add("--limit", args.eval_limit.to_string().as_ref());
        add("--max-new-tokens", args.max_new_tokens.to_string().as_ref());
        add("--device", args.device.as_ref());
        add("--dtype", "f32".as_ref());
        add("--tuned-on", args.train.as_ref());
        add("--max-unscored", "1".as_ref());
        let gigabytes = args.feature_cache.feature_cache_gb.map(|n| n.to_string());
        let optional = [
            ("--datasets", args.eval_datasets.as_ref().map(|text| text.as_ref())),
            ("--data", args.places.data.as_deref().map(Path::as_os_str)),
            ("--datasets-file", args.places.datasets_file.as_deref().map(Path::as_os_str)),
            ("--template", args.template.as_ref().map(|text| text.as_ref())),
            ("--feature-cache", args.feature_cache.feature_cache.as_deref().map(Path::as_os_str)),
            ("--feature-cache-gb", gigabytes.as_ref().map(|text| text.as_ref())),
        ];
        for (flag, value) in optional {
            if let Some(value) = value {
                add(flag, value);
            }
        }
        if let Some(checkpoint) = checkpoint {
            let mut adapter: std::ffi::OsString = format!("epoch-{epoch}=").into();
            adapter.push(checkpoint);
            add("--adapter", &adapter);
            // A rate of 0 changes nothing, and that is no fault of the training.
            flags.extend(["--no-base".into(), "--allow-noop-adapter".into()]);
        }
        if args.hub.download && args.eval_datasets.is_some() {
            flags.push("--download".into());
        }
        flags
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
        let args: EvalArgs = parsed("eval", self.flags(epoch, checkpoint))?;
        let place = || format!("the evaluation after epoch {epoch} failed");
        let code = eval::run(&args, true, &mut std::io::sink(), &mut std::io::sink()).with_context(place)?;
        if code == exit_code::INTERRUPTED {
            return Ok(false);
        }
        ensure!(code == exit_code::OK, "{}", place());
        let path = self.dir.join("eval").join(format!("epoch-{epoch}"));
        let summary: Summary = record::read_summary(&path)?;
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
