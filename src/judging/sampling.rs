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
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        Answer, AnswerType, Computing, DatasetSpec, ErrorCode, JudgeSpec, Label, ModelSpec, Response, Stop,
        UnscoredReason,
    };

    fn spec() -> RunSpec {
        let animals = DatasetSpec {
            dataset: "animals".into(),
            split: "test".into(),
            is_training_split: false,
            label_set: "blake3:l".into(),
            labels: ["cat", "dog"].map(Label::named).into(),
            answer_type: AnswerType::Object,
            exif: None,
            prompts: Vec::new(),
        };
        let model = ModelSpec {
            name: "tiny".into(),
            family: "llava".into(),
            weights: Some("blake3:w".into()),
            adapter: None,
            merged: false,
            tokenizer: Some("blake3:t".into()),
            chat_template: Some("blake3:c".into()),
            preprocessing: serde_json::Value::Null,
            settings: None,
            own_settings: None,
            generation_config: serde_json::Value::Null,
            served: None,
            part: None,
        };
        let rules =
            JudgeSpec { judge: "rules".into(), model: "1".into(), prompt: None, parameters: serde_json::Value::Null };
        RunSpec {
            model,
            encoder: None,
            probe: None,
            datasets: vec![animals],
            sample_seed: 0,
            modes: vec![Mode::Generate],
            max_new_tokens: 32,
            computing: Computing::Local { compute_type: "f32".into(), device_kind: "cpu".into() },
            judges: vec![rules],
            label_scoring_version: 1,
            tuned_on: BTreeMap::new(),
        }
    }

    fn trial(label: &str, text: &str, outcome: Outcome) -> Trial {
        let answer = Answer {
            text: text.into(),
            stop: Stop::Eos,
            n_prompt_tokens: None,
            n_answer_tokens: None,
            logit_gap: None,
        };
        Trial {
            dataset: "animals".into(),
            split: "test".into(),
            sample: "animals/test/0".into(),
            content: "blake3:c".into(),
            label: label.into(),
            subject: Subject::Model,
            mode: Mode::Generate,
            prompt: "emt".into(),
            response: Some(Response::Generated(answer)),
            thought: None,
            scores: Vec::new(),
            prior_corrected: None,
            fewer_shots: Vec::new(),
            verdicts: Vec::new(),
            outcome,
        }
    }

    /// 400 right answers, of which 300 are equal, 200 distinct wrong ones, and 4 empty ones.
    fn trials() -> Vec<Trial> {
        let right = (0..400).map(|i| trial("cat", &format!("a {} cat", i.max(300)), Outcome::Correct));
        let wrong = (0..200).map(|i| trial("cat", &format!("dog {i}"), Outcome::Incorrect(ErrorCode::Wrong)));
        let empty = (0..4).map(|_| trial("dog", " ", Outcome::Incorrect(ErrorCode::Empty)));
        right.chain(wrong).chain(empty).collect()
    }

    fn draw(trials: &[Trial], n: usize, seed: u64) -> Sheet {
        draw_sheet(&spec(), "blake3:r", trials, n, seed)
    }

    fn of_stratum<'a>(sheet: &'a Sheet, name: &str) -> Vec<&'a SheetRow> {
        sheet.rows.iter().filter(|row| row.stratum.as_deref() == Some(name)).collect()
    }

    #[test]
    fn strata_are_drawn_in_proportion_with_a_minimum() {
        let sheet = draw(&trials(), 100, 0);
        assert_eq!(sheet.rows.len(), 100);
        let frequent = of_stratum(&sheet, "correct/frequent");
        assert_eq!((frequent.len(), frequent[0].n_trials, frequent[0].weight), (1, 301, 1.0));
        let empty = of_stratum(&sheet, "incorrect/empty");
        assert_eq!((empty.len(), empty[0].n_trials, empty[0].answer.as_str(), empty[0].weight), (1, 4, "", 1.0));
        let (right, wrong) = (of_stratum(&sheet, "correct"), of_stratum(&sheet, "incorrect/wrong"));
        // 79 beyond the minima of 10, 10 and 1, shared as 400 to 200.
        assert_eq!((right.len(), wrong.len()), (10 + 53 - 1, 10 + 26));
        assert!(right.iter().all(|row| (row.n_stratum_trials, row.n_stratum_drawn) == (Some(99), Some(62))));
        assert!(wrong.iter().all(|row| row.n_stratum_trials == Some(200) && row.weight == wrong[0].weight));
        // A very small and a very large `n`.
        assert_eq!(draw(&trials(), 1, 0).rows.len(), 21);
        let all = draw(&trials(), 10_000, 0);
        assert!(all.rows.len() == 301 && all.rows.iter().all(|row| row.weight == 1.0));
    }

    #[test]
    fn weights_times_trials_add_up_to_all_trials_on_average() {
        let mut trials = trials();
        // Adds an uneven tail.
        trials.extend((0..240).map(|i: usize| trial("dog", &format!("{}", i.isqrt()), Outcome::Correct)));
        let (mut sums, mut counts) = (Vec::new(), Vec::new());
        for seed in 0..600 {
            let sheet = draw(&trials, 60, seed);
            let right = sheet.rows.iter().filter(|row| row.outcome == Some(Outcome::Correct));
            sums.push(right.clone().map(|row| row.weight * row.n_trials as f64).sum::<f64>());
            counts.push(right.map(|row| row.weight).sum::<f64>());
        }
        for (found, expected) in [(sums, 640.0), (counts, 116.0)] {
            let mean = found.iter().sum::<f64>() / 600.0;
            let error = (found.iter().map(|sum| (sum - mean).powi(2)).sum::<f64>()).sqrt() / 600.0;
            assert!((mean - expected).abs() < 4.0 * error, "{mean} +- {error}, and not {expected}");
        }
    }

    #[test]
    fn trials_without_an_outcome_and_of_others_are_no_part_of_it() {
        let mut encoder = trial("cat", "cat", Outcome::Correct);
        encoder.subject = Subject::Encoder;
        let mut scored = trial("cat", "cat", Outcome::Correct);
        scored.mode = Mode::Score;
        let unscored = trial("cat", "cat", Outcome::Unscored(UnscoredReason::JudgeFailed));
        assert!(draw(&[encoder, scored, unscored], 10, 0).rows.is_empty());
    }

    #[test]
    fn equally_frequent_pairs_are_drawn_equally_often() {
        let trials = trials();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for seed in 0..400 {
            for row in of_stratum(&draw(&trials, 60, seed), "incorrect/wrong") {
                *counts.entry(row.answer.clone()).or_default() += 1;
            }
        }
        let n_drawn = of_stratum(&draw(&trials, 60, 0), "incorrect/wrong").len();
        let (mean, n) = (400.0 * n_drawn as f64 / 200.0, counts.len());
        let chi2: f64 = counts.values().map(|&count| (count as f64 - mean).powi(2) / mean).sum();
        // 199 degrees of freedom, minus some for draws without replacement.
        assert!(n == 200 && chi2 < 270.0, "{chi2}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_smaller_sheet_is_a_part_of_a_larger_one(n in 1_usize..300, more in 0_usize..60, seed: u64) {
            let trials = trials();
            let keys = |sheet: &Sheet| -> BTreeSet<String> {
                sheet.rows.iter().map(|row| format!("{}|{}", row.label, row.answer)).collect()
            };
            let (small, large) = (draw(&trials, n, seed), draw(&trials, n + more, seed));
            prop_assert!(keys(&small).is_subset(&keys(&large)));
            let mut turned = trials.clone();
            turned.reverse();
            prop_assert_eq!(draw(&turned, n, seed), small);
        }
    }
}
