//! Sample summaries for tests.

use std::collections::BTreeMap;

use super::frontier::{Frontier, FrontierPoint, FrontierSeries};
use crate::compare::{
    DatasetSummary, EncoderHeading, EncoderPairs, JudgeHeading, ModelHeading, ProbeHeading, SCHEMA, ShotsAccuracy,
    SubjectSummary, Summary,
};
use crate::domain::{Computing, EncoderRelation, ErrorCode, ErrorKind, JudgeSpec, ProbeClassifier};

/// A subject with `n_correct` of `n_scored`, its errors `wrong` and `out`, and `n_unscored` more trials.
pub fn subject(n_correct: usize, n_scored: usize, n_unscored: usize) -> SubjectSummary {
    let n_incorrect = n_scored - n_correct;
    let n_out = n_incorrect / 3;
    let n_trials = n_scored + n_unscored;
    let accuracy = (n_scored > 0).then(|| n_correct as f64 / n_scored as f64);
    let mut kinds: BTreeMap<String, usize> = ErrorKind::ALL.iter().map(|kind| (kind.name().to_owned(), 0)).collect();
    kinds.insert(ErrorKind::IncorrectPrediction.name().to_owned(), n_incorrect - n_out);
    kinds.insert(ErrorKind::ExtrinsicHallucination.name().to_owned(), n_out);
    let codes = [(ErrorCode::Wrong, n_incorrect - n_out), (ErrorCode::Out, n_out)];
    let codes = codes.into_iter().filter(|(_, n)| *n > 0).map(|(code, n)| (code.name().to_owned(), n)).collect();
    let bounds = [n_correct as f64 / n_trials as f64, (n_correct + n_unscored) as f64 / n_trials as f64];
    SubjectSummary {
        n_trials,
        n_correct,
        n_incorrect,
        n_unscored,
        accuracy,
        accuracy_interval: accuracy.map(|accuracy| [(accuracy - 0.02).max(0.0), (accuracy + 0.02).min(1.0)]),
        accuracy_bounds: Some(bounds),
        balanced_accuracy: accuracy,
        prior_corrected_accuracy: None,
        prior_corrected_interval: None,
        shots: None,
        fewer_shots: Vec::new(),
        kinds,
        codes,
        unscored: (n_unscored > 0).then(|| ("judge_failed".to_owned(), n_unscored)).into_iter().collect(),
    }
}

/// A dataset with ten classes.
pub fn dataset(name: &str, model: Option<SubjectSummary>, encoder: Option<SubjectSummary>) -> DatasetSummary {
    let accuracy = |subject: &Option<SubjectSummary>| subject.as_ref()?.accuracy;
    let retention = accuracy(&model).zip(accuracy(&encoder)).map(|(model, encoder)| model / encoder);
    let pairs = encoder.as_ref().map(|_| EncoderPairs {
        both_correct: 500,
        only_encoder: 300,
        only_model: 70,
        both_wrong: 130,
        unscored: 0,
    });
    DatasetSummary {
        dataset: name.to_owned(),
        split: "test".to_owned(),
        is_training_split: false,
        n_samples: 1000,
        n_classes: 10,
        model,
        model_score: None,
        encoder,
        retention,
        retention_interval: retention.map(|retention| [retention * 0.97, retention * 1.03]),
        pairs,
        constant_answer: None,
    }
}

/// A run over `datasets` with the model's own tower as encoder, judged by rules.
pub fn summary(datasets: Vec<DatasetSummary>) -> Summary {
    Summary {
        schema: SCHEMA.to_owned(),
        run: "sample-run".to_owned(),
        model: ModelHeading {
            name: "llava-1.5-7b".to_owned(),
            family: "llava".to_owned(),
            adapter: None,
            computing: Computing::Local { compute_type: "f32".to_owned(), device_kind: "cpu".to_owned() },
            server_flips: None,
        },
        encoder: EncoderHeading {
            relation: EncoderRelation::Own,
            comparator: "zero_shot".to_owned(),
            tower_equal: Some(true),
            name: Some("clip-vit-large-patch14".to_owned()),
            family: Some("clip".to_owned()),
            tower_change: None,
            probe: None,
        },
        judge: JudgeHeading {
            name: "rules".to_owned(),
            judges: vec![JudgeSpec {
                judge: "rules".to_owned(),
                model: "1".to_owned(),
                prompt: None,
                parameters: serde_json::Value::Null,
            }],
            uncertain_share: Some(0.061),
        },
        datasets,
        tuned_on: vec!["mnist".to_owned()],
    }
}

