//! One dataset of a session: what is asked about its images, and what remains to be asked.

use std::sync::Arc;

use super::plan::DatasetWork;
use super::probe::Shots;
use super::spec::Question;
use crate::dataset::{Dataset, UnreadableImage};
use crate::domain::Item;

/// The index of a task in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId(usize);

impl TaskId {
    /// The task at `place`, from 0.
    pub(super) const fn new(place: usize) -> Self {
        Self(place)
    }

    /// Its place, from 0.
    pub const fn place(self) -> usize {
        self.0
    }
}

/// One dataset and what is asked of it.
#[derive(Debug)]
pub struct Task {
    /// Its samples and labels.
    pub dataset: Dataset,
    /// What is asked about every image.
    pub question: Question,
    /// What a probe on the model's tower is fitted on, if there is one.
    pub probe: Option<Arc<Shots>>,
    /// What remains to be asked.
    pub work: DatasetWork,
}

impl Task {
    /// A task without a plan.
    pub fn new(dataset: Dataset, question: Question, probe: Option<Shots>) -> Self {
        Self { dataset, question, probe: probe.map(Arc::new), work: DatasetWork::default() }
    }

    /// What is asked about the sample at `position`.
    ///
    /// # Errors
    /// Its image cannot be read.
    pub fn item(&self, position: usize) -> Result<Item<'_>, UnreadableImage> {
        Ok(Item { images: vec![self.dataset.read(position)?], conversation: &self.question.conversation })
    }
}
