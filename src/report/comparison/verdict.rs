//! The result of a comparison, in one sentence per dataset.

use crate::chart::{Shown, shown, words};
use crate::compare::{DatasetComparison, Funnel, Interval, LostImage};

/// The stage between encoder, label scoring and generation at which an image was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostAt {
    /// Label scoring still chooses the label, but the model no longer says it.
    Wording,
    /// The encoder is right, but label scoring does not choose the label.
    Choice,
    /// Neither encoder nor label scoring is right.
    Unknown,
}

impl LostAt {
    /// All stages, from the last to the first.
    pub const ALL: [LostAt; 3] = [LostAt::Wording, LostAt::Choice, LostAt::Unknown];

    /// Returns where `lost` was lost; `None` if encoder or label scoring did not run.
    pub fn of(lost: &LostImage) -> Option<Self> {
        let [scoring, encoder] = [lost.scoring.as_ref()?.1, lost.encoder.as_ref()?.1];
        Some(match (scoring, encoder) {
            (true, _) => LostAt::Wording,
            (false, true) => LostAt::Choice,
            (false, false) => LostAt::Unknown,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            LostAt::Wording => "lost wording",
            LostAt::Choice => "lost choice",
            LostAt::Unknown => "unknown to the encoder too",
        }
    }

    /// The number of a dataset's images that were lost at this stage.
    pub fn n_lost(self, funnel: &Funnel) -> usize {
        match self {
            LostAt::Wording => funnel.lost_wording,
            LostAt::Choice => funnel.lost_choice,
            LostAt::Unknown => funnel.lost_unknown,
        }
    }

    /// Its meaning.
    pub fn meaning(self) -> &'static str {
        match self {
            LostAt::Wording => {
                "label scoring still chooses the right label, but the model no longer says it: the form of the answer drifted"
            }
            LostAt::Choice => {
                "the encoder still sees it, but label scoring chooses another label: the language model or the projector lost it"
            }
            LostAt::Unknown => {
                "encoder and label scoring are wrong, too: the image was never recognised with certainty, or recognition is gone"
            }
        }
    }

    /// How to fix it.
    pub fn mend(self) -> &'static str {
        match self {
            LostAt::Wording => {
                "mix general instruction data or answers of many forms into the fine-tune; ask for the format in the prompt"
            }
            LostAt::Choice => {
                "train more gently (lower rate, fewer steps, lower rank), keep projector or language model closer to the base, or rehearse old tasks"
            }
            LostAt::Unknown => {
                "compare the encoder before and after; if the tower was trained, freeze it or rehearse images"
            }
        }
    }
}

/// How the model's accuracy on `dataset` changed.
pub fn change(dataset: &DatasetComparison) -> Option<Shown> {
    dataset.forgetting.map(|_| shown(dataset.forgetting_interval))
}

/// The word before the sentence.
pub fn mark(change: Option<Shown>) -> &'static str {
    match change {
        Some(Shown::Fall) => "fell",
        Some(Shown::Rise) => "rose",
        Some(Shown::Neither) => "no change shown",
        None => "not compared",
    }
}

/// The class by which a page colours it.
pub fn class(change: Option<Shown>) -> &'static str {
    match change {
        Some(Shown::Fall) => "fell",
        Some(Shown::Rise) => "risen",
        Some(Shown::Neither) => "same",
        None => "undefined",
    }
}

/// Returns the dataset's result in words, without its name: `by 13.3 points (10.3–16.3): …`.
pub fn sentence(dataset: &DatasetComparison) -> String {
    let n_scored = dataset.n_pairs.saturating_sub(dataset.n_unscored);
    let change = change(dataset);
    let fall = dataset.forgetting.unwrap_or_default();
    let points = match change {
        None => return "no image is scored in both runs".to_owned(),
        Some(Shown::Fall) => format!("by {}", in_points(fall, dataset.forgetting_interval)),
        // The direction is given in words, so the number needs no sign.
        Some(Shown::Rise) => {
            format!("by {}", in_points(-fall, dataset.forgetting_interval.map(|[low, high]| [-high, -low])))
        }
        Some(Shown::Neither) => format!("the measured fall is {}", in_points(fall, dataset.forgetting_interval)),
    };
    let mut text = format!("{points}; of {n_scored} images {} lost, {} gained", dataset.n_lost, dataset.n_gained);
    if let Some(n) = dataset.encoder_knows.filter(|_| dataset.n_lost > 0) {
        text.push_str(&format!("; the {} still knows {n} of the lost", dataset.encoder_noun()));
    }
    if let Some(tower) = dataset.tower.as_ref().filter(|tower| !tower.is_same_tower) {
        text.push_str(&format!(
            "; the tower itself fell by {}",
            in_points(tower.forgetting.unwrap_or_default(), tower.forgetting_interval)
        ));
    }
    if let (Some(Shown::Neither), Some(least)) = (change, dataset.minimum_detectable_fall) {
        text.push_str(&format!(
            "; a fall of {} points would have shown in 4 of 5 cases",
            words::percent_number(Some(least))
        ));
    }
    if let (Some(Shown::Fall), Some((stage, n))) = (change, foremost(dataset)) {
        text.push_str(&format!("; mostly {} ({n})", stage.name()));
    }
    text
}

/// Formats `13.3 points (10.3–16.3)`.
fn in_points(value: f64, interval: Option<Interval>) -> String {
    let text = words::points(Some(value), interval);
    match text.split_once(' ') {
        Some((number, interval)) => format!("{number} points {interval}"),
        None => format!("{text} points"),
    }
}

/// Returns the stage at which more than half of the images were lost.
fn foremost(dataset: &DatasetComparison) -> Option<(LostAt, usize)> {
    let funnel = dataset.funnel.as_ref()?;
    let all = LostAt::ALL.map(|stage| (stage, stage.n_lost(funnel)));
    let n_lost: usize = all.iter().map(|(_, n)| n).sum();
    all.into_iter().find(|(_, n)| 2 * n > n_lost)
}
