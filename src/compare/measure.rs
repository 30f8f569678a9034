//! Turns marked pairs into a [`Calibration`].

use std::collections::BTreeMap;

use super::calibration::{
    CALIBRATION_SCHEMA, CalibratedAccuracy, Calibration, GroupBy, GroupMeasured, JudgeIdentity, MarkedPair, Measured,
    StratumErrors, outcome_name, output_style,
};
use super::{CONFIDENCE, Interval, corrected_accuracy};
use crate::domain::Outcome;
use crate::stats::{beta_quantile, cohen_kappa, normal_quantile};

impl Calibration {
    /// Measures a judge on `pairs`, in any order. `run` is the identity of the run that they come from.
    pub fn new(judge: JudgeIdentity, run: Option<String>, pairs: &[MarkedPair]) -> Self {
        let (units, n_conflicting) = units(pairs);
        let strata = strata(&units);
        let mut calibration = Self {
            schema: CALIBRATION_SCHEMA.to_owned(),
            judge,
            run,
            measured: measured(&usable(&units)),
            n_unmarked: pairs.iter().filter(|pair| pair.is_correct.is_none()).count(),
            n_judge_failed: pairs.iter().filter(|pair| pair.is_correct.is_some() && judged(pair).is_none()).count(),
            n_conflicting,
            groups: groups(&units),
            strata,
            accuracies: Vec::new(),
        };
        calibration.accuracies = accuracies(&units, &calibration);
        calibration
    }
}

fn judged(pair: &MarkedPair) -> Option<bool> {
    match pair.outcome {
        Outcome::Correct => Some(true),
        Outcome::Incorrect(_) => Some(false),
        Outcome::Unscored(_) => None,
    }
}

/// A distinct pair: all rows of one dataset, label, answer and outcome.
#[derive(Clone, Debug)]
struct Unit<'a> {
    rows: Vec<&'a MarkedPair>,
    n_trials: f64,
    /// The sheet's weight, scaled up for the unmarked pairs of its stratum.
    weight: f64,
    /// The majority of the marks; `None` without a mark or with a tie.
    is_correct: Option<bool>,
    is_judged_correct: Option<bool>,
}

impl Unit<'_> {
    /// The verdicts of people and judge, if both gave one.
    fn verdicts(&self) -> Option<(bool, bool)> {
        Some((self.is_correct?, self.is_judged_correct?))
    }

    fn first(&self) -> &MarkedPair {
        self.rows[0]
    }
}

/// Returns the distinct pairs in order, and how many of them have tied marks.
fn units(pairs: &[MarkedPair]) -> (Vec<Unit<'_>>, usize) {
    let mut by_key: BTreeMap<_, Vec<&MarkedPair>> = BTreeMap::new();
    for pair in pairs {
        let key = (&pair.dataset, &pair.label, &pair.answer, outcome_name(pair.outcome));
        by_key.entry(key).or_default().push(pair);
    }
    let mut n_conflicting = 0;
    let mut units: Vec<Unit<'_>> = by_key
        .into_values()
        .map(|mut rows| {
            // Sorted, because the first row represents all, whatever the order in the sheet.
            rows.sort_by(|a, b| (&a.stratum, &a.group).cmp(&(&b.stratum, &b.group)));
            let unit = unit(rows);
            n_conflicting +=
                usize::from(unit.is_correct.is_none() && unit.rows.iter().any(|row| row.is_correct.is_some()));
            unit
        })
        .collect();
    let stratum = |unit: &Unit<'_>| (unit.first().dataset.clone(), unit.first().stratum.clone());
    let mut counts: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for unit in &units {
        let (n_drawn, n_usable) = counts.entry(stratum(unit)).or_default();
        // The recorded number also counts rows that were deleted from the sheet.
        *n_drawn = unit.first().n_stratum_drawn.unwrap_or(*n_drawn + 1);
        *n_usable += usize::from(unit.verdicts().is_some());
    }
    for unit in units.iter_mut().filter(|unit| unit.verdicts().is_some()) {
        if let Some(&(n_drawn, n_usable)) = counts.get(&stratum(unit)) {
            unit.weight *= n_drawn as f64 / n_usable as f64;
        }
    }
    (units, n_conflicting)
}

fn unit(rows: Vec<&MarkedPair>) -> Unit<'_> {
    let n_marked = |mark| rows.iter().filter(|row| row.is_correct == Some(mark)).count();
    let is_correct = match n_marked(true).cmp(&n_marked(false)) {
        std::cmp::Ordering::Greater => Some(true),
        std::cmp::Ordering::Less => Some(false),
        std::cmp::Ordering::Equal => None,
    };
    Unit {
        n_trials: rows.iter().map(|row| row.n_trials as f64).sum(),
        weight: rows.iter().map(|row| row.weight).sum::<f64>() / rows.len() as f64,
        is_correct,
        is_judged_correct: judged(rows[0]),
        rows,
    }
}

