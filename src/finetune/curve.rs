//! Accuracy over epochs, and early warnings of forgetting.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::compare::{DatasetSummary, Interval, Summary};

/// The schema of `curve.json`.
pub const CURVE_SCHEMA: &str = "emt.curve/1";

/// A code or an answer with this share of a dataset is a warning sign, unless the base shows it as much.
const SHARE_OF_CODE: f64 = 0.05;

/// `curve.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// `emt.curve/1`.
    pub schema: String,
    /// The method.
    pub method: String,
    /// The datasets on which it trains.
    pub tuned_on: Vec<String>,
    /// One entry per dataset, in evaluation order.
    pub datasets: Vec<DatasetCurve>,
}

/// One dataset over the epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetCurve {
    /// Its name.
    pub dataset: String,
    /// Whether it is trained on.
    pub is_tuned_on: bool,
    /// Sorted by epoch; epoch 0 is the base.
    pub points: Vec<EpochPoint>,
}

/// One dataset after one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochPoint {
    /// The epoch.
    pub epoch: usize,
    /// Optimizer steps so far.
    pub step: usize,
    /// The number of trials.
    pub n_trials: usize,
    /// Correct over scored.
    pub accuracy: Option<f64>,
    /// Wilson's interval.
    pub accuracy_interval: Option<Interval>,
    /// Incorrect trials by code.
    pub codes: BTreeMap<String, usize>,
    /// Early warnings.
    pub marks: Vec<Mark>,
}

/// A sign of forgetting, before or along with a fall of accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Answers elsewhere use labels of the training data.
    Leak,
    /// Answers contain several labels.
    Multi,
    /// Most answers are the same text.
    Constant,
}

impl Curve {
    /// Creates a curve without points.
    pub fn new(method: String, tuned_on: Vec<String>) -> Self {
        Self { schema: CURVE_SCHEMA.to_owned(), method, tuned_on, datasets: Vec::new() }
    }

    /// Adds the evaluation after an epoch; epochs are added in rising order, starting with the base.
    pub fn add(&mut self, epoch: usize, step: usize, summary: &Summary) {
        for dataset in &summary.datasets {
            let Some(model) = &dataset.model else { continue };
            let index = self.datasets.iter().position(|curve| curve.dataset == dataset.dataset);
            let index = index.unwrap_or_else(|| {
                let is_tuned_on = self.tuned_on.contains(&dataset.dataset);
                self.datasets.push(DatasetCurve { dataset: dataset.dataset.clone(), is_tuned_on, points: Vec::new() });
                self.datasets.len() - 1
            });
            let curve = &mut self.datasets[index];
            let marks = marks(dataset, curve.points.first());
            curve.points.push(EpochPoint {
                epoch,
                step,
                n_trials: model.n_trials,
                accuracy: model.accuracy,
                accuracy_interval: model.accuracy_interval,
                codes: model.codes.clone(),
                marks,
            });
        }
    }
}

fn marks(dataset: &DatasetSummary, base: Option<&EpochPoint>) -> Vec<Mark> {
    let Some(model) = &dataset.model else { return Vec::new() };
    let share = |codes: &BTreeMap<String, usize>, n: usize, code: &str| {
        codes.get(code).copied().unwrap_or(0) as f64 / n.max(1) as f64
    };
    let mut marks = Vec::new();
    for (mark, code) in [(Mark::Leak, "leak"), (Mark::Multi, "multi")] {
        // Other epochs are compared with the base.
        let Some(base) = base else { continue };
        let before = share(&base.codes, base.n_trials, code);
        if share(&model.codes, model.n_trials, code) >= before + SHARE_OF_CODE {
            marks.push(mark);
        }
    }
    // With two classes, half of the answers may rightly be equal.
    if dataset.n_classes > 2 && dataset.constant_answer.is_some() {
        marks.push(Mark::Constant);
    }
    marks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn summary(n_correct: usize, codes: serde_json::Value, constant: Option<&str>) -> Summary {
        let n_incorrect = 100 - n_correct;
        let mut dataset = json!({
            "dataset": "mnist", "split": "test", "n_samples": 100, "n_classes": 10, "encoder": null,
            "retention": null, "retention_interval": null, "pairs": null,
            "model": {
                "n_trials": 100, "n_correct": n_correct, "n_incorrect": n_incorrect, "n_unscored": 0,
                "accuracy": n_correct as f64 / 100.0, "accuracy_interval": [0.0, 1.0], "accuracy_bounds": [0.0, 1.0],
                "balanced_accuracy": null, "kinds": {}, "codes": codes,
            },
        });
        if let Some(answer) = constant {
            dataset["constant_answer"] = json!({"answer": answer, "share": 0.8});
        }
        serde_json::from_value(json!({
            "schema": "emt.summary/1", "run": "epoch-1",
            "model": {"name": "m", "family": "llava", "adapter": null, "compute_type": "f32", "device_kind": "cpu"},
            "encoder": {"relation": "none", "comparator": "none", "tower_equal": null, "name": null, "family": null},
            "judge": {"name": "rules", "judges": [], "uncertain_share": null},
            "datasets": [dataset],
        }))
        .unwrap()
    }

    #[test]
    fn an_epoch_is_marked_where_it_shows_what_the_base_does_not() {
        let mut curve = Curve::new("lora".into(), vec!["cifar10".into()]);
        curve.add(0, 0, &summary(60, json!({"multi": 8, "wrong": 32}), None));
        curve.add(1, 7, &summary(50, json!({"multi": 9, "leak": 6, "wrong": 35}), None));
        curve.add(2, 14, &summary(1, json!({"leak": 99}), Some("a horse")));
        let [dataset] = curve.datasets.as_slice() else { panic!("one dataset") };
        assert!(!dataset.is_tuned_on);
        let marks: Vec<&[Mark]> = dataset.points.iter().map(|point| point.marks.as_slice()).collect();
        assert_eq!(marks, [&[][..], &[Mark::Leak], &[Mark::Leak, Mark::Constant]]);
    }
}
