//! The parts of a run's specification that follow from datasets and prompts.

use super::pipeline::CAPTION;
use super::subjects::captions;
use crate::dataset::Dataset;
use crate::domain::{DatasetSpec, Mode, Prompt, Subject, SubjectPrompt};
use crate::model::mllm::RenderedPrompt;

/// The dataset with its encoder's captions; the model's prompt is the caller's to add.
pub fn dataset_spec(dataset: &Dataset, has_encoder: bool) -> DatasetSpec {
    let text = captions(dataset).join("\n");
    let caption = SubjectPrompt {
        subject: Subject::Encoder,
        mode: Mode::ZeroShot,
        prompt: CAPTION.to_owned(),
        hash: hash(&[&text]),
        text,
        rendered: None,
        ids: None,
    };
    DatasetSpec {
        dataset: dataset.name.clone(),
        split: dataset.split.clone(),
        is_training_split: dataset.is_training_split,
        label_set: dataset.labels.hash(),
        labels: dataset.labels.labels().to_vec(),
        answer_type: dataset.labels.answer_type(),
        prompts: if has_encoder { vec![caption] } else { Vec::new() },
    }
}

/// The model's prompt, rendered and tokenised.
pub fn model_prompt(prompt: &Prompt, rendered: RenderedPrompt) -> SubjectPrompt {
    let ids = format!("{:?}", rendered.ids);
    SubjectPrompt {
        subject: Subject::Model,
        mode: Mode::Generate,
        prompt: prompt.name.clone(),
        text: prompt.text.clone(),
        hash: hash(&[&prompt.text, &rendered.text, &ids]),
        rendered: Some(rendered.text),
        ids: Some(rendered.ids),
    }
}

fn hash(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    format!("blake3:{}", hasher.finalize().to_hex())
}
