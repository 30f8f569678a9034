//! The cause of each lost image, and the causes of a dataset.

use std::collections::BTreeSet;

use super::diagnosis::SwapShare;
use crate::domain::{Cause, CauseShare, Component};
use crate::stats::wilson;

/// What to try. It is a hypothesis.
fn mend(cause: Cause) -> &'static str {
    match cause {
        Cause::Setup => "Try the base's template, preprocessing and precision for the candidate.",
        Cause::Perception => "Try to keep the vision tower frozen.",
        Cause::Alignment => {
            "Try to leave the projector frozen (`emt finetune --no-projector`), or a lower rate for it."
        }
        Cause::Wording => {
            "Try more varied answers in the training data, such as the plain label (`--answer-template`)."
        }
        Cause::Prior => "Try other data in the mix (`--mix`), so that answers depend on the image.",
        Cause::Language => "Try a lower strength of the adapter (`--alpha`, `--learning-rate`), or fewer targets.",
        Cause::Unexplained => "Try `emt report` on the two runs, which shows these images.",
    }
}

/// What the images of this cause have in common.
fn evidence(cause: Cause) -> &'static str {
    match cause {
        Cause::Setup => "are right with the base's settings",
        Cause::Perception => "are right with the base's vision tower",
        Cause::Alignment => "are right with the base's projector",
        Cause::Wording => "still have the right label as the candidate's choice when labels are scored",
        Cause::Prior => "get the same answer without the image",
        Cause::Language => "are right with a part of the base's language model",
        Cause::Unexplained => "are brought back by nothing that was tried",
    }
}

/// Which causes hold for a lost image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indicators(BTreeSet<Cause>);

impl Indicators {
    /// Notes that `cause` holds if `holds`.
    pub fn note(&mut self, cause: Cause, holds: bool) {
        if holds {
            self.0.insert(cause);
        }
    }

    /// The first cause that holds. If `is_wording_first`, only `setup` comes before `wording`.
    pub fn cause(&self, is_wording_first: bool) -> Cause {
        let is_wording = is_wording_first && self.0.contains(&Cause::Wording) && !self.0.contains(&Cause::Setup);
        if is_wording { Cause::Wording } else { self.0.first().copied().unwrap_or(Cause::Unexplained) }
    }
}

/// At most this share of the fall may be a fall of the choices, so that the rest is wording.
const SHARE_OF_CHOICE: f64 = 0.1;

/// Whether the candidate still chooses labels as the base does, although its answers fell: then a part whose restoring brings
/// answers back only restores the wording. Both are accuracies before and after.
pub fn is_fall_of_wording(answers: [f64; 2], choices: [f64; 2]) -> bool {
    let (fall, fall_of_choice) = (answers[0] - answers[1], choices[0] - choices[1]);
    fall > 0.0 && fall_of_choice <= SHARE_OF_CHOICE * fall
}

/// Returns the share of each cause among the lost images, largest first. Causes without an image are left out.
pub fn shares(causes: &[Cause]) -> Vec<CauseShare> {
    let n_lost = causes.len();
    let mut found: Vec<CauseShare> = Cause::ALL
        .iter()
        .map(|&cause| {
            let n = causes.iter().filter(|&&other| other == cause).count();
            CauseShare {
                cause,
                n,
                share: n as f64 / n_lost.max(1) as f64,
                share_interval: wilson(n, n_lost, 0.95),
                evidence: format!("{n} of {n_lost} lost images {}.", evidence(cause)),
                mend: mend(cause).to_owned(),
            }
        })
        .filter(|share| share.n > 0)
        .collect();
    found.sort_by(|a, b| b.n.cmp(&a.n).then(a.cause.cmp(&b.cause)));
    found
}

/// A cause of this share of the lost images is the dataset's cause.
const SHARE_OF_ONE: f64 = 0.5;
/// Each component with this share of the fall is named.
pub const SHARE_OF_EACH: f64 = 0.25;

/// Names the causes of a dataset's fall.
///
/// Causes that are no component come first: one that explains half of the lost images is the cause. Otherwise every component
/// with a Shapley value of at least a quarter of the fall is named by its cause, so that two that act together are both
/// named.
pub fn named(shares: &[CauseShare], swap: &[SwapShare], changed: &BTreeSet<Component>) -> Vec<Cause> {
    let of = |cause: Cause| shares.iter().find(|share| share.cause == cause).map_or(0.0, |share| share.share);
    let alone = [Cause::Setup, Cause::Wording, Cause::Prior].into_iter().find(|&cause| of(cause) >= SHARE_OF_ONE);
    if let Some(cause) = alone {
        return vec![cause];
    }
    let carries = |component: &&Component| {
        let found = swap.iter().find(|share| share.component == component.name());
        found.and_then(|share| share.shapley.or(share.restore.recovered)).is_some_and(|share| share >= SHARE_OF_EACH)
    };
    let causes: BTreeSet<Cause> = changed.iter().filter(carries).map(|&component| Cause::of(component)).collect();
    causes.into_iter().collect()
}

#[cfg(test)]
mod tests;