/// The paper's four datasets: a training split, unscored trials, and a dataset without scored trials.
pub fn four() -> Summary {
    let mut summary = summary(vec![
        dataset("mnist", Some(subject(570, 1000, 0)), Some(subject(774, 1000, 0))),
        dataset("cifar10", Some(subject(730, 998, 2)), Some(subject(954, 1000, 0))),
        dataset("cifar100", Some(subject(0, 0, 1000)), Some(subject(760, 1000, 0))),
        dataset("miniimagenet", Some(subject(141, 1000, 0)), Some(subject(789, 1000, 0))),
    ]);
    summary.datasets[2].n_classes = 100;
    summary.datasets[3].n_classes = 100;
    summary.datasets[3].is_training_split = true;
    summary.datasets[3].split = "train".to_owned();
    summary
}

/// `n` datasets with scattered accuracies.
pub fn many(n: usize) -> Summary {
    let scattered = |index: usize, step: usize| (index * step + 37) % 1001;
    summary(
        (0..n)
            .map(|index| {
                let model = Some(subject(scattered(index, 389), 1000, 0));
                dataset(&format!("dataset number {index}/val"), model, Some(subject(scattered(index, 211), 1000, 0)))
            })
            .collect(),
    )
}

/// The same run with a nearest-mean probe of 16 shots.
pub fn with_probe(mut summary: Summary) -> Summary {
    summary.encoder = EncoderHeading {
        comparator: "probe".to_owned(),
        name: None,
        family: None,
        probe: Some(ProbeHeading { classifier: ProbeClassifier::NearestMean, shots: vec![16] }),
        ..summary.encoder
    };
    for encoder in summary.datasets.iter_mut().filter_map(|dataset| dataset.encoder.as_mut()) {
        let fewer = |shots, accuracy| ShotsAccuracy { shots, accuracy: Some(accuracy), accuracy_interval: None };
        (encoder.shots, encoder.fewer_shots) = (Some(16), vec![fewer(1, 0.31), fewer(5, 0.62)]);
    }
    summary
}

/// The same run without an encoder.
pub fn without_encoder(mut summary: Summary) -> Summary {
    summary.encoder = EncoderHeading {
        relation: EncoderRelation::None,
        comparator: "none".to_owned(),
        tower_equal: None,
        name: None,
        family: None,
        tower_change: None,
        probe: None,
    };
    for dataset in &mut summary.datasets {
        dataset.encoder = None;
        dataset.retention = None;
        dataset.retention_interval = None;
        dataset.pairs = None;
    }
    summary
}

/// Two series with intervals: one by strength, of which the point at 0.5 is marked, and two lone points.
pub fn frontier() -> Frontier {
    let point = |label: &str, x: f64, y: f64| FrontierPoint {
        label: label.to_owned(),
        x,
        x_interval: Some([x - 0.05, x + 0.05]),
        y,
        y_interval: Some([y - 0.06, y + 0.04]),
        is_marked: label == "0.5",
    };
    Frontier {
        title: "New task against old tasks".to_owned(),
        x_label: "accuracy on the new task".to_owned(),
        y_label: "mean accuracy on the old tasks".to_owned(),
        series: vec![
            FrontierSeries {
                name: "scale".to_owned(),
                is_joined: true,
                points: vec![
                    point("0.25", 0.11, 0.52),
                    point("0.5", 0.45, 0.46),
                    point("0.75", 0.61, 0.25),
                    point("1", 0.64, 0.15),
                ],
            },
            FrontierSeries {
                name: "a-series-with-a-rather-long-name, which no narrow chart has room for".to_owned(),
                is_joined: false,
                points: vec![point("a+b", 0.45, 0.29), point("c", 0.64, 0.21)],
            },
        ],
    }
}
