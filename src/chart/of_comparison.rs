//! A comparison as charts.

use super::forest::{ForestChart, ForestGroup, ForestRow};
use super::layout::Drawn;
use super::rose::{Point, Role, RoseChart, RoseOptions};
use super::small_multiples::{SmallMultiples, SmallRose};
use super::transitions::{Flow, TransitionChart, TransitionPanel};
use super::words;
use crate::compare::{CandidateComparison, Comparison, DatasetComparison, Summary};

/// From so many candidates on, small multiples show them side by side.
const N_MULTIPLES_MIN: usize = 2;

/// All charts of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparisonCharts {
    /// What each dataset lost under each candidate, on one scale.
    pub forest: Drawn,
    /// All candidates' roses, small; absent where there is but one.
    pub small_multiples: Option<Drawn>,
    /// Before against after with the encoder behind: one a candidate.
    pub roses: Vec<Drawn>,
    /// What each image was and is: one a candidate.
    pub transitions: Vec<Drawn>,
}

impl ComparisonCharts {
    /// Draws all charts. `afters` are the candidates' summaries, in the comparison's order; `margin` is the fall that is
    /// still accepted, where one is set.
    pub fn draw(
        comparison: &Comparison,
        before: &Summary,
        afters: &[&Summary],
        options: RoseOptions,
        margin: Option<f64>,
    ) -> Self {
        let multiples = SmallMultiples::of_comparison(comparison, before, afters, options);
        Self {
            forest: Drawn::forest(&ForestChart::of_comparison(comparison, margin)),
            small_multiples: (afters.len() >= N_MULTIPLES_MIN).then(|| Drawn::small_multiples(&multiples)),
            roses: comparison
                .candidates
                .iter()
                .zip(afters)
                .map(|(candidate, after)| {
                    let mut chart = RoseChart::before_after(before, after, options);
                    chart.show_pairs(candidate);
                    Drawn::rose(&chart)
                })
                .collect(),
            transitions: comparison
                .candidates
                .iter()
                .map(|candidate| Drawn::transitions(&TransitionChart::of_candidate(&comparison.baseline, candidate)))
                .collect(),
        }
    }
}

impl ForestChart {
    /// The forgetting of every dataset under every candidate.
    pub fn of_comparison(comparison: &Comparison, margin: Option<f64>) -> Self {
        let row = |dataset: &DatasetComparison| ForestRow {
            name: dataset.dataset.clone(),
            fall: dataset.forgetting,
            interval: dataset.forgetting_interval,
            remark: dataset.is_tuned_on.then(|| "tuned on".to_owned()),
        };
        let is_single = comparison.candidates.len() == 1;
        let groups = comparison.candidates.iter().map(|candidate| ForestGroup {
            name: if is_single { String::new() } else { candidate.run.clone() },
            rows: candidate.datasets.iter().map(row).collect(),
        });
        let against = match &comparison.candidates[..] {
            [single] => format!("{} against {}", single.run, comparison.baseline),
            _ => format!("against {}", comparison.baseline),
        };
        Self {
            title: "What was forgotten".to_owned(),
            subtitle: vec![format!("{against}; the same images, 95% intervals (Tango)")],
            groups: groups.collect(),
            margin,
        }
    }
}

impl RoseChart {
    /// Shows the accuracies over the images that are scored in both runs, as the tables beside the chart do: where one run left
    /// some images unscored, its accuracy over its own images is another number.
    fn show_pairs(&mut self, candidate: &CandidateComparison) {
        let of = |name: &str| candidate.datasets.iter().find(|dataset| dataset.dataset == name);
        let datasets: Vec<Option<&DatasetComparison>> = self.axes.iter().map(|axis| of(&axis.name)).collect();
        for (axis, dataset) in self.axes.iter_mut().zip(&datasets) {
            if let Some(fall) = dataset.and_then(|dataset| dataset.forgetting) {
                axis.remarks = vec![words::fall(fall)];
            }
        }
        for series in &mut self.series {
            for (point, dataset) in series.points.iter_mut().zip(&datasets) {
                let Some(dataset) = dataset else { continue };
                let (accuracy, interval) = match series.role {
                    Role::Before => (dataset.baseline_accuracy, dataset.baseline_accuracy_interval),
                    Role::Model => (dataset.candidate_accuracy, dataset.candidate_accuracy_interval),
                    Role::Encoder | Role::Reference => continue,
                };
                *point = accuracy.map(|accuracy| Point { accuracy, interval });
            }
        }
    }
}

impl TransitionChart {
    /// What each image was under the baseline and is under `candidate`.
    pub fn of_candidate(baseline: &str, candidate: &CandidateComparison) -> Self {
        let panel = |dataset: &DatasetComparison| TransitionPanel {
            name: dataset.dataset.clone(),
            remark: format!("{} images, {} lost, {} gained", dataset.n_pairs, dataset.n_lost, dataset.n_gained),
            flows: dataset
                .transitions
                .iter()
                .map(|transition| Flow { from: transition.from.clone(), to: transition.to.clone(), n: transition.n })
                .collect(),
        };
        Self {
            title: "What became of each image".to_owned(),
            subtitle: vec![format!("before: {baseline}; after: {}", candidate.run)],
            panels: candidate.datasets.iter().map(panel).collect(),
        }
    }
}

impl SmallMultiples {
    /// The candidates beside each other.
    pub fn of_comparison(comparison: &Comparison, before: &Summary, afters: &[&Summary], options: RoseOptions) -> Self {
        let cells = comparison.candidates.iter().zip(afters).map(|(candidate, after)| {
            let mut chart = RoseChart::before_after(before, after, options);
            chart.show_pairs(candidate);
            // Too small to be read here; the forest plot has them.
            for point in chart.series.iter_mut().flat_map(|series| &mut series.points).flatten() {
                point.interval = None;
            }
            SmallRose { name: candidate.run.clone(), remark: greatest_fall(candidate), chart }
        });
        Self {
            title: "All checkpoints".to_owned(),
            subtitle: vec![format!(
                "left half of a petal: {}; right half: the checkpoint; the {} behind. All on one scale, rings at 25, 50, 75 and 100%",
                comparison.baseline,
                words::encoder_noun(&before.encoder)
            )],
            cells: cells.collect(),
        }
    }
}

fn greatest_fall(candidate: &CandidateComparison) -> String {
    let falls = candidate.datasets.iter().filter_map(|dataset| Some((dataset.forgetting?, &dataset.dataset)));
    match falls.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((fall, dataset)) => format!("{dataset} {}", words::fall(fall)),
        None => "nothing could be compared".to_owned(),
    }
}