fn usable<'a>(units: &'a [Unit<'a>]) -> Vec<&'a Unit<'a>> {
    units.iter().filter(|unit| unit.verdicts().is_some()).collect()
}

/// A weighted share.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    hits: f64,
    total: f64,
    squares: f64,
}

impl Share {
    fn of(cells: impl Iterator<Item = (f64, bool)>) -> Self {
        cells.fold(Self::default(), |share, (weight, is_hit)| Self {
            hits: share.hits + if is_hit { weight } else { 0.0 },
            total: share.total + weight,
            squares: share.squares + weight * weight,
        })
    }

    fn rate(self) -> Option<f64> {
        (self.total > 0.0).then(|| self.hits / self.total)
    }

    /// The number of equally weighted observations with the same precision: Kish (1965), "Survey sampling", section
    /// 8.2.
    fn n_effective(self) -> f64 {
        if self.squares > 0.0 { self.total * self.total / self.squares } else { 0.0 }
    }

    /// Clopper and Pearson's interval over the effective numbers: Korn and Graubard (1998), "Confidence intervals for
    /// proportions with small expected number of positive counts estimated from survey data", Survey Methodology 24.
    fn interval(self) -> Option<Interval> {
        let (hits, n) = (self.rate()? * self.n_effective(), self.n_effective());
        let tail = (1.0 - CONFIDENCE) / 2.0;
        // Rounding must not turn 0 or 1 into another share.
        let end = |p, a: f64, b: f64, bound| if a.min(b) < 1e-9 { Some(bound) } else { beta_quantile(p, a, b) };
        Some([end(tail, hits, n - hits + 1.0, 0.0)?, end(1.0 - tail, hits + 1.0, n - hits, 1.0)?])
    }
}

fn measured(units: &[&Unit<'_>]) -> Measured {
    let verdicts: Vec<(f64, bool, bool)> =
        units.iter().filter_map(|unit| unit.verdicts().map(|(people, judge)| (unit.weight, people, judge))).collect();
    let among = |is_correct: bool| {
        let marked = verdicts.iter().filter(move |&&(_, people, _)| people == is_correct);
        Share::of(marked.map(|&(weight, people, judge)| (weight, people == judge)))
    };
    let (right, wrong) = (among(true), among(false));
    let all = Share::of(verdicts.iter().map(|&(weight, people, judge)| (weight, people == judge)));
    let kappa = kappa(right, wrong, all);
    Measured {
        n: units.iter().flat_map(|unit| &unit.rows).filter(|row| row.is_correct.is_some()).count(),
        n_distinct: units.len(),
        n_right: verdicts.iter().filter(|&&(_, people, _)| people).count(),
        sensitivity: right.rate(),
        sensitivity_interval: right.interval(),
        specificity: wrong.rate(),
        specificity_interval: wrong.interval(),
        agreement: all.rate(),
        kappa: kappa.map(|(kappa, _)| kappa),
        kappa_interval: kappa.map(|(_, interval)| interval),
    }
}

/// Weights become whole counts in units of 1 / 2^20 of a pair. The standard error is that of the effective number of
/// pairs.
fn kappa(right: Share, wrong: Share, all: Share) -> Option<(f64, Interval)> {
    const UNIT: f64 = 1_048_576.0;
    let scale = all.n_effective() / all.rate().map(|_| all.total)? * UNIT;
    let count = |weight: f64| (weight * scale).round() as usize;
    let table =
        [[count(right.hits), count(right.total - right.hits)], [count(wrong.total - wrong.hits), count(wrong.hits)]];
    let found = cohen_kappa(&table, CONFIDENCE)?;
    let half = normal_quantile(0.5 + CONFIDENCE / 2.0)? * found.standard_error * UNIT.sqrt();
    Some((found.kappa, [(found.kappa - half).max(-1.0), (found.kappa + half).min(1.0)]))
}

fn groups(units: &[Unit<'_>]) -> Vec<GroupMeasured> {
    let mut members: BTreeMap<(GroupBy, String), Vec<&Unit<'_>>> = BTreeMap::new();
    for unit in usable(units) {
        let pair = unit.first();
        if let Some(dataset) = &pair.dataset {
            members.entry((GroupBy::Dataset, dataset.clone())).or_default().push(unit);
        }
        let mut own: Vec<&String> = unit.rows.iter().filter_map(|row| row.group.as_ref()).collect();
        own.dedup();
        for group in &own {
            members.entry((GroupBy::Group, (*group).clone())).or_default().push(unit);
        }
        if own.is_empty() {
            let style = output_style(&pair.answer, pair.outcome).to_owned();
            members.entry((GroupBy::Style, style)).or_default().push(unit);
        }
    }
    members
        .into_iter()
        .map(|((by, group), members)| {
            let members: Vec<Unit<'_>> = members.into_iter().map(|unit| part(unit, by, &group)).collect();
            GroupMeasured { measured: measured(&usable(&members)), group, by }
        })
        .collect()
}

/// Returns the part of a pair that belongs to one of the groups sharing it.
fn part<'a>(whole: &Unit<'a>, by: GroupBy, group: &str) -> Unit<'a> {
    let is_in = |row: &&MarkedPair| by != GroupBy::Group || row.group.as_deref() == Some(group);
    Unit { weight: whole.weight, ..unit(whole.rows.iter().copied().filter(is_in).collect()) }
}

