//! The parts of a run's specification that follow from datasets and prompts.

use super::probe::Shots;
use super::trials::CAPTION;
use crate::dataset::Dataset;
use crate::domain::{Conversation, DatasetSpec, Mode, Prompt, Subject, SubjectPrompt};
use crate::model::families::RenderedPrompt;

/// Which captions represent a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Captions {
    /// The dataset's one template, as in the paper.
    Template,
    /// The mean over the dataset's templates, if it has several.
    Ensemble,
}

impl Captions {
    /// The templates of a dataset.
    pub fn of(self, dataset: &Dataset) -> Vec<String> {
        match self {
            Self::Ensemble if !dataset.caption_ensemble.is_empty() => dataset.caption_ensemble.clone(),
            _ => vec![dataset.caption_template.clone()],
        }
    }
}

/// The question about every image of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The model's prompt, before any chat template.
    pub prompt: Prompt,
    /// The same as a conversation.
    pub conversation: Conversation,
    /// The encoder's captions: templates with `{}` for the label.
    pub captions: Vec<String>,
}

impl Question {
    /// The question of a classification: one image, and then the text of `prompt`.
    pub fn about_one_image(prompt: Prompt, captions: Vec<String>) -> Self {
        Self { conversation: Conversation::about_one_image(&prompt.text), prompt, captions }
    }
}

/// Returns the dataset's specification with its encoder's captions or its probe. The caller adds the model's prompt.
pub fn dataset_spec(dataset: &Dataset, question: &Question, has_encoder: bool, probe: Option<&Shots>) -> DatasetSpec {
    let text = question.captions.join("\n");
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
        prompts: if has_encoder { vec![caption] } else { probe.map(Shots::prompt).into_iter().collect() },
        exif: dataset.exif.clone(),
    }
}

/// Returns the model's prompt in each of `modes`, rendered and tokenised; it is the same in all of them.
pub fn model_prompts(prompt: &Prompt, rendered: &RenderedPrompt, modes: &[Mode]) -> Vec<SubjectPrompt> {
    let ids = format!("{:?}", rendered.ids);
    let in_mode = |&mode: &Mode| SubjectPrompt {
        subject: Subject::Model,
        mode,
        prompt: prompt.name.clone(),
        text: prompt.text.clone(),
        hash: hash(&[&prompt.text, &rendered.text, &ids]),
        rendered: Some(rendered.text.clone()),
        ids: Some(rendered.ids.clone()),
    };
    modes.iter().map(in_mode).collect()
}

/// Returns the prompt of a served model in each of `modes`. The server renders it and reports neither text nor tokens.
pub fn served_prompts(prompt: &Prompt, modes: &[Mode]) -> Vec<SubjectPrompt> {
    let in_mode = |&mode: &Mode| SubjectPrompt {
        subject: Subject::Model,
        mode,
        prompt: prompt.name.clone(),
        text: prompt.text.clone(),
        hash: hash(&[&prompt.text]),
        rendered: None,
        ids: None,
    };
    modes.iter().map(in_mode).collect()
}

fn hash(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    format!("blake3:{}", hasher.finalize().to_hex())
}
