//! Training examples: the choice of samples, their order, and their tokens.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};

use super::seeded;
use crate::dataset::{Dataset, TextSample};
use crate::domain::select;
use crate::model::families::{Dialogue, RenderedPrompt};

/// The answer that a model is trained to give; `{label}` and `{noun}` are replaced by the sample's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerTemplate(String);

impl AnswerTemplate {
    /// The paper's template.
    pub const DEFAULT: &str = "The {noun} is a(n) {label}.";

    /// Checks that the template contains the label.
    pub fn new(text: &str) -> Result<Self> {
        let rest = text.replace("{label}", "").replace("{noun}", "");
        ensure!(
            text.contains("{label}") && !rest.contains(['{', '}']),
            "the answer template `{text}` is not understood; hint: use {{label}}, optionally {{noun}}, and no other braces"
        );
        Ok(Self(text.trim().to_owned()))
    }

    /// Returns the text with its placeholders.
    pub fn text(&self) -> &str {
        &self.0
    }

    fn fill(&self, label: &str, noun: &str) -> String {
        self.0.replace("{noun}", noun).replace("{label}", label)
    }
}

/// What is trained on: a dataset of images, or texts.
pub struct TrainingSet {
    /// Its name.
    pub name: String,
    /// Its examples.
    pub material: Material,
    /// Its examples in each batch, if it is an earlier task; `None` if it is what is learnt.
    pub n_replayed: Option<usize>,
}

/// Examples.
pub enum Material {
    /// A question about each of some images.
    Images(Box<Classified>),
    /// Conversations without images.
    Texts(Vec<TextExample>),
}

/// A dataset whose labels are the answers.
pub struct Classified {
    /// Its samples.
    pub dataset: Dataset,
    /// The positions in the dataset of the samples that train.
    pub selected: Vec<usize>,
    /// The rendered question.
    pub prompt: Arc<RenderedPrompt>,
    /// For each label, the tokens of the answer with the terminator.
    pub answers: Vec<Vec<u32>>,
}

/// One conversation without images.
pub struct TextExample {
    /// Names it within its set.
    pub id: String,
    /// The conversation up to the last question.
    pub prompt: Arc<RenderedPrompt>,
    /// The tokens of the answer with the terminator.
    pub answer: Vec<u32>,
}

impl TrainingSet {
    /// Tokenises the answers of all labels of a dataset.
    pub fn of_images(
        dataset: Dataset,
        selected: Vec<usize>,
        question: &str,
        answer: &AnswerTemplate,
        dialogue: &Dialogue,
    ) -> Result<Self> {
        let prompt = Arc::new(dialogue.render(question)?);
        let texts = dataset.labels.names().map(|label| answer.fill(label, &dataset.noun));
        let answers = texts.map(|text| dialogue.answer_ids(&prompt, &text)).collect::<Result<_>>()?;
        let name = dataset.name.clone();
        let material = Material::Images(Box::new(Classified { dataset, selected, prompt, answers }));
        Ok(Self { name, material, n_replayed: None })
    }

    /// Tokenises conversations.
    pub fn of_texts(name: String, samples: &[TextSample], dialogue: &Dialogue) -> Result<Self> {
        let example = |sample: &TextSample| {
            let prompt = Arc::new(dialogue.render_conversation(&sample.conversation)?);
            let answer = dialogue.answer_ids(&prompt, sample.answer.trim())?;
            Ok(TextExample { id: format!("{name}/{:05}", sample.line), prompt, answer })
        };
        let texts = samples.iter().map(example).collect::<Result<_>>()?;
        Ok(Self { name, material: Material::Texts(texts), n_replayed: None })
    }

    /// The dataset, if it is one of images.
    pub fn images(&self) -> Option<&Classified> {
        match &self.material {
            Material::Images(images) => Some(images),
            Material::Texts(_) => None,
        }
    }

    /// The number of examples.
    pub fn n_samples(&self) -> usize {
        match &self.material {
            Material::Images(images) => images.selected.len(),
            Material::Texts(texts) => texts.len(),
        }
    }

    /// The name of example `index`.
    pub fn id(&self, index: usize) -> &str {
        match &self.material {
            Material::Images(images) => &images.dataset.samples[images.selected[index]].id,
            Material::Texts(texts) => &texts[index].id,
        }
    }

