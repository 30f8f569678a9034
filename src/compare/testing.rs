//! Test data for this module.
#![allow(missing_docs, reason = "only tests see it")]

use std::collections::BTreeMap;

use serde_json::Value;

use crate::domain::{
    Answer, AnswerType, Computing, DatasetSpec, EncoderRelation, EncoderSpec, ErrorCode, JudgeSpec, Label, Mode,
    ModelSpec, Outcome, ProbeClassifier, ProbeShots, ProbeSpec, Response, RunSpec, Stop, Subject, SubjectPrompt, Trial,
    UnscoredReason,
};

pub const RIGHT: Outcome = Outcome::Correct;
pub const WRONG: Outcome = Outcome::Incorrect(ErrorCode::Wrong);
pub const UNREADABLE: Outcome = Outcome::Unscored(UnscoredReason::ImageUnreadable);

/// A spec with two datasets and two judges.
pub fn spec(with_encoder: bool) -> RunSpec {
    let hash = String::new;
    RunSpec {
        model: ModelSpec {
            name: "tiny".into(),
            family: "llava".into(),
            weights: Some(hash()),
            adapter: None,
            merged: false,
            tokenizer: Some(hash()),
            chat_template: Some(hash()),
            preprocessing: Value::Null,
            settings: None,
            own_settings: None,
            generation_config: serde_json::Value::Null,
            served: None,
            part: None,
        },
        encoder: with_encoder.then(|| EncoderSpec {
            name: "tiny-clip".into(),
            family: "clip".into(),
            weights: hash(),
            tokenizer: hash(),
            preprocessing: Value::Null,
            relation: EncoderRelation::Own,
            tower_equal: true,
            tower_change: None,
        }),
        probe: None,
        datasets: vec![dataset("cifar10"), dataset("mnist")],
        sample_seed: 0,
        modes: vec![Mode::Generate],
        max_new_tokens: 32,
        computing: Computing::Local { compute_type: "f32".into(), device_kind: "cpu".into() },
        judges: ["rules", "llm"]
            .map(|judge| JudgeSpec { judge: judge.into(), model: "1".into(), prompt: None, parameters: Value::Null })
            .to_vec(),
        label_scoring_version: 1,
        tuned_on: BTreeMap::new(),
    }
}

/// The same with a probe instead of the encoder: 16 shots for `cifar10`, 2 for `mnist`.
pub fn spec_with_probe() -> RunSpec {
    let shots = |shots: &[usize]| ProbeShots { split: "train".into(), shots: shots.into(), content: String::new() };
    let datasets = [("cifar10", &[1, 5, 16][..]), ("mnist", &[1, 2][..])];
    let probe = ProbeSpec {
        classifier: ProbeClassifier::NearestMean,
        tower: "blake3:tower".into(),
        datasets: datasets.map(|(name, n)| (name.to_owned(), shots(n))).into(),
    };
    RunSpec { probe: Some(probe), ..spec(false) }
}

/// A dataset with three classes.
pub fn dataset(name: &str) -> DatasetSpec {
    DatasetSpec {
        dataset: name.into(),
        split: "test".into(),
        is_training_split: false,
        label_set: String::new(),
        labels: ["cat", "dog", "frog"].map(Label::named).into(),
        answer_type: AnswerType::Object,
        exif: None,
        prompts: Vec::<SubjectPrompt>::new(),
    }
}

/// A trial of `cifar10`: a generated answer of the model, or a zero-shot choice of the encoder.
pub fn trial(subject: Subject, n: usize, label: &str, answer: &str, outcome: Outcome) -> Trial {
    Trial {
        dataset: "cifar10".into(),
        split: "test".into(),
        sample: format!("cifar10/test/{n:05}"),
        content: format!("blake3:{n}"),
        label: label.into(),
        subject,
        mode: if subject == Subject::Model { Mode::Generate } else { Mode::ZeroShot },
        prompt: "emt".into(),
        response: Some(match subject {
            Subject::Model => Response::Generated(Answer {
                text: answer.into(),
                stop: Stop::Eos,
                n_prompt_tokens: None,
                n_answer_tokens: None,
                logit_gap: None,
            }),
            Subject::Encoder => Response::Chosen { label: answer.into(), n_prompt_tokens: None },
        }),
        thought: None,
        scores: Vec::new(),
        prior_corrected: None,
        fewer_shots: Vec::new(),
        verdicts: Vec::new(),
        outcome,
    }
}
