//! A baseline and its candidates as documents: what was forgotten, per dataset, class and image.

mod changed;
mod csv;
mod gallery;
mod html;
mod json;
mod markdown;
mod notes;
mod sections;
mod stages;
mod tables;
mod terminal;
#[cfg(test)]
mod tests;
mod verdict;

pub use self::changed::{CHANGED_COLUMNS, gained_csv, lost_csv};
pub use self::csv::{comparison_columns, comparison_csv};
pub use self::gallery::{Absence, GalleryImage, Picture, Thumbnail, gallery_choice};
pub(super) use self::gallery::{verbatim, write_picture};
pub use self::html::comparison_html;
pub use self::json::{comparison_json, stages_json};
pub use self::markdown::comparison_markdown;
pub use self::stages::{STAGES_SCHEMA, Stage, StageReport, stages_html, stages_markdown};
pub use self::terminal::comparison_table;
use super::decision::DecisionBrief;
use crate::chart::ComparisonCharts;
use crate::compare::{CandidateComparison, Comparison, DatasetSummary, Summary};
use crate::finetune::Curve;

/// What the reports of a comparison show.
#[derive(Clone, Copy, Debug)]
pub struct ComparisonReport<'a> {
    /// The heading.
    pub title: &'a str,
    /// The numbers.
    pub comparison: &'a Comparison,
    /// The baseline's summary.
    pub before: &'a Summary,
    /// What goes with each candidate, in the comparison's order.
    pub candidates: &'a [CandidateReport<'a>],
    /// The charts, as [`ComparisonCharts::draw`] drew them.
    pub charts: &'a ComparisonCharts,
    /// Fine-tunes one after the other, where the candidates are such.
    pub stages: Option<&'a StageReport>,
    /// More that a reader must not miss, a sentence each.
    pub warnings: &'a [String],
    /// The command that makes this report again.
    pub command: &'a str,
}

/// What goes with one candidate.
#[derive(Clone, Copy, Debug)]
pub struct CandidateReport<'a> {
    /// Its summary.
    pub after: &'a Summary,
    /// Lost images, those of one dataset behind each other; there may be fewer than were lost.
    pub gallery: &'a [GalleryImage<'a>],
    /// Accuracy over the epochs of its fine-tune.
    pub curve: Option<&'a Curve>,
    /// What the gate decided, and why.
    pub decision: Option<&'a DecisionBrief>,
}

impl<'a> ComparisonReport<'a> {
    /// Each candidate's numbers with what goes with them.
    fn pairs(&self) -> impl Iterator<Item = (&'a CandidateComparison, CandidateReport<'a>)> {
        self.comparison.candidates.iter().zip(self.candidates.iter().copied())
    }
}

/// A dataset of a summary.
fn summary_of<'a>(summary: &'a Summary, dataset: &str) -> Option<&'a DatasetSummary> {
    summary.datasets.iter().find(|one| one.dataset == dataset)
}
