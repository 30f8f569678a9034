//! Which arm forgets least at equal gain.

use super::SweepOptions;
use super::numbers::{LastEpoch, Measured};
use crate::stats::{ResampledStatistic, simultaneous_intervals};

/// An arm at its last epoch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ranked {
    runs: Vec<usize>,
    /// Whether no other arm gains more by more than the tolerance, beyond doubt.
    pub has_equal_gain: bool,
    /// `None` without equal gain.
    pub rank: Option<usize>,
}

impl Ranked {
    pub fn is_of(&self, measured: &Measured) -> bool {
        self.runs == measured.runs
    }
}

/// Ranks arms by what they forget.
///
/// An arm has equal gain if there is no arm that gains more than it by more than the tolerance, beyond doubt. Its rank is 1 + the
/// number of arms with equal gain that forget less than it, beyond doubt. Beyond doubt is what lies outside the intervals of all
/// differences of gain and of forgetting between two arms, which hold together. So arms that cannot be told apart share a rank. Arms
/// without a gain or without a forgetting are left out.
pub(super) fn rank(arms: &[LastEpoch], options: SweepOptions) -> Vec<Ranked> {
    let arms: Vec<(&[usize], &ResampledStatistic, &ResampledStatistic)> = arms
        .iter()
        .filter_map(|arm| Some((arm.runs.as_slice(), arm.gain.as_ref()?, arm.forgetting.as_ref()?)))
        .collect();
    let n = arms.len();
    let pairs: Vec<(usize, usize)> = (0..n).flat_map(|one| (one + 1..n).map(move |other| (one, other))).collect();
    let differences: Vec<ResampledStatistic> = pairs
        .iter()
        .flat_map(|&(one, other)| [difference(arms[one].1, arms[other].1), difference(arms[one].2, arms[other].2)])
        .collect();
    let intervals = simultaneous_intervals(&differences, options.confidence).map(|found| found.intervals);
    // By how much the first arm's number is surely above the second's; what is unknown is not.
    let surely_above = |number: usize, one: usize, other: usize| -> f64 {
        let place = pairs.iter().position(|&pair| pair == (one.min(other), one.max(other)));
        let ends = place.and_then(|place| intervals.as_ref()?.get(2 * place + number));
        match ends {
            Some([low, _]) if one < other => *low,
            Some([_, high]) => -high,
            None => f64::NEG_INFINITY,
        }
    };
    let has_equal_gain: Vec<bool> =
        (0..n).map(|arm| !(0..n).any(|best| surely_above(0, best, arm) > options.gain_tolerance)).collect();
    let rank = |arm: usize| {
        let forgets_less = |other: &usize| has_equal_gain[*other] && surely_above(1, arm, *other) > 0.0;
        1 + (0..n).filter(forgets_less).count()
    };
    (0..n)
        .map(|arm| Ranked {
            runs: arms[arm].0.to_vec(),
            has_equal_gain: has_equal_gain[arm],
            rank: has_equal_gain[arm].then(|| rank(arm)),
        })
        .collect()
}

fn difference(one: &ResampledStatistic, other: &ResampledStatistic) -> ResampledStatistic {
    ResampledStatistic {
        value: one.value - other.value,
        resampled: one.resampled.iter().zip(&other.resampled).map(|(one, other)| one - other).collect(),
        least_error: one.least_error,
    }
}

/// The points that no other point is better than: none gains more without forgetting more, or forgets less without gaining less.
pub(super) fn on_frontier(points: &[Measured]) -> Vec<&Measured> {
    let numbers = |point: &Measured| Some((point.gain?, point.forgetting?));
    let is_beaten = |point: &Measured| {
        let Some((gain, forgetting)) = numbers(point) else { return true };
        points.iter().filter_map(numbers).any(|(other_gain, other_forgetting)| {
            other_gain >= gain && other_forgetting <= forgetting && (other_gain, other_forgetting) != (gain, forgetting)
        })
    };
    points.iter().filter(|point| !is_beaten(point)).collect()
}
