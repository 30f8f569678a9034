//! Charts of a sweep: gain against forgetting, and a rose per arm.

use super::frontier::{Frontier, FrontierPoint, FrontierSeries};
use super::rose::{RoseChart, RoseOptions, Scale, Style};
use super::small_multiples::{SmallMultiples, SmallRose};
use super::words;
use crate::compare::{Summary, Sweep, SweepRow};

/// An arm at its last epoch, with its base, for its rose.
#[derive(Clone, Debug)]
pub struct SweptRose {
    /// The arm's name.
    pub arm: String,
    /// The seed that is drawn.
    pub seed: u64,
    /// The base's run.
    pub before: Summary,
    /// The tuned model's run.
    pub after: Summary,
}

impl Frontier {
    /// Gain against forgetting after each epoch: a line per arm, over all seeds. `task` keeps the arms of one task alone.
    pub fn of_sweep(sweep: &Sweep, task: Option<usize>) -> Self {
        let base = FrontierSeries {
            name: "base".to_owned(),
            is_joined: false,
            points: vec![FrontierPoint {
                label: "base".to_owned(),
                x: 0.0,
                x_interval: None,
                y: 0.0,
                y_interval: None,
                is_marked: false,
            }],
        };
        let mut series: Vec<FrontierSeries> = Vec::new();
        for row in sweep.overall().filter(|row| task.is_none_or(|task| row.task == task)) {
            let Some(point) = point(row, sweep.is_last(row)) else { continue };
            match series.iter_mut().find(|series| series.name == row.arm) {
                Some(series) => series.points.push(point),
                None => series.push(FrontierSeries { name: row.arm.clone(), is_joined: true, points: vec![point] }),
            }
        }
        // Arms come first, so that as many as possible have a colour of their own.
        series.push(base);
        let new = match task.and_then(|task| sweep.tasks.get(task)) {
            Some(task) => format!(" of {}", task.new.join(", ")),
            None => String::new(),
        };
        Self {
            title: format!("What arms gain and what they forget, tuned from {}", words::printable(&sweep.model)),
            x_label: format!("gain{new}: points of accuracy on the new datasets"),
            y_label: "forgetting: points lost on the others".to_owned(),
            series,
        }
    }
}

/// Only the last epoch has intervals and the arm's name: all of them would cover each other.
fn point(row: &SweepRow, is_last: bool) -> Option<FrontierPoint> {
    Some(FrontierPoint {
        label: if is_last { row.arm.clone() } else { row.epoch.to_string() },
        x: row.gain?,
        x_interval: row.gain_interval.filter(|_| is_last),
        y: row.forgetting?,
        y_interval: row.forgetting_interval.filter(|_| is_last),
        is_marked: row.rank == Some(1),
    })
}

impl SmallMultiples {
    /// A rose per arm: its base and its last epoch.
    pub fn of_sweep(sweep: &Sweep, roses: &[SweptRose]) -> Self {
        let options = RoseOptions { scale: Scale::Radius, style: Style::Petals, paper_rows: false };
        let cell = |rose: &SweptRose| {
            let row = sweep.overall().find(|row| row.arm == rose.arm && sweep.is_last(row));
            let number = |value: Option<f64>| words::points(value, None);
            let remark = match row {
                Some(row) => format!("gain {}, forgetting {}", number(row.gain), number(row.forgetting)),
                None => String::new(),
            };
            SmallRose {
                name: rose.arm.clone(),
                remark,
                chart: RoseChart::before_after(&rose.before, &rose.after, options),
            }
        };
        let seeds: Vec<u64> = roses.iter().map(|rose| rose.seed).collect();
        let seed = match seeds.first() {
            Some(seed) if seeds.iter().all(|other| other == seed) => format!(" Seed {seed}."),
            _ => String::new(),
        };
        Self {
            title: "Each arm before and after".to_owned(),
            subtitle: vec![format!("Left half of a petal: before; right half: after the last epoch.{seed}")],
            cells: roses.iter().map(cell).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chart::samples::many;
    use crate::chart::{frontier, small_multiples};

    fn sample() -> Sweep {
        let row = |arm: &str, epoch: usize, seed: Option<u64>, gain: f64, forgetting: f64, rank: Option<usize>| {
            json!({
                "arm": arm, "epoch": epoch, "seed": seed, "gain": gain, "gain_interval": [gain - 0.05, gain + 0.05],
                "forgetting": forgetting, "forgetting_interval": [forgetting - 0.1, forgetting + 0.1], "rank": rank,
                "has_equal_gain": null, "is_on_frontier": false, "task": 0, "n_seeds": 2, "method": "lora", "new": ["new"],
                "learning_rate": 0.001, "datasets": [],
            })
        };
        let arms = json!([
            row("lora", 1, Some(0), 0.1, 0.2, None),
            row("lora", 1, None, 0.2, 0.3, None),
            row("lora", 2, None, 0.4, 0.5, Some(1)),
            row("linear", 1, None, 0.3, 0.1, None),
        ]);
        serde_json::from_value(json!({
            "schema": "emt.sweep/1", "model": "base", "confidence": 0.95, "gain_tolerance": 0.02, "n_resamples": 10,
            "tasks": [], "arms": arms, "failed": [],
        }))
        .unwrap()
    }

    #[test]
    fn each_arm_is_a_line_over_its_epochs_and_only_the_last_has_intervals() {
        let chart = Frontier::of_sweep(&sample(), None);
        let names: Vec<&str> = chart.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["lora", "linear", "base"]);
        let lora: Vec<_> = chart.series[0].points.iter().map(|point| (point.x, point.y, point.is_marked)).collect();
        assert_eq!(lora, [(0.2, 0.3, false), (0.4, 0.5, true)]);
        let labels: Vec<&str> = chart.series[0].points.iter().map(|point| point.label.as_str()).collect();
        assert_eq!(labels, ["1", "lora"]);
        assert_eq!(chart.series[0].points[0].x_interval, None);
        assert!(chart.series[0].points[1].y_interval.is_some());
        assert!(frontier(&chart).contains(">linear</text>"));
        assert_eq!(Frontier::of_sweep(&sample(), Some(1)).series.len(), 1);
    }

    #[test]
    fn each_arm_has_its_rose_with_its_numbers() {
        let rose = |arm: &str| SweptRose { arm: arm.to_owned(), seed: 0, before: many(3), after: many(3) };
        let drawn = small_multiples(&SmallMultiples::of_sweep(&sample(), &[rose("lora"), rose("linear")]));
        assert_eq!(drawn.matches("class=\"plot\"").count(), 2);
        assert!(drawn.contains("gain 40.0, forgetting 50.0") && drawn.contains("Seed 0."), "{drawn}");
    }
}
