//! Whether the candidate still knows the label of a lost image and only words its answer otherwise.
//!
//! Two tests: the labels are scored after the words with which the candidate's own answers begin, and the candidate continues
//! from the first token of the base's answer.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::passes::followed;
use super::{Batch, CANDIDATE, Inside, Tap};
use crate::domain::Stop;
use crate::model::layers::Watched;
use crate::model::run::generate::Generation;
use crate::model::run::scoring;

/// How the candidate words its answer about one lost image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageWording {
    /// The label with the highest score; `None` if a score is not finite.
    pub choice: Option<String>,
    /// Whether it is the image's.
    pub is_choice_right: bool,
    /// The candidate's answer from the first token of the base's answer on. `None` if that token alone tells some labels from
    /// others: it would give the answer away.
    pub prefix_answer: Option<String>,
    /// Whether it is right.
    pub is_prefix_right: bool,
}

/// The probe: one entry per image.
#[derive(Default)]
pub(super) struct Wording {
    found: Vec<Option<ImageWording>>,
}

impl Tap for Wording {
    fn visit(&mut self, batch: &Batch<'_>) -> Result<()> {
        let lost: Vec<usize> = (0..batch.images.len()).filter(|&at| batch.images[at].is_lost).collect();
        let mut of_batch = vec![None; batch.images.len()];
        if !lost.is_empty() {
            let choices = choices(batch, &lost)?;
            let continued = continued(batch, &lost)?;
            for ((&at, choice), prefix_answer) in lost.iter().zip(choices).zip(continued) {
                let label = batch.images[at].label;
                let is_prefix_right =
                    prefix_answer.as_ref().is_some_and(|answer| (batch.dataset.is_right)(label, answer));
                of_batch[at] = Some(ImageWording {
                    is_choice_right: choice == Some(label),
                    choice: choice.map(|choice| batch.dataset.labels[choice].clone()),
                    prefix_answer,
                    is_prefix_right,
                });
            }
        }
        self.found.extend(of_batch);
        Ok(())
    }

    fn conclude(self: Box<Self>, inside: &mut Inside) {
        inside.wording = self.found;
    }
}

/// By lost image, the candidate's choice among the labels.
fn choices(batch: &Batch<'_>, lost: &[usize]) -> Result<Vec<Option<usize>>> {
    let (model, question, prompts) = batch.of(CANDIDATE);
    let rows: Vec<_> = lost.iter().map(|&at| prompts[at].clone()).collect();
    let mut prefix = model.mllm.read(None, &rows, question.trie.n_nodes(), Watched::by_none())?;
    let scores = scoring::score(model.mllm.decoder(), &mut prefix, &question.trie)?;
    Ok(scores.into_iter().map(|row| Some(scoring::ranking(&row.ok()?)[0])).collect())
}

/// By lost image, the candidate's answer that begins with the first token of the base's.
fn continued(batch: &Batch<'_>, lost: &[usize]) -> Result<Vec<Option<String>>> {
    let (model, question, prompts) = batch.of(CANDIDATE);
    let rows: Vec<_> = lost.iter().map(|&at| prompts[at].clone()).collect();
    let first: Vec<u32> = lost.iter().filter_map(|&at| batch.answers[at].first().copied()).collect();
    let decoding = model.dialogue.decoding(batch.dataset.max_new_tokens);
    let forced: Vec<&[u32]> = first.iter().map(std::slice::from_ref).collect();
    let n_new = decoding.max_new_tokens;
    let prefix = model.mllm.read(None, &followed(model, &rows, &forced)?, n_new, Watched::by_none())?;
    let generated = model.generate(prefix, &decoding)?;
    let text = |(token, generated): (u32, Result<Generation, _>)| -> Result<Option<String>> {
        let is_end = decoding.eos_ids.contains(&token);
        let Some(generation) = generated.ok().filter(|_| !is_end && !question.tells_labels_apart(token)) else {
            return Ok(None);
        };
        let ids = std::iter::once(token).chain(generation.ids.iter().copied()).collect();
        let whole = Generation { ids, stop: Stop::Eos, ..generation };
        Ok(Some(model.dialogue.answer(&whole, &decoding)?.text))
    };
    first.into_iter().zip(generated).map(text).collect()
}

/// The text with which most of the `answers` begin before they name a label; empty if they begin with the label or name none.
pub fn own_wording(answers: &[&str], labels: &[&str]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for answer in answers {
        if let Some(start) = labels.iter().filter_map(|label| mention(answer, label)).min() {
            *counts.entry(&answer[..start]).or_default() += 1;
        }
    }
    let most = counts.iter().max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)));
    most.map(|(text, _)| (*text).to_owned()).unwrap_or_default()
}

/// Where `answer` first names `label` as whole words, in any case.
fn mention(answer: &str, label: &str) -> Option<usize> {
    let (answer, label) = (answer.to_ascii_lowercase(), label.to_ascii_lowercase());
    let is_word = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    let is_whole = |&start: &usize| {
        !is_word(answer[..start].chars().next_back()) && !is_word(answer[start + label.len()..].chars().next())
    };
    if label.is_empty() {
        return None;
    }
    answer.match_indices(&label).map(|(start, _)| start).find(is_whole)
}

#[cfg(test)]
mod tests;
