//! Which answers of a run people should mark.

use std::collections::BTreeMap;

use super::normalise;
use super::sheet::{Sheet, SheetOrigin, SheetRow};
use crate::compare::JudgeIdentity;
use crate::domain::{Mode, Outcome, RunSpec, Subject, Trial};

/// At least so many pairs of each stratum are drawn, all where it has fewer.
const N_PER_STRATUM_MIN: usize = 10;

/// The pairs of one dataset, verdict and code that have a like chance to be drawn.
struct Stratum<'a> {
    dataset: &'a str,
    outcome: Outcome,
    name: String,
    /// Label, answer and trials, in the order in which they are drawn.
    pairs: Vec<(&'a str, String, usize)>,
    n_drawn: usize,
}

impl Stratum<'_> {
    fn n_trials(&self) -> usize {
        self.pairs.iter().map(|(_, _, n_trials)| n_trials).sum()
    }
}

/// Draws distinct pairs of label and answer of the model's scored generated answers, as a sheet in the order of
/// datasets, labels and answers.
///
/// A stratum is a dataset, verdict and code. Of each at least 10 pairs are drawn, all where it has fewer; what `n`
/// leaves goes to strata in proportion to their trials (Webster's method, so that no stratum shrinks as `n` grows).
/// Pairs that hold a tenth of a stratum's trials or more would decide alone what its sample says: they are a stratum of
/// their own, `/frequent`, and all drawn. Within a stratum pairs are drawn in the order of blake3(seed as 8 bytes
/// little-endian, and dataset, label and answer, each after its length in the same form), so that a smaller `n` is a
/// part of a larger one. The sheet is longer than `n` where the strata ask for more.
pub fn draw_sheet(spec: &RunSpec, identity: &str, trials: &[Trial], n: usize, seed: u64) -> Sheet {
    let mut strata = strata(trials, seed);
    allocate(&mut strata, n);
    let aliases = |dataset: &str, label: &str| {
        let dataset = spec.datasets.iter().find(|known| known.dataset == dataset)?;
        Some(dataset.labels.iter().find(|known| known.name == label)?.aliases.clone())
    };
    let mut rows: Vec<SheetRow> = Vec::new();
    for stratum in &strata {
        for (label, answer, n_trials) in &stratum.pairs[..stratum.n_drawn] {
            rows.push(SheetRow {
                line: 0,
                dataset: Some(stratum.dataset.to_owned()),
                question: None,
                label: (*label).to_owned(),
                aliases: aliases(stratum.dataset, label).unwrap_or_default(),
                answer: answer.clone(),
                group: None,
                outcome: Some(stratum.outcome),
                stratum: Some(stratum.name.clone()),
                n_stratum_trials: Some(stratum.n_trials()),
                n_trials: *n_trials,
                weight: stratum.pairs.len() as f64 / stratum.n_drawn as f64,
                is_correct: None,
            });
        }
    }
    let place = |row: &SheetRow| spec.datasets.iter().position(|known| Some(&known.dataset) == row.dataset.as_ref());
    rows.sort_by(|a, b| (place(a), &a.label, &a.answer).cmp(&(place(b), &b.label, &b.answer)));
    for (line, row) in (2..).zip(&mut rows) {
        row.line = line;
    }
    Sheet { origin: Some(SheetOrigin { run: identity.to_owned(), judge: JudgeIdentity::of(&spec.judges) }), rows }
}

fn strata(trials: &[Trial], seed: u64) -> Vec<Stratum<'_>> {
    let mut pairs: BTreeMap<_, (Outcome, BTreeMap<(&str, String), usize>)> = BTreeMap::new();
    for trial in trials.iter().filter(|trial| trial.subject == Subject::Model && trial.mode == Mode::Generate) {
        let (Some(answer), Some(name)) = (&trial.answer, stratum_name(trial.outcome)) else { continue };
        let (_, members) = pairs.entry((trial.dataset.as_str(), name)).or_insert((trial.outcome, BTreeMap::new()));
        *members.entry((trial.label.as_str(), normalise(&answer.text))).or_default() += 1;
    }
    let mut strata = Vec::new();
    for ((dataset, name), (outcome, members)) in pairs {
        let n_trials: usize = members.values().sum();
        let is_small = members.len() <= N_PER_STRATUM_MIN;
        let members = members.into_iter().map(|((label, answer), n)| (label, answer, n));
        let (frequent, others): (Vec<(&str, String, usize)>, Vec<_>) =
            members.partition(|&(_, _, n)| !is_small && n * N_PER_STRATUM_MIN >= n_trials);
        for (name, mut pairs) in [(format!("{name}/frequent"), frequent), (name, others)] {
            pairs.sort_by_cached_key(|(label, answer, _)| *rank(seed, dataset, label, answer).as_bytes());
            strata.push(Stratum { dataset, outcome, name, pairs, n_drawn: 0 });
        }
    }
    strata.retain(|stratum| !stratum.pairs.is_empty());
    strata
}

