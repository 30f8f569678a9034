//! The images of one dataset, each with the trials of two runs.

use std::collections::BTreeMap;

use super::pair;
use crate::domain::{Mode, Outcome, Subject, Trial, UnscoredReason};

/// One run's trials of one dataset.
#[derive(Clone, Debug, Default)]
pub(super) struct Side<'a> {
    generated: Vec<&'a Trial>,
    scored: BTreeMap<&'a str, &'a Trial>,
    encoder: BTreeMap<&'a str, &'a Trial>,
}

/// Groups the trials of one run by dataset.
pub(super) fn by_dataset(trials: &[Trial]) -> BTreeMap<&str, Side<'_>> {
    let mut sides: BTreeMap<&str, Side> = BTreeMap::new();
    for trial in trials {
        let side = sides.entry(&trial.dataset).or_default();
        match (trial.subject, trial.mode) {
            (Subject::Model, Mode::Generate) => side.generated.push(trial),
            (Subject::Model, Mode::Score) => _ = side.scored.insert(&trial.sample, trial),
            (Subject::Encoder, Mode::ZeroShot) => _ = side.encoder.insert(&trial.sample, trial),
            // Zero-shot takes precedence over the probe.
            (Subject::Encoder, _) => _ = side.encoder.entry(&trial.sample).or_insert(trial),
            (Subject::Model, _) => {}
        }
    }
    sides
}

/// An image before and after: the generated answers and the other trials of each run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image<'a> {
    /// The model's generated answers.
    pub model: [&'a Trial; 2],
    /// The encoders' choices.
    pub encoder: [Option<&'a Trial>; 2],
    /// The models' choices by label scoring.
    pub scoring: [Option<&'a Trial>; 2],
}

/// The images that both runs have, and the numbers of trials left out.
#[derive(Clone, Debug)]
pub(super) struct Images<'a> {
    /// The images, in the order of their content hashes.
    pub images: Vec<Image<'a>>,
    /// Pairs that are unreadable in both runs.
    pub n_unreadable: usize,
    /// Trials of either run without a partner.
    pub n_unpaired: usize,
}

impl<'a> Images<'a> {
    /// Pairs trials by content, label and prompt, the k-th duplicate with the k-th.
    pub fn pair(before: &Side<'a>, after: &Side<'a>) -> Self {
        let key = |trial: &&'a Trial| (trial.content.as_str(), trial.label.as_str(), trial.prompt.as_str());
        let rank = |trial: &&'a Trial| trial.sample.as_str();
        let pairing = pair(before.generated.iter().copied(), after.generated.iter().copied(), key, rank);
        let n_pairs = pairing.pairs.len();
        let unreadable = Outcome::Unscored(UnscoredReason::ImageUnreadable);
        let images: Vec<Image> = pairing
            .pairs
            .into_iter()
            .filter(|(first, second)| first.outcome != unreadable || second.outcome != unreadable)
            .map(|(first, second)| {
                let beside = |trials: [&BTreeMap<&str, &'a Trial>; 2]| {
                    [trials[0].get(first.sample.as_str()).copied(), trials[1].get(second.sample.as_str()).copied()]
                };
                Image {
                    model: [first, second],
                    encoder: beside([&before.encoder, &after.encoder]),
                    scoring: beside([&before.scored, &after.scored]),
                }
            })
            .collect();
        Self {
            n_unreadable: n_pairs - images.len(),
            n_unpaired: pairing.only_first.len() + pairing.only_second.len(),
            images,
        }
    }
}

impl Image<'_> {
    /// Whether the generated answers are right, before and after.
    pub fn is_correct(&self) -> [Option<bool>; 2] {
        self.model.map(is_correct)
    }

    /// Whether the answer and its smallest logit gap, if known, are exactly equal.
    pub fn is_unchanged(&self) -> bool {
        let [before, after] = self.model.map(|trial| {
            let logit_gap = trial.answer().and_then(|answer| answer.logit_gap);
            trial.text().map(|text| (text, logit_gap))
        });
        before == after
    }

    /// Whether the answer was right before and is wrong after.
    pub fn is_lost(&self) -> bool {
        self.is_correct() == [Some(true), Some(false)]
    }

    /// Whether encoder, scoring and generation of a run are right; `None` if one of them is unknown.
    pub fn funnel(&self, run: usize) -> Option<[bool; 3]> {
        Some([is_correct(self.encoder[run]?)?, is_correct(self.scoring[run]?)?, is_correct(self.model[run])?])
    }
}

/// Whether a trial is correct; `None` if it is unscored.
pub(super) fn is_correct(trial: &Trial) -> Option<bool> {
    match trial.outcome {
        Outcome::Correct => Some(true),
        Outcome::Incorrect(_) => Some(false),
        Outcome::Unscored(_) => None,
    }
}