/// Estimates each stratum's share of trials in error, with the number of trials, marked one by one, that would give the
/// same precision.
///
/// The variance of the share, over r (1 - r), has two parts (Cochran 1977, "Sampling techniques", sections 9A.7 and
/// 12.2): that of the stratum's trials as a sample of images, 1 / trials, and that of the marked pairs as a sample of
/// the stratum, the sum of (1 - 1 / weight) (weight x trials)^2 over the square of the sum of weight x trials. If each
/// pair is one trial, drawn with equal probability, their sum is 1 / (number of marked pairs).
fn strata(units: &[Unit<'_>]) -> Vec<StratumErrors> {
    let mut members: BTreeMap<_, Vec<&Unit<'_>>> = BTreeMap::new();
    for unit in units {
        let pair = unit.first();
        if let Some(outcome) = outcome_name(pair.outcome) {
            members.entry((pair.dataset.clone(), outcome, pair.stratum.clone())).or_default().push(unit);
        }
    }
    members
        .into_iter()
        .map(|((dataset, outcome, stratum), members)| {
            let marked: Vec<&&Unit<'_>> = members.iter().filter(|unit| unit.verdicts().is_some()).collect();
            let is_error = |unit: &Unit<'_>| unit.verdicts().is_some_and(|(people, judge)| people != judge);
            // The trials that each marked pair represents, by weight and number of trials.
            let trials = Share::of(marked.iter().map(|unit| (unit.weight * unit.n_trials, is_error(unit))));
            let known = members[0].first().n_stratum_trials.map(|n| n as f64);
            let n_trials = known.unwrap_or(trials.total);
            let chance =
                marked.iter().map(|unit| (1.0 - 1.0 / unit.weight).max(0.0) * (unit.weight * unit.n_trials).powi(2));
            let chance = if trials.total > 0.0 { chance.sum::<f64>() / trials.total.powi(2) } else { 0.0 };
            StratumErrors {
                dataset,
                outcome: outcome.to_owned(),
                stratum,
                n_trials,
                n_marked: marked.len(),
                n_errors: marked.iter().filter(|unit| is_error(unit)).count(),
                error_rate: (n_trials > 0.0 && !marked.is_empty()).then(|| (trials.hits / n_trials).min(1.0)),
                n_effective: if marked.is_empty() { 0.0 } else { 1.0 / (1.0 / n_trials + chance) },
            }
        })
        .collect()
}

/// Judged and corrected accuracies, if the strata's trials are those of the run.
fn accuracies(units: &[Unit<'_>], calibration: &Calibration) -> Vec<CalibratedAccuracy> {
    let mut outcomes: BTreeMap<&String, BTreeMap<_, (Outcome, usize)>> = BTreeMap::new();
    for unit in units {
        let pair = unit.first();
        if let (Some(dataset), Some(n)) = (&pair.dataset, pair.n_stratum_trials) {
            outcomes.entry(dataset).or_default().insert(&pair.stratum, (pair.outcome, n));
        }
    }
    let of_dataset = |(dataset, strata): (&String, BTreeMap<_, (Outcome, usize)>)| {
        let outcomes: Vec<Outcome> =
            strata.into_values().flat_map(|(outcome, n)| std::iter::repeat_n(outcome, n)).collect();
        let corrected = corrected_accuracy(dataset, &outcomes, Some(calibration), CONFIDENCE)?;
        Some(CalibratedAccuracy {
            dataset: dataset.clone(),
            n_scored: outcomes.len(),
            accuracy: corrected.judged,
            corrected_accuracy: corrected.corrected,
            corrected_accuracy_interval: corrected.interval,
        })
    };
    outcomes.into_iter().filter_map(of_dataset).collect()
}

#[cfg(test)]
mod tests;