fn stratum_name(outcome: Outcome) -> Option<String> {
    match outcome {
        Outcome::Correct => Some("correct".to_owned()),
        Outcome::Incorrect(code) => Some(format!("incorrect/{}", code.name())),
        Outcome::Unscored(_) => None,
    }
}

fn rank(seed: u64, dataset: &str, label: &str, answer: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for part in [dataset, label, answer] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}

fn allocate(strata: &mut [Stratum<'_>], n: usize) {
    let mut n_left = n;
    for stratum in strata.iter_mut() {
        let is_frequent = stratum.name.ends_with("/frequent");
        stratum.n_drawn = if is_frequent { stratum.pairs.len() } else { stratum.pairs.len().min(N_PER_STRATUM_MIN) };
        n_left = n_left.saturating_sub(stratum.n_drawn);
    }
    let n_minimum: Vec<usize> = strata.iter().map(|stratum| stratum.n_drawn).collect();
    let n_trials: Vec<f64> = strata.iter().map(|stratum| stratum.n_trials() as f64).collect();
    for _ in 0..n_left {
        let claim =
            |at: usize, stratum: &Stratum<'_>| n_trials[at] / (2 * (stratum.n_drawn - n_minimum[at]) + 1) as f64;
        let open = strata.iter().enumerate().filter(|(_, stratum)| stratum.n_drawn < stratum.pairs.len());
        let claims = open.map(|(at, stratum)| (at, claim(at, stratum)));
        let Some((at, _)) = claims.reduce(|best, next| if next.1 > best.1 { next } else { best }) else { return };
        strata[at].n_drawn += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        Answer, AnswerType, DatasetSpec, ErrorCode, JudgeSpec, Label, ModelSpec, Stop, UnscoredReason,
    };

    fn spec() -> RunSpec {
        let animals = DatasetSpec {
            dataset: "animals".into(),
            split: "test".into(),
            is_training_split: false,
            label_set: "blake3:l".into(),
            labels: ["cat", "dog"].map(Label::named).into(),
            answer_type: AnswerType::Object,
            prompts: Vec::new(),
        };
        let model = ModelSpec {
            name: "tiny".into(),
            family: "llava".into(),
            weights: "blake3:w".into(),
            adapter: None,
            merged: false,
            tokenizer: "blake3:t".into(),
            chat_template: "blake3:c".into(),
            preprocessing: serde_json::Value::Null,
        };
        let rules =
            JudgeSpec { judge: "rules".into(), model: "1".into(), prompt: None, parameters: serde_json::Value::Null };
        RunSpec {
            model,
            encoder: None,
            datasets: vec![animals],
            sample_seed: 0,
            modes: vec![Mode::Generate],
            max_new_tokens: 32,
            compute_type: "f32".into(),
            device_kind: "cpu".into(),
            judges: vec![rules],
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
            answer: Some(answer),
            scores: Vec::new(),
            prior_corrected: None,
            verdicts: Vec::new(),
            outcome,
        }
    }

    /// 400 right answers of which 300 are one, 200 wrong and distinct ones, and 4 empty ones.
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
    fn strata_are_drawn_in_proportion_with_a_minimum_and_weights_add_up() {
        let sheet = draw(&trials(), 100, 0);
        assert_eq!(sheet.rows.len(), 100);
        let frequent = of_stratum(&sheet, "correct/frequent");
        assert_eq!((frequent.len(), frequent[0].n_trials, frequent[0].weight), (1, 301, 1.0));
        let empty = of_stratum(&sheet, "incorrect/empty");
        assert_eq!((empty.len(), empty[0].n_trials, empty[0].answer.as_str()), (1, 4, ""));
        let (right, wrong) = (of_stratum(&sheet, "correct"), of_stratum(&sheet, "incorrect/wrong"));
        // 78 beyond the minimum of 10 + 10 and the two, as 99 to 200.
        assert_eq!((right.len(), wrong.len()), (10 + 26, 10 + 52));
        assert!((wrong.iter().map(|row| row.weight).sum::<f64>() - 200.0).abs() < 1e-9);
        assert!((right.iter().map(|row| row.weight).sum::<f64>() - 99.0).abs() < 1e-9);
        assert!(wrong.iter().all(|row| row.n_stratum_trials == Some(200)));
        // However small n is.
        assert_eq!(draw(&trials(), 1, 0).rows.len(), 22);
        assert_eq!(draw(&trials(), 10_000, 0).rows.len(), 301);
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
    fn every_pair_of_a_stratum_is_drawn_equally_often() {
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
        // 199 degrees of freedom, less for draws without replacement.
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
