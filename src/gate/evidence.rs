//! What a table of pairs shows against a margin.

use crate::stats::{
    PairedCounts, exact_inferiority_p, exact_non_inferiority_p, inferiority_p, mcnemar_exact_one_sided,
    non_inferiority_p, wilson,
};

use super::DatasetPolicy;
use crate::compare::PairTable;

/// With fewer discordant pairs than this, the exact test must agree.
const N_DISCORDANT_EXACT: usize = 20;

/// A baseline is too close to chance to be tested if its interval reaches chance plus this.
const NEAR_CHANCE: f64 = 0.02;

/// Whether the fall is shown to be below `margin` at the one-sided `level`.
pub(super) fn shows_pass(counts: PairedCounts, margin: f64, level: f64) -> bool {
    non_inferiority_p(counts, margin).is_some_and(|p| p <= level)
        && (!needs_exact(counts) || exact_non_inferiority_p(counts, margin).is_some_and(|p| p <= level))
}

/// Whether the fall is shown to be above `margin` at the one-sided `level`.
pub(super) fn shows_fail(counts: PairedCounts, margin: f64, level: f64) -> bool {
    inferiority_p(counts, margin).is_some_and(|p| p <= level)
        && (!needs_exact(counts) || exact_inferiority_p(counts, margin).is_some_and(|p| p <= level))
}

/// Whether McNemar's exact test shows any fall at the one-sided `level`.
pub(super) fn shows_any_fall(counts: PairedCounts, level: f64) -> bool {
    counts.n > 0 && mcnemar_exact_one_sided(counts) <= level
}

/// Whether the exact test is required in addition to Tango's.
pub(super) fn needs_exact(counts: PairedCounts) -> bool {
    counts.n_lost + counts.n_gained < N_DISCORDANT_EXACT
}

/// Whether a candidate that answers all `n` images as the baseline does would pass at `level`.
pub fn reachable(n: usize, margin: f64, level: f64) -> bool {
    shows_pass(PairedCounts { n_lost: 0, n_gained: 0, n }, margin, level)
}

/// Whether the baseline's 95% interval reaches chance plus [`NEAR_CHANCE`].
pub(super) fn is_near_chance(table: &PairTable, n_classes: usize) -> bool {
    let (n_correct, n) = table.baseline();
    wilson(n_correct, n, 0.95).is_some_and(|[low, _]| low <= chance(n_classes) + NEAR_CHANCE)
}

/// The margin in force, from the policy and the baseline only. It is 0 if a relative margin leaves nothing because the
/// baseline is at chance.
pub(super) fn margin_in_force(policy: &DatasetPolicy, table: &PairTable, n_classes: usize) -> f64 {
    let Some(share) = policy.relative_margin else { return policy.margin };
    let (n_correct, n) = table.baseline();
    match wilson(n_correct, n, 0.95) {
        Some([low, _]) => policy.margin.min(share * (low - chance(n_classes)).max(0.0)),
        None => policy.margin,
    }
}

/// The baseline's accuracy minus chance, over the scored images; `None` if nothing is scored.
pub(super) fn known_beyond_chance(table: &PairTable, n_classes: usize) -> Option<f64> {
    let (n_correct, n) = table.baseline();
    (n > 0).then(|| n_correct as f64 / n as f64 - chance(n_classes))
}

fn chance(n_classes: usize) -> f64 {
    1.0 / n_classes.max(1) as f64
}
