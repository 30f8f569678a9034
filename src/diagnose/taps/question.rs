//! The question about the images of a dataset, as a model reads it, and the tokens of its labels.

use anyhow::Result;

use crate::domain::Conversation;
use crate::model::families::{Model, RenderedPrompt};
use crate::model::run::scoring::LabelTrie;

/// A rendered prompt with the tokens that tell its labels.
pub struct Question {
    /// The prompt.
    pub prompt: RenderedPrompt,
    /// By label, its first token after the prompt.
    pub first: Vec<u32>,
    /// The tokens that all labels share at their beginning; often none.
    pub shared: Vec<u32>,
    /// By label, the token after `shared`.
    pub decision: Vec<u32>,
    /// The labels with the terminator, after the wording.
    pub trie: LabelTrie,
}

impl Question {
    /// Renders `conversation` for `model`. The labels are scored after the text `wording`.
    ///
    /// # Errors
    /// The conversation does not fit the template, or a label cannot be separated from the prompt.
    pub fn new(model: &Model, conversation: &Conversation, labels: &[String], wording: &str) -> Result<Self> {
        let prompt = model.dialogue.render_conversation(conversation)?;
        let ids = labels.iter().map(|label| model.dialogue.answer_ids(&prompt, label)).collect::<Result<Vec<_>>>()?;
        let worded: Vec<String> = labels.iter().map(|label| format!("{wording}{label}")).collect();
        let worded: Vec<&str> = worded.iter().map(String::as_str).collect();
        let n_shared = n_shared(&ids);
        Ok(Self {
            trie: model.dialogue.label_trie(&prompt, &worded)?,
            first: ids.iter().filter_map(|ids| ids.first().copied()).collect(),
            shared: ids.first().map(|ids| ids[..n_shared].to_vec()).unwrap_or_default(),
            decision: ids.iter().filter_map(|ids| ids.get(n_shared).copied()).collect(),
            prompt,
        })
    }

    /// The two places at which a label is read: its first token, and the token that tells it from the other labels.
    pub(super) fn points(&self) -> [Point<'_>; 2] {
        [Point { suffix: &[], tokens: &self.first }, Point { suffix: &self.shared, tokens: &self.decision }]
    }

    /// Whether `token` as the first of an answer tells the labels apart: some labels begin with it and others do not.
    pub fn tells_labels_apart(&self, token: u32) -> bool {
        let n_begun = self.first.iter().filter(|&&first| first == token).count();
        n_begun > 0 && n_begun < self.first.len()
    }
}

/// Where a label is read: after the prompt and a few tokens.
#[derive(Clone, Copy)]
pub(super) struct Point<'a> {
    /// The tokens after the prompt.
    pub suffix: &'a [u32],
    /// By label, the token that is read.
    pub tokens: &'a [u32],
}

/// The number of tokens that all sequences share at their beginning. Each keeps at least one of its own.
fn n_shared(sequences: &[Vec<u32>]) -> usize {
    let Some(first) = sequences.first() else { return 0 };
    let shortest = sequences.iter().map(Vec::len).min().unwrap_or(0);
    let is_shared = |&at: &usize| sequences.iter().all(|ids| ids[at] == first[at]);
    (0..shortest.saturating_sub(1)).take_while(is_shared).count()
}

#[cfg(test)]
mod tests;