    /// The question and the answer's tokens of example `index`.
    pub fn prompt_and_answer(&self, index: usize) -> (&Arc<RenderedPrompt>, &[u32]) {
        match &self.material {
            Material::Images(images) => {
                let label = images.dataset.samples[images.selected[index]].label;
                (&images.prompt, &images.answers[label])
            }
            Material::Texts(texts) => (&texts[index].prompt, &texts[index].answer),
        }
    }

    /// Returns the number of positions of the longest example.
    pub fn n_positions_max(&self) -> usize {
        match &self.material {
            Material::Images(images) => {
                images.prompt.ids.len() + images.answers.iter().map(Vec::len).max().unwrap_or(0)
            }
            Material::Texts(texts) => {
                texts.iter().map(|one| one.prompt.ids.len() + one.answer.len()).max().unwrap_or(0)
            }
        }
    }
}

/// Returns how many samples an epoch takes from datasets with `n_samples`, mixed in the ratios `mix`: as many as the
/// scarcest dataset allows. Without ratios it takes all.
pub fn mixed(n_samples: &[usize], mix: Option<&[f64]>) -> Result<Vec<usize>> {
    let Some(mix) = mix else { return Ok(n_samples.to_vec()) };
    if mix.len() != n_samples.len() {
        bail!("--mix has {} ratios for {} datasets; hint: one for each dataset of --train", mix.len(), n_samples.len());
    }
    ensure!(mix.iter().all(|&ratio| ratio > 0.0 && ratio.is_finite()), "--mix takes positive ratios, as in 0.8,0.2");
    let whole = n_samples.iter().zip(mix).map(|(&n, ratio)| n as f64 / ratio).fold(f64::INFINITY, f64::min);
    let counts: Vec<usize> = mix.iter().map(|ratio| (ratio * whole + 1e-9) as usize).collect();
    ensure!(
        counts.iter().all(|&n| n > 0),
        "--mix leaves a dataset without a sample; hint: choose ratios closer to each other"
    );
    Ok(counts)
}

/// Returns the positions of `dataset` that train: a balanced choice of `n_samples`, or all.
pub fn chosen(dataset: &Dataset, sample_seed: u64, limit: Option<usize>) -> Vec<usize> {
    let names: Vec<&str> = dataset.labels.names().collect();
    select(&dataset.samples, &names, sample_seed, limit)
}

/// One sample of an epoch: its training set, and its index among the selected samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Item {
    /// The index of the training set.
    pub set: usize,
    /// The index among its selected samples.
    pub index: usize,
}

/// Returns all samples to learn in epoch `epoch` in training order, a function of seed and epoch.
pub fn epoch_order(sets: &[TrainingSet], seed: u64, epoch: usize) -> Vec<Item> {
    let learnt = sets.iter().enumerate().filter(|(_, training)| training.n_replayed.is_none());
    in_order(learnt, seed, b"order", epoch)
}

/// Returns the samples of earlier tasks in the batch of step `step`, counted from 0 over the whole training. Each task's
/// samples come in turn, in another order each time all have come.
pub fn replayed(sets: &[TrainingSet], seed: u64, step: usize) -> Vec<Item> {
    let mut items = Vec::new();
    for (set, training) in sets.iter().enumerate() {
        let (Some(n), n_samples) = (training.n_replayed, training.n_samples()) else { continue };
        let mut order = (usize::MAX, Vec::new());
        for place in step * n..(step + 1) * n {
            let turn = place / n_samples;
            if order.0 != turn {
                order = (turn, in_order(std::iter::once((set, training)), seed, b"replay", turn));
            }
            items.push(order.1[place % n_samples]);
        }
    }
    items
}

fn in_order<'a>(
    sets: impl Iterator<Item = (usize, &'a TrainingSet)>,
    seed: u64,
    what: &[u8],
    turn: usize,
) -> Vec<Item> {
    let mut keyed: Vec<(u64, Item)> = Vec::new();
    for (set, training) in sets {
        for index in 0..training.n_samples() {
            let id = training.id(index).as_bytes();
            keyed.push((seeded(seed, &[what, &(turn as u64).to_le_bytes(), id]), Item { set, index }));
        }
    }
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests;
