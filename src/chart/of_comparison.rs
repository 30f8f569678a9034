//! Charts of a comparison.

use super::forest::{ForestChart, ForestGroup, ForestRow};
use super::layout::Drawn;
use super::rose::{Point, Role, RoseChart, RoseOptions};
use super::small_multiples::{SmallMultiples, SmallRose};
use super::transitions::{Flow, TransitionChart, TransitionPanel};
use super::words;
use crate::compare::{CandidateComparison, Comparison, DatasetComparison, Summary};

/// The fewest candidates for which small multiples are drawn.
const N_MULTIPLES_MIN: usize = 2;

/// The charts of a comparison, in page order.
const CHARTS: [ComparisonChart; 3] = [FOREST, ROSE, TRANSITIONS];

/// A chart of a comparison.
struct ComparisonChart {
    /// The name of its files.
    name: &'static str,
    /// Draws all candidates together.
    whole: fn(&Basis<'_>) -> Option<Figure>,
    /// Draws one candidate.
    of_candidate: fn(&Basis<'_>, &CandidateComparison, &Summary) -> Option<Figure>,
}

/// The fall of each dataset under each candidate, on one scale.
const FOREST: ComparisonChart = ComparisonChart {
    name: "forest",
    whole: |basis| {
        let chart = ForestChart::of_comparison(basis.comparison, basis.margin);
        Some(Figure { drawn: Drawn::forest(&chart), caption: "The same numbers are in the table below.".to_owned() })
    },
    of_candidate: |_, _, _| None,
};

/// Before and after, with the encoder behind; with several candidates also all roses on one scale.
const ROSE: ComparisonChart = ComparisonChart {
    name: "rose",
    whole: |basis| {
        let multiples = SmallMultiples::of_comparison(basis.comparison, basis.before, basis.afters, basis.options);
        (basis.afters.len() >= N_MULTIPLES_MIN).then(|| Figure {
            drawn: Drawn::small_multiples(&multiples),
            caption: "All checkpoints on one scale; the numbers are in the table above.".to_owned(),
        })
    },
    of_candidate: |basis, candidate, after| {
        let mut chart = RoseChart::before_after(basis.before, after, basis.options);
        chart.show_pairs(candidate);
        let caption = format!(
            "Left half of a petal: before; right half: after; the {} behind. The numbers are in the table below.",
            words::encoder_noun(&after.encoder)
        );
        Some(Figure { drawn: Drawn::rose(&chart), caption })
    },
};

/// The state of each image before and after.
const TRANSITIONS: ComparisonChart = ComparisonChart {
    name: "transitions",
    whole: |_| None,
    of_candidate: |basis, candidate, _| {
        let chart = TransitionChart::of_candidate(&basis.comparison.baseline, candidate);
        let caption = "The same numbers are under “What became of the images” of each dataset.".to_owned();
        Some(Figure { drawn: Drawn::transitions(&chart), caption })
    },
};

/// The data that the charts of a comparison are drawn from.
struct Basis<'a> {
    comparison: &'a Comparison,
    before: &'a Summary,
    /// In the comparison's order.
    afters: &'a [&'a Summary],
    options: RoseOptions,
    /// The largest acceptable fall, if one is set.
    margin: Option<f64>,
}

/// A chart with the caption that a page shows below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// The chart in both layouts.
    pub drawn: Drawn,
    /// One or two sentences.
    pub caption: String,
}

/// All charts of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparisonCharts {
    drawn: Vec<DrawnChart>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DrawnChart {
    name: &'static str,
    whole: Option<Figure>,
    by_candidate: Vec<Figure>,
}

impl ComparisonCharts {
    /// Draws all charts. `afters` are the candidates' summaries, in the comparison's order. `margin` is the largest
    /// acceptable fall, if one is set.
    pub fn draw(
        comparison: &Comparison,
        before: &Summary,
        afters: &[&Summary],
        options: RoseOptions,
        margin: Option<f64>,
    ) -> Self {
        let basis = Basis { comparison, before, afters, options, margin };
        let candidates = || comparison.candidates.iter().zip(afters);
        let drawn = CHARTS.iter().map(|chart| DrawnChart {
            name: chart.name,
            whole: (chart.whole)(&basis),
            by_candidate: candidates()
                .filter_map(|(candidate, after)| (chart.of_candidate)(&basis, candidate, after))
                .collect(),
        });
        Self { drawn: drawn.collect() }
    }

    /// The charts of all candidates together. A page shows the first one above its table and the others below it.
    pub fn overview(&self) -> impl Iterator<Item = &Figure> {
        self.drawn.iter().filter_map(|chart| chart.whole.as_ref())
    }

    /// The charts of the candidate at `index`, with their file names. A page shows the first one above its table.
    pub fn of_candidate(&self, index: usize) -> impl Iterator<Item = (&'static str, &Figure)> {
        self.drawn.iter().filter_map(move |chart| Some((chart.name, chart.by_candidate.get(index)?)))
    }

    /// The charts with their file names: the one of all candidates together if there is one, else that of the first
    /// candidate.
    pub fn main(&self) -> impl Iterator<Item = (&'static str, &Figure)> {
        self.drawn.iter().filter_map(|chart| Some((chart.name, chart.whole.as_ref().or(chart.by_candidate.first())?)))
    }
}

impl ForestChart {
    /// The forgetting on every dataset under every candidate.
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
    /// Replaces accuracies by those over the images that are scored in both runs, as in the tables next to the chart.
    /// They differ from a run's own accuracy if one run left some images unscored.
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
    /// The state of each image under the baseline and under `candidate`.
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
    /// One rose per candidate.
    pub fn of_comparison(comparison: &Comparison, before: &Summary, afters: &[&Summary], options: RoseOptions) -> Self {
        let cells = comparison.candidates.iter().zip(afters).map(|(candidate, after)| {
            let mut chart = RoseChart::before_after(before, after, options);
            chart.show_pairs(candidate);
            // Intervals are too small to read here; the forest plot shows them.
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
