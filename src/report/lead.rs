//! The first statement of a run's pages: how much of each dataset the model gets right.

use super::notes;
use crate::chart::words;
use crate::compare::{DatasetSummary, Summary};

/// One dataset's result in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The dataset's name.
    pub dataset: String,
    /// The result, such as `57.7% of 300 images right (52.0–63.1); …`.
    pub text: String,
}

/// Returns, per dataset, how many images are right and how that compares with the encoder.
pub fn leads(summary: &Summary) -> Vec<Lead> {
    let noun = words::encoder_noun(&summary.encoder);
    let lead = |dataset: &DatasetSummary| Lead { dataset: dataset.dataset.clone(), text: text(dataset, noun) };
    summary.datasets.iter().map(lead).collect()
}

fn text(dataset: &DatasetSummary, noun: &str) -> String {
    let (model, how) = match (&dataset.model, &dataset.model_score) {
        (Some(model), _) => (model, ""),
        (None, Some(scored)) => (scored, " by label scoring"),
        (None, None) => return "not asked".to_owned(),
    };
    let n_scored = model.n_correct + model.n_incorrect;
    let (accuracy, interval) = notes::accuracy(Some(model));
    if accuracy.is_none() {
        return format!("none of {} answers is scored", model.n_trials);
    }
    let mut text = format!("{} of {n_scored} images right{how}", words::percent(accuracy));
    if interval.is_some() {
        text.push_str(&format!(" ({})", words::interval(interval)));
    }
    if let Some(encoder) = dataset.encoder.as_ref().and_then(|encoder| encoder.accuracy) {
        text.push_str(&format!("; the {noun} {}", words::percent(Some(encoder))));
        if let Some(retention) = dataset.retention.filter(|retention| retention.is_finite()) {
            text.push_str(&format!(", retention {}", words::percent(Some(retention))));
        }
    }
    if let (Some(_), Some(scored)) = (&dataset.model, &dataset.model_score) {
        text.push_str(&format!("; by label scoring {}", words::percent(scored.accuracy)));
    }
    if model.n_unscored > 0 {
        text.push_str(&format!("; {} unscored", model.n_unscored));
    }
    text
}
