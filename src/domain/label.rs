//! Labels as the model sees them.

use serde::{Deserialize, Serialize};

/// The type of a dataset's labels. A digit and an object in one answer contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerType {
    /// A number, as in MNIST.
    Number,
    /// A named thing.
    Object,
}

/// One class of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The name in prompts, with spaces instead of underscores.
    pub name: String,
    /// Other names with the same meaning, from the catalog or a label sheet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The WordNet id (`n02504458`), if the class has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wordnet_id: Option<String>,
}

impl Label {
    /// A label without aliases.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), aliases: Vec::new(), wordnet_id: None }
    }
}

/// Why a list of labels is not a label set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LabelSetError {
    /// With fewer than two labels there is nothing to classify.
    #[error("a label set needs at least two classes, and this one has {0}")]
    TooFew(usize),
    /// An empty name can match no answer.
    #[error("label number {0} is empty")]
    Empty(usize),
}

/// The classes of a dataset in prompt order, at least two. Names may repeat, as `crane` does in ImageNet's list: an
/// answer counts for all classes with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedLabelSet")]
pub struct LabelSet {
    labels: Vec<Label>,
    answer_type: AnswerType,
}

/// A label set as read from a file.
#[derive(Deserialize)]
struct UncheckedLabelSet {
    labels: Vec<Label>,
    answer_type: AnswerType,
}

impl TryFrom<UncheckedLabelSet> for LabelSet {
    type Error = LabelSetError;

    fn try_from(unchecked: UncheckedLabelSet) -> Result<Self, LabelSetError> {
        Self::new(unchecked.labels, unchecked.answer_type)
    }
}

impl LabelSet {
    /// Checks `labels` and keeps their order.
    pub fn new(labels: Vec<Label>, answer_type: AnswerType) -> Result<Self, LabelSetError> {
        if labels.len() < 2 {
            return Err(LabelSetError::TooFew(labels.len()));
        }
        if let Some(index) = labels.iter().position(|label| label.name.trim().is_empty()) {
            return Err(LabelSetError::Empty(index));
        }
        Ok(Self { labels, answer_type })
    }

    /// The classes in prompt order.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// The names in prompt order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.labels.iter().map(|label| label.name.as_str())
    }

    /// The number of classes, at least 2.
    #[expect(clippy::len_without_is_empty, reason = "a label set is never empty")]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns the index of `name` in the set.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.labels.iter().position(|label| label.name == name)
    }

    /// Whether answers are numbers or objects.
    pub fn answer_type(&self) -> AnswerType {
        self.answer_type
    }

    /// Returns a hash of names, aliases and answer type, which judging and prompting depend on.
    pub fn hash(&self) -> String {
        let bytes = serde_json::to_vec(self).expect("a label set is plain data");
        format!("blake3:{}", blake3::hash(&bytes).to_hex())
    }
}

#[cfg(test)]
mod tests;
