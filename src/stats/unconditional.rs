//! Exact unconditional tests of a fall, for tables with so few discordant pairs that the normal limit is unreliable.

use super::binomial::{bulk, lower_tail};
use super::paired::tango_score;
use super::{PairedCounts, clopper_pearson};

/// The error probability of the discordance's confidence interval, which is added to the p value.
const NUISANCE_ERROR: f64 = 0.001;

/// Steps of the grid over that interval.
const N_STEPS: usize = 100;

/// Scores closer than this are tied; they differ only by rounding.
const TIE: f64 = 1e-9;

/// Returns the exact one-sided p value of "the fall is at least `margin`" against "it is less".
///
/// Berger and Boos (1994), "P values maximized over a confidence set for the nuisance parameter", JASA 89, 1012-1016.
/// It is the greatest probability, at a fall of `margin`, of a table whose Tango's z is not above the observed one's,
/// plus 0.001. The maximum is over discordances (shares of discordant pairs) on a grid of their 99.9% Clopper-Pearson
/// interval. A discordance below `margin` does not allow such a fall; if the whole interval is below it, the p value is
/// 0.001. `None` without pairs or for a margin outside (0, 1).
pub fn exact_non_inferiority_p(counts: PairedCounts, margin: f64) -> Option<f64> {
    let is_valid = counts.is_possible() && margin > 0.0 && margin < 1.0;
    is_valid.then(|| greatest_p(counts, margin)).flatten()
}

/// Returns the exact one-sided p value of "the fall is at most `margin`" against "it is more", as
/// [`exact_non_inferiority_p`] does.
///
/// A discordance below `margin` allows only smaller falls, which all satisfy the hypothesis. The greatest, with all
/// discordant pairs lost, is the least favourable. `None` without pairs or for a margin outside [0, 1).
pub fn exact_inferiority_p(counts: PairedCounts, margin: f64) -> Option<f64> {
    let is_valid = counts.is_possible() && (0.0..1.0).contains(&margin);
    // The fall of the first result against the second is at least -margin.
    let swapped = PairedCounts { n_lost: counts.n_gained, n_gained: counts.n_lost, n: counts.n };
    is_valid.then(|| greatest_p(swapped, -margin)).flatten()
}

/// Returns the p value of "the fall is at least `supposed`".
fn greatest_p(counts: PairedCounts, supposed: f64) -> Option<f64> {
    let observed = tango_score(counts, supposed) + TIE;
    let n_discordant = counts.n_lost + counts.n_gained;
    let [low, high] = clopper_pearson(n_discordant, counts.n, 1.0 - NUISANCE_ERROR)?;
    let low = low.max(supposed);
    if low > high {
        return Some(NUISANCE_ERROR);
    }
    let grid: Vec<(f64, usize, Vec<f64>)> = (0..=N_STEPS)
        .map(|step| {
            let discordance = low + (high - low) * step as f64 / N_STEPS as f64;
            let (first, masses) = bulk(counts.n, discordance);
            (discordance, first, masses)
        })
        .collect();
    let first = grid.iter().map(|(_, first, _)| *first).min()?;
    let end = grid.iter().map(|(_, first, masses)| first + masses.len()).max()?;
    let n_extreme: Vec<usize> = (first..end).map(|d| count_extreme(d, counts.n, supposed, observed)).collect();
    let p = |(discordance, start, masses): &(f64, usize, Vec<f64>)| -> f64 {
        let lost_share = lost_share(*discordance, supposed);
        let at = |(d, mass): (usize, &f64)| match n_extreme[d - first] {
            0 => 0.0,
            n_extreme => mass * lower_tail(n_extreme - 1, d, lost_share),
        };
        (*start..).zip(masses).map(at).sum()
    };
    let greatest = grid.iter().map(p).fold(0.0, f64::max);
    Some((greatest + NUISANCE_ERROR).min(1.0))
}

/// Returns the share of lost pairs among discordant pairs if the fall is `supposed`, or as near to it as possible.
fn lost_share(discordance: f64, supposed: f64) -> f64 {
    if discordance > 0.0 { (0.5 + 0.5 * supposed / discordance).clamp(0.0, 1.0) } else { 0.5 }
}

/// Returns how many tables with `n_discordant` pairs, counting from none lost, have a score of at most `observed`. The
/// score rises with each pair that is lost instead of gained.
fn count_extreme(n_discordant: usize, n: usize, supposed: f64, observed: f64) -> usize {
    let (mut low, mut high) = (0, n_discordant + 1);
    while low < high {
        let n_lost = low + (high - low) / 2;
        let counts = PairedCounts { n_lost, n_gained: n_discordant - n_lost, n };
        if tango_score(counts, supposed) <= observed {
            low = n_lost + 1;
        } else {
            high = n_lost;
        }
    }
    low
}

#[cfg(test)]
mod tests;
