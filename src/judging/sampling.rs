//! Chooses the answers of a run for people to mark.

use std::collections::BTreeMap;

use super::normalise;
use super::sheet::{Sheet, SheetOrigin, SheetRow};
use crate::compare::JudgeIdentity;
use crate::domain::{Mode, Outcome, RunSpec, Subject, Trial};

/// The fewest pairs drawn from each stratum; a smaller stratum is drawn completely.
const N_PER_STRATUM_MIN: usize = 10;

/// The pairs of one dataset, verdict and code.
struct Stratum<'a> {
    dataset: &'a str,
    outcome: Outcome,
    name: String,
    /// Its pairs, in drawing order.
    pairs: Vec<Pair<'a>>,
    n_trials: usize,
    n_drawn: usize,
}

struct Pair<'a> {
    label: &'a str,
    answer: String,
    n_trials: usize,
    /// The number of trials divided by a uniform number.
    priority: f64,
}

/// The number of trials by label and answer.
type Members<'a> = BTreeMap<(&'a str, String), usize>;

/// Draws distinct pairs of label and answer from the model's scored generated answers, as a sheet in the order of
/// datasets, labels and answers.
///
/// A stratum is a dataset, verdict and code. At least 10 pairs of each are drawn, or all if it has fewer. The rest of
/// `n` is shared among strata in proportion to their trials (Webster's method, so that no stratum shrinks as `n`
/// grows).
///
/// An error repeats in all trials of its pair, so pairs are drawn with probabilities in proportion to their trials, by
/// priority sampling (Duffield, Lund and Thorup 2007, "Priority sampling for estimation of arbitrary subset sums",
/// Journal of the ACM 54). A pair's priority is its number of trials divided by a uniform number that follows from
/// blake3(seed as 8 bytes little-endian, and dataset, label and answer, each after its length in the same form). The
/// pairs of highest priority are drawn, so a smaller `n` gives a subset of a larger one. With t the highest priority
/// that is not drawn, the probability of inclusion is min(1, trials / t). Weight x trials is t for all but the most
/// frequent pairs, which are certain and form their own stratum, `/frequent`. Sums of weight x trials are unbiased.
///
/// The sheet has more than `n` rows if the minima require it.
pub fn draw_sheet(spec: &RunSpec, identity: &str, trials: &[Trial], n: usize, seed: u64) -> Sheet {
    let mut strata = strata(trials, seed);
    allocate(&mut strata, n);
    let mut rows: Vec<SheetRow> = strata.iter().flat_map(|stratum| drawn(spec, stratum)).collect();
    let place = |row: &SheetRow| spec.datasets.iter().position(|known| Some(&known.dataset) == row.dataset.as_ref());
    rows.sort_by(|a, b| (place(a), &a.label, &a.answer).cmp(&(place(b), &b.label, &b.answer)));
    for (line, row) in (2..).zip(&mut rows) {
        row.line = line;
    }
    Sheet { origin: Some(SheetOrigin { run: identity.to_owned(), judge: JudgeIdentity::of(&spec.judges) }), rows }
}

