//! Fixtures for the tests of this module.

use serde_json::json;

use super::{Manifest, Sitting, environment};
use crate::domain::{
    Answer, AnswerType, Computing, DatasetSpec, EncoderRelation, EncoderSpec, JudgeSpec, JudgeVerdict, Judgement,
    Label, Mode, ModelSpec, Outcome, ProbeClassifier, ProbeShots, ProbeSpec, Response, RunSpec, Stop, Subject,
    SubjectPrompt, Trial,
};

fn dataset(name: &str) -> DatasetSpec {
    let prompt = |subject, mode, prompt: &str, ids: Option<Vec<Option<u32>>>| SubjectPrompt {
        subject,
        mode,
        prompt: prompt.into(),
        text: format!("What is it, of {name}?"),
        rendered: None,
        ids,
        hash: "blake3:p".into(),
    };
    DatasetSpec {
        dataset: name.into(),
        split: "test".into(),
        is_training_split: false,
        label_set: "blake3:l".into(),
        labels: ["0", "1"].map(Label::named).into(),
        answer_type: AnswerType::Number,
        exif: None,
        prompts: vec![
            prompt(Subject::Model, Mode::Generate, "emt", Some(vec![Some(1), None, None, Some(5)])),
            prompt(Subject::Encoder, Mode::ZeroShot, "caption", None),
        ],
    }
}

/// A run with two datasets and a model with an encoder, judged by rules.
pub(super) fn spec() -> RunSpec {
    RunSpec {
        model: ModelSpec {
            name: "tiny".into(),
            family: "llava".into(),
            weights: Some("blake3:w".into()),
            adapter: None,
            merged: false,
            tokenizer: Some("blake3:t".into()),
            chat_template: Some("blake3:c".into()),
            preprocessing: json!({ "size": 224, "mean": [0.5, 0.5, 0.5] }),
            settings: None,
            own_settings: None,
            generation_config: serde_json::Value::Null,
            served: None,
            part: None,
        },
        encoder: Some(EncoderSpec {
            name: "tower".into(),
            family: "clip".into(),
            weights: "blake3:e".into(),
            tokenizer: "blake3:t".into(),
            preprocessing: json!({ "size": 224 }),
            relation: EncoderRelation::Own,
            tower_equal: true,
            tower_change: None,
        }),
        probe: None,
        datasets: vec![dataset("mnist"), dataset("cifar10")],
        sample_seed: 7,
        modes: vec![Mode::Generate],
        max_new_tokens: 32,
        computing: computing("f32", "cpu"),
        judges: vec![JudgeSpec {
            judge: "rules".into(),
            model: "rules/1".into(),
            prompt: None,
            parameters: json!(null),
        }],
        label_scoring_version: 1,
        tuned_on: Default::default(),
    }
}

/// A probe for both datasets.
pub(super) fn probe() -> ProbeSpec {
    let shots = ProbeShots { split: "train".into(), shots: vec![1, 5, 16], content: "blake3:s".into() };
    ProbeSpec {
        classifier: ProbeClassifier::NearestMean,
        tower: "blake3:tower".into(),
        datasets: ["mnist", "cifar10"].map(|name| (name.to_owned(), shots.clone())).into(),
    }
}

/// [`spec`] with the probe instead of the encoder.
pub(super) fn with_probe() -> RunSpec {
    let mut spec = RunSpec { encoder: None, probe: Some(probe()), ..spec() };
    for dataset in &mut spec.datasets {
        let prompt = &mut dataset.prompts[1];
        (prompt.mode, prompt.prompt) = (Mode::Probe, "probe-16".into());
    }
    spec
}

/// The manifest of a new run of [`spec`].
pub(super) fn manifest() -> Manifest {
    let sitting = Sitting { n_threads: 2, ..Sitting::default() };
    let mut environment = environment(&sitting);
    environment.insert("started".into(), "2026-01-31T12:00:00Z".into());
    Manifest::new(spec(), environment)
}

pub(super) fn computing(compute_type: &str, device_kind: &str) -> Computing {
    Computing::Local { compute_type: compute_type.into(), device_kind: device_kind.into() }
}

/// The model's correct answer to sample number `index` of MNIST.
pub(super) fn trial(index: usize) -> Trial {
    Trial {
        dataset: "mnist".into(),
        split: "test".into(),
        sample: format!("mnist/test/{index:05}"),
        content: format!("blake3:{index}"),
        label: "1".into(),
        subject: Subject::Model,
        mode: Mode::Generate,
        prompt: "emt".into(),
        response: Some(Response::Generated(Answer {
            text: "1".into(),
            stop: Stop::Eos,
            n_prompt_tokens: Some(20),
            n_answer_tokens: Some(1),
            logit_gap: Some(2.5),
        })),
        thought: None,
        scores: Vec::new(),
        prior_corrected: None,
        fewer_shots: Vec::new(),
        verdicts: vec![JudgeVerdict { judge: "rules".into(), result: Ok(Judgement::Correct), reply: None }],
        outcome: Outcome::Correct,
    }
}
