//! Accuracies by human standards: the judge's accuracies, corrected by marked pairs.

use std::collections::BTreeMap;

use super::calibration::outcome_name;
use super::{Calibration, Interval};
use crate::domain::{ErrorCode, Outcome};
use crate::stats::{SplitMix64, beta_sample, normal_quantile, resample_cells};

/// Enough draws for the second digit of a 95% endpoint.
const N_DRAWS: usize = 4_000;

/// Fixed, so that equal trials and marks always give equal intervals.
const SEED: u64 = 0x656d_7401;

/// An endpoint with fewer draws beyond it is too noisy.
const N_DRAWS_BEYOND_MIN: usize = 20;

/// The possible outcomes of a judge: correct, and each error code.
const N_OUTCOMES: usize = 1 + ErrorCode::ALL.len();

/// One run's accuracy on one dataset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CorrectedAccuracy {
    /// Correct over scored trials, according to the judge.
    pub judged: f64,
    /// The double-sampling estimate of the same according to people.
    pub corrected: f64,
    /// Its two-sided interval.
    pub interval: Interval,
}

/// Two runs' corrected accuracies on one dataset and their difference, over the same images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CorrectedForgetting {
    /// The baseline's accuracy.
    pub baseline_accuracy: f64,
    /// Its interval.
    pub baseline_accuracy_interval: Interval,
    /// The candidate's accuracy.
    pub candidate_accuracy: f64,
    /// Its interval.
    pub candidate_accuracy_interval: Interval,
    /// Baseline accuracy minus candidate accuracy.
    pub forgetting: f64,
    /// Its interval.
    pub forgetting_interval: Interval,
    /// The two-sided level of all three intervals.
    pub confidence: f64,
}

/// Returns the corrected accuracy of one run on `dataset` from the outcomes of its trials; unscored trials are left
/// out. Without a calibration, or with one that does not cover the dataset, the judge counts as right.
///
/// Double sampling (Tenenbein 1970, "A double sampling scheme for estimating from binomial data with
/// misclassifications", JASA 65, 1350-1361): judged accuracy + sum over strata of (share of trials) x (share of errors
/// among them) x (+1 where the judge says incorrect, -1 where it says correct), which is judged accuracy + sum over
/// marked pairs of weight x n_trials x (human - judge) / scored trials. The interval is that of
/// [`corrected_forgetting`]. `None` without a scored trial, and for a `confidence` outside (0, 1).
///
/// Strata are outcomes as the run recorded them. Codes recomputed with other fine-tuning sets do not match.
pub fn corrected_accuracy(
    dataset: &str,
    outcomes: &[Outcome],
    calibration: Option<&Calibration>,
    confidence: f64,
) -> Option<CorrectedAccuracy> {
    // One run is treated as a pair of equal runs, of which one result is used.
    let pairs: Vec<(Outcome, Outcome)> = outcomes.iter().map(|&outcome| (outcome, outcome)).collect();
    let corrected = corrected_forgetting(dataset, &pairs, calibration, None, confidence)?;
    Some(CorrectedAccuracy {
        judged: corrected.candidate_accuracy,
        corrected: corrected.baseline_accuracy,
        interval: corrected.baseline_accuracy_interval,
    })
}

/// Returns corrected accuracies and forgetting on `dataset` from the outcomes of paired trials (baseline, candidate).
/// Pairs with an unscored side are left out. Each run has its own calibration, since a judge may err more on one run's
/// style of answers. A run without one, or with one that does not cover the dataset, counts as judged.
///
/// The intervals come from one bootstrap (4,000 draws, a fixed seed). Each draw resamples the images, each with both of
/// its outcomes, and draws each stratum's share of errors from Beta(k + 1/2, m - k + 1/2), Jeffreys' posterior after k
/// errors among m marked trials ([`StratumErrors::n_effective`](super::StratumErrors::n_effective)). A stratum without
/// a marked error is therefore uncertain, and one without a marked pair is unconstrained. Endpoints are percentiles,
/// type 7. If fewer than 20 draws are beyond an endpoint, the distance from the median to the endpoint with 20 draws
/// beyond it is stretched by the ratio of the normal quantiles. `None` without a pair scored on both sides, and for a
/// `confidence` outside (0, 1).
pub fn corrected_forgetting(
    dataset: &str,
    pairs: &[(Outcome, Outcome)],
    baseline: Option<&Calibration>,
    candidate: Option<&Calibration>,
    confidence: f64,
) -> Option<CorrectedForgetting> {
    if !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let mut cells: BTreeMap<[usize; 2], usize> = BTreeMap::new();
    for &(before, after) in pairs {
        if let (Some(before), Some(after)) = (place(before), place(after)) {
            *cells.entry([before, after]).or_default() += 1;
        }
    }
    let (cells, n_images): (Vec<[usize; 2]>, Vec<usize>) = cells.into_iter().unzip();
    if cells.is_empty() {
        return None;
    }
    let judges = [baseline, candidate].map(|calibration| Judge::new(dataset, calibration));
    let [before, after] = accuracies(&counts(&cells, &n_images), &judges.each_ref().map(Judge::share_right));
    let mut generator = SplitMix64::new(SEED);
    let mut draws = [const { Vec::new() }; 3];
    for _ in 0..N_DRAWS {
        let counts = counts(&cells, &resample_cells(&mut generator, &n_images));
        let [before, after] = accuracies(&counts, &judges.each_ref().map(|judge| judge.draw(&mut generator)));
        for (draws, value) in draws.iter_mut().zip([before, after, before - after]) {
            draws.push(value);
        }
    }
    let [baseline_accuracy_interval, candidate_accuracy_interval, forgetting_interval] =
        draws.map(|draws| percentile_interval(draws, confidence));
    let in_unit = |[low, high]: Interval| [low.clamp(0.0, 1.0), high.clamp(0.0, 1.0)];
    Some(CorrectedForgetting {
        baseline_accuracy: before,
        baseline_accuracy_interval: in_unit(baseline_accuracy_interval),
        candidate_accuracy: after,
        candidate_accuracy_interval: in_unit(candidate_accuracy_interval),
        forgetting: before - after,
        forgetting_interval: forgetting_interval.map(|end| end.clamp(-1.0, 1.0)),
        confidence,
    })
}

