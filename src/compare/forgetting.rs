//! What a candidate lost against its baseline, image by image.

use super::Interval;
use super::pairing::pair;
use crate::domain::{Mode, Outcome, Subject, Trial, UnscoredReason};
use crate::stats::{PairedCounts, tango_interval};

/// One dataset before and after, over the same images.
#[derive(Clone, Debug, PartialEq)]
pub struct Forgetting {
    /// The dataset's name.
    pub dataset: String,
    /// Pairs of trials of one image; those of which the image is unreadable in both runs are left out.
    pub n_pairs: usize,
    /// Of them, those with either side unscored.
    pub n_unscored: usize,
    /// Pairs that were left out.
    pub n_unreadable: usize,
    /// Trials of either run without a partner in the other.
    pub n_unpaired: usize,
    /// Right before, wrong after.
    pub n_lost: usize,
    /// Wrong before, right after.
    pub n_gained: usize,
    /// Baseline less candidate accuracy over the pairs scored on both sides.
    pub forgetting: Option<f64>,
    /// Its interval by Tango, 95% two-sided.
    pub forgetting_interval: Option<Interval>,
}

/// Compares the generated answers of two runs to the images of `dataset`. Images are paired by content, label and
/// prompt, the k-th duplicate with the k-th.
pub fn forgetting(dataset: &str, before: &[Trial], after: &[Trial]) -> Forgetting {
    let of_dataset =
        |trial: &&Trial| trial.dataset == dataset && trial.subject == Subject::Model && trial.mode == Mode::Generate;
    let key = |trial: &&Trial| (trial.content.clone(), trial.label.clone(), trial.prompt.clone());
    let pairing = pair(before.iter().filter(of_dataset), after.iter().filter(of_dataset), key, |trial: &&Trial| {
        trial.sample.clone()
    });
    let is_unreadable = |trial: &Trial| trial.outcome == Outcome::Unscored(UnscoredReason::ImageUnreadable);
    let (mut n_pairs, mut n_unscored, mut n_unreadable, mut n_lost, mut n_gained) = (0, 0, 0, 0, 0);
    for (before, after) in &pairing.pairs {
        if is_unreadable(before) && is_unreadable(after) {
            n_unreadable += 1;
            continue;
        }
        n_pairs += 1;
        match (before.outcome, after.outcome) {
            (Outcome::Unscored(_), _) | (_, Outcome::Unscored(_)) => n_unscored += 1,
            (Outcome::Correct, Outcome::Incorrect(_)) => n_lost += 1,
            (Outcome::Incorrect(_), Outcome::Correct) => n_gained += 1,
            _ => {}
        }
    }
    let counts = PairedCounts { n_lost, n_gained, n: n_pairs - n_unscored };
    Forgetting {
        dataset: dataset.to_owned(),
        n_pairs,
        n_unscored,
        n_unreadable,
        n_unpaired: pairing.only_first.len() + pairing.only_second.len(),
        n_lost,
        n_gained,
        forgetting: counts.fall(),
        forgetting_interval: tango_interval(counts, 0.95),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Answer, ErrorCode, Stop};

    fn trial(content: &str, outcome: Outcome) -> Trial {
        let answer =
            Answer { text: "x".into(), stop: Stop::Eos, n_prompt_tokens: None, n_answer_tokens: None, logit_gap: None };
        Trial {
            dataset: "d".into(),
            split: "test".into(),
            sample: format!("d/test/{content}"),
            content: content.into(),
            label: "cat".into(),
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

    const RIGHT: Outcome = Outcome::Correct;
    const WRONG: Outcome = Outcome::Incorrect(ErrorCode::Wrong);

    #[test]
    fn every_pair_is_counted_once_and_where_it_belongs() {
        let failed = Outcome::Unscored(UnscoredReason::JudgeFailed);
        let unreadable = Outcome::Unscored(UnscoredReason::ImageUnreadable);
        let cells =
            [(RIGHT, WRONG), (RIGHT, WRONG), (WRONG, RIGHT), (RIGHT, RIGHT), (failed, RIGHT), (unreadable, unreadable)];
        let side = |of: fn(&(Outcome, Outcome)) -> Outcome| -> Vec<Trial> {
            cells.iter().enumerate().map(|(index, cell)| trial(&index.to_string(), of(cell))).collect()
        };
        let (before, mut after) = (side(|cell| cell.0), side(|cell| cell.1));
        after.push(trial("elsewhere", RIGHT));
        after.reverse();
        let found = forgetting("d", &before, &after);
        assert_eq!((found.n_pairs, found.n_unscored, found.n_unreadable, found.n_unpaired), (5, 1, 1, 1));
        assert_eq!((found.n_lost, found.n_gained), (2, 1));
        assert_eq!(found.forgetting, Some(0.25));
        let [low, high] = found.forgetting_interval.unwrap();
        assert!(low < 0.25 && 0.25 < high);
    }

    #[test]
    fn without_a_scored_pair_nothing_is_said() {
        let found = forgetting("d", &[trial("a", RIGHT)], &[trial("b", RIGHT)]);
        assert_eq!((found.n_pairs, found.n_unpaired), (0, 2));
        assert_eq!((found.forgetting, found.forgetting_interval), (None, None));
        assert_eq!(forgetting("other", &[], &[]).n_pairs, 0);
    }
}
