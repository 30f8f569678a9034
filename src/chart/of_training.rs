//! Charts of a training: accuracy over epochs, loss over steps.

use super::lines::{Line, LineChart, LinePoint};
use crate::finetune::{Curve, DatasetCurve, Mark};

impl LineChart {
    /// Accuracy over epochs, one line per dataset (Figures 6 and 7 of the EMT paper). `None` if nothing was evaluated.
    pub fn of_curve(curve: &Curve) -> Option<Self> {
        let lines: Vec<Line> = curve.datasets.iter().map(line).filter(|line| !line.points.is_empty()).collect();
        if lines.is_empty() {
            return None;
        }
        let mut found: Vec<Mark> =
            curve.datasets.iter().flat_map(|dataset| &dataset.points).flat_map(|point| point.marks.clone()).collect();
        found.sort_unstable();
        found.dedup();
        let mut notes = vec!["Epoch 0 is the base model. Whiskers: 95% intervals (Wilson).".to_owned()];
        if !found.is_empty() {
            let explained: Vec<String> =
                found.iter().map(|&mark| format!("{}: {}", letter(mark), words(mark))).collect();
            notes.push(format!("Early warnings. {}.", explained.join("; ")));
        }
        Some(Self {
            title: "Accuracy after each epoch of fine-tuning".to_owned(),
            subtitle: format!("method {}, tuned on {}; {}", curve.method, curve.tuned_on.join(", "), held_out(curve)),
            x_label: "epoch".to_owned(),
            y_label: "accuracy".to_owned(),
            is_share: true,
            lines,
            notes,
        })
    }

    /// The loss over steps. `None` if there is no step.
    pub fn of_losses(losses: &[(u64, f64)]) -> Option<Self> {
        if losses.is_empty() {
            return None;
        }
        let point =
            |&(step, loss): &(u64, f64)| LinePoint { x: step as f64, y: loss, interval: None, marks: String::new() };
        Some(Self {
            title: "Training loss".to_owned(),
            subtitle: "mean cross-entropy over the answers' tokens of a batch, in nats".to_owned(),
            x_label: "optimizer step".to_owned(),
            y_label: "loss".to_owned(),
            is_share: false,
            lines: vec![Line { name: "loss".to_owned(), is_bold: false, points: losses.iter().map(point).collect() }],
            notes: Vec::new(),
        })
    }
}

/// The number of evaluated images. It is usually smaller than in a run, so the base has another accuracy there.
fn held_out(curve: &Curve) -> String {
    let mut counts = curve.datasets.iter().filter_map(|dataset| Some(dataset.points.first()?.n_trials));
    match counts.next() {
        Some(n) if counts.all(|other| other == n) => format!("{n} held-out images of each dataset"),
        _ => "held-out images".to_owned(),
    }
}

fn line(curve: &DatasetCurve) -> Line {
    let points = curve.points.iter().filter_map(|point| {
        let marks: String = point.marks.iter().map(|&mark| letter(mark)).collect();
        Some(LinePoint { x: point.epoch as f64, y: point.accuracy?, interval: point.accuracy_interval, marks })
    });
    let name = if curve.is_tuned_on { format!("{} (tuned on)", curve.dataset) } else { curve.dataset.clone() };
    Line { name, is_bold: curve.is_tuned_on, points: points.collect() }
}

fn letter(mark: Mark) -> char {
    match mark {
        Mark::Leak => 'L',
        Mark::Multi => 'M',
        Mark::Constant => 'C',
    }
}

fn words(mark: Mark) -> &'static str {
    match mark {
        Mark::Leak => "training labels given on other datasets, 5 points more than by the base",
        Mark::Multi => "several labels in one answer, 5 points more than by the base",
        Mark::Constant => "most answers are the same text",
    }
}