/// The index of an outcome: 0 is correct; `None` if the trial is unscored.
fn place(outcome: Outcome) -> Option<usize> {
    match outcome {
        Outcome::Correct => Some(0),
        Outcome::Incorrect(code) => ErrorCode::ALL.iter().position(|&known| known == code).map(|at| at + 1),
        Outcome::Unscored(_) => None,
    }
}

/// Counts the images by outcome for each of the two runs, from counts by both outcomes.
fn counts(cells: &[[usize; 2]], n_images: &[usize]) -> [[usize; N_OUTCOMES]; 2] {
    let mut counts = [[0; N_OUTCOMES]; 2];
    for (&[before, after], &n) in cells.iter().zip(n_images) {
        counts[0][before] += n;
        counts[1][after] += n;
    }
    counts
}

/// The two accuracies if `share_right` of each outcome's images is right.
fn accuracies(counts: &[[usize; N_OUTCOMES]; 2], share_right: &[[f64; N_OUTCOMES]; 2]) -> [f64; 2] {
    [0, 1].map(|run| {
        let n: usize = counts[run].iter().sum();
        let n_right: f64 = counts[run].iter().zip(share_right[run]).map(|(&n, share)| n as f64 * share).sum();
        n_right / n as f64
    })
}

/// The known errors of the judge on one dataset.
enum Judge {
    /// Unknown; its outcomes count as right.
    AsJudged,
    /// By outcome, its strata.
    Calibrated(Vec<Vec<Stratum>>),
}

struct Stratum {
    /// The stratum's share of the outcome's trials.
    share: f64,
    /// The share of errors; `None` if no pair was marked.
    error_rate: Option<f64>,
    n_effective: f64,
}

impl Judge {
    fn new(dataset: &str, calibration: Option<&Calibration>) -> Self {
        let is_of_dataset = |known: &Option<String>| known.as_deref().is_none_or(|known| known == dataset);
        let strata: Vec<_> = calibration
            .iter()
            .flat_map(|calibration| &calibration.strata)
            .filter(|stratum| is_of_dataset(&stratum.dataset) && stratum.n_trials > 0.0)
            .collect();
        if strata.is_empty() {
            return Self::AsJudged;
        }
        let outcomes = std::iter::once(Outcome::Correct).chain(ErrorCode::ALL.map(Outcome::Incorrect));
        let of_outcome = |outcome: Outcome| {
            let strata: Vec<_> =
                strata.iter().filter(|stratum| Some(stratum.outcome.as_str()) == outcome_name(outcome)).collect();
            let n_trials: f64 = strata.iter().map(|stratum| stratum.n_trials).sum();
            let known = strata.iter().map(|stratum| Stratum {
                share: stratum.n_trials / n_trials,
                // A file may hold any number.
                error_rate: stratum.error_rate.map(|rate| rate.clamp(0.0, 1.0)),
                n_effective: stratum.n_effective.max(0.0),
            });
            let known: Vec<Stratum> = known.collect();
            // The sheet has no pair with this outcome.
            let unknown = || vec![Stratum { share: 1.0, error_rate: None, n_effective: 0.0 }];
            if known.is_empty() { unknown() } else { known }
        };
        Self::Calibrated(outcomes.map(of_outcome).collect())
    }

    /// The estimated share of right answers in each outcome; as judged if no pair was marked.
    fn share_right(&self) -> [f64; N_OUTCOMES] {
        self.right(|stratum| stratum.error_rate.unwrap_or(0.0))
    }

    fn draw(&self, generator: &mut SplitMix64) -> [f64; N_OUTCOMES] {
        self.right(|stratum| {
            let n_errors = stratum.error_rate.unwrap_or(0.0) * stratum.n_effective;
            let n_right = (stratum.n_effective - n_errors).max(0.0);
            beta_sample(generator, n_errors + 0.5, n_right + 0.5).expect("both shapes are positive and finite")
        })
    }

    fn right(&self, mut error_rate: impl FnMut(&Stratum) -> f64) -> [f64; N_OUTCOMES] {
        std::array::from_fn(|outcome| {
            let n_errors: f64 = match self {
                Self::AsJudged => 0.0,
                Self::Calibrated(outcomes) => {
                    outcomes[outcome].iter().map(|stratum| stratum.share * error_rate(stratum)).sum()
                }
            };
            if outcome == 0 { 1.0 - n_errors } else { n_errors }
        })
    }
}

/// Returns the two-sided interval of the draws.
fn percentile_interval(mut draws: Vec<f64>, confidence: f64) -> Interval {
    draws.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    let tail_min = N_DRAWS_BEYOND_MIN as f64 / draws.len() as f64;
    let known = tail.max(tail_min);
    let stretch = match (normal_quantile(tail), normal_quantile(known)) {
        (Some(wanted), Some(known)) if known < 0.0 => wanted / known,
        _ => 1.0,
    };
    let median = quantile_of_sorted(&draws, 0.5);
    [known, 1.0 - known].map(|p| median + (quantile_of_sorted(&draws, p) - median) * stretch)
}

fn quantile_of_sorted(sorted: &[f64], p: f64) -> f64 {
    let place = p * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests;