/// Returns the rows of the drawn pairs of a stratum.
fn drawn(spec: &RunSpec, stratum: &Stratum<'_>) -> Vec<SheetRow> {
    let aliases = |label: &str| {
        let dataset = spec.datasets.iter().find(|known| known.dataset == stratum.dataset)?;
        Some(dataset.labels.iter().find(|known| known.name == label)?.aliases.clone())
    };
    let threshold = stratum.pairs.get(stratum.n_drawn).map(|pair| pair.priority);
    let is_frequent = |pair: &Pair<'_>| threshold.is_some_and(|threshold| pair.n_trials as f64 >= threshold);
    let drawn = &stratum.pairs[..stratum.n_drawn];
    let frequent = drawn.iter().filter(|pair| is_frequent(pair));
    let n_frequent = frequent.clone().count();
    let n_frequent_trials: usize = frequent.map(|pair| pair.n_trials).sum();
    let row = |pair: &Pair<'_>| {
        let (name, n_trials, n_drawn) = if is_frequent(pair) {
            (format!("{}/frequent", stratum.name), n_frequent_trials, n_frequent)
        } else {
            (stratum.name.clone(), stratum.n_trials - n_frequent_trials, stratum.n_drawn - n_frequent)
        };
        SheetRow {
            line: 0,
            dataset: Some(stratum.dataset.to_owned()),
            question: None,
            label: pair.label.to_owned(),
            aliases: aliases(pair.label).unwrap_or_default(),
            answer: pair.answer.clone(),
            group: None,
            outcome: Some(stratum.outcome),
            stratum: Some(name),
            n_stratum_trials: Some(n_trials),
            n_stratum_drawn: Some(n_drawn),
            n_trials: pair.n_trials,
            weight: threshold.map_or(1.0, |threshold| (threshold / pair.n_trials as f64).max(1.0)),
            is_correct: None,
        }
    };
    drawn.iter().map(row).collect()
}

fn strata(trials: &[Trial], seed: u64) -> Vec<Stratum<'_>> {
    let mut strata: BTreeMap<_, (Outcome, Members<'_>)> = BTreeMap::new();
    for trial in trials.iter().filter(|trial| trial.subject == Subject::Model && trial.mode == Mode::Generate) {
        let (Some(text), Some(name)) = (trial.text(), stratum_name(trial.outcome)) else { continue };
        let (_, members) = strata.entry((trial.dataset.as_str(), name)).or_insert((trial.outcome, BTreeMap::new()));
        *members.entry((trial.label.as_str(), normalise(text))).or_default() += 1;
    }
    let stratum = |((dataset, name), (outcome, members))| stratum(seed, dataset, name, outcome, members);
    strata.into_iter().map(stratum).collect()
}

fn stratum<'a>(seed: u64, dataset: &'a str, name: String, outcome: Outcome, members: Members<'a>) -> Stratum<'a> {
    let n_trials = members.values().sum();
    let pair = |((label, answer), n_trials): ((&'a str, String), usize)| {
        let priority = n_trials as f64 / uniform(seed, [dataset, label, &answer]);
        Pair { label, answer, n_trials, priority }
    };
    let mut pairs: Vec<Pair<'a>> = members.into_iter().map(pair).collect();
    pairs.sort_by(|a, b| b.priority.total_cmp(&a.priority));
    Stratum { dataset, outcome, name, pairs, n_trials, n_drawn: 0 }
}

fn stratum_name(outcome: Outcome) -> Option<String> {
    match outcome {
        Outcome::Correct => Some("correct".to_owned()),
        Outcome::Incorrect(code) => Some(format!("incorrect/{}", code.name())),
        Outcome::Unscored(_) => None,
    }
}

/// Returns a multiple of 2^-53 in (0, 1] that depends only on seed and pair.
fn uniform(seed: u64, pair: [&str; 3]) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for part in pair {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    ((u64::from_le_bytes(bytes) >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

fn allocate(strata: &mut [Stratum<'_>], n: usize) {
    let mut n_left = n;
    for stratum in strata.iter_mut() {
        stratum.n_drawn = stratum.pairs.len().min(N_PER_STRATUM_MIN);
        n_left = n_left.saturating_sub(stratum.n_drawn);
    }
    for _ in 0..n_left {
        let claim = |stratum: &Stratum<'_>| {
            let n_beyond = stratum.n_drawn - N_PER_STRATUM_MIN;
            stratum.n_trials as f64 / (2 * n_beyond + 1) as f64
        };
        let open = strata.iter_mut().filter(|stratum| stratum.n_drawn < stratum.pairs.len());
        // The first of equal strata wins.
        let next = open.reduce(|best, next| if claim(next) > claim(best) { next } else { best });
        let Some(next) = next else { return };
        next.n_drawn += 1;
    }
}

#[cfg(test)]
mod tests;
