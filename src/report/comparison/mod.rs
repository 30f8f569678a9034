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
use crate::diagnose::Diagnosis;
use crate::finetune::Curve;

/// The content of a comparison's reports.
#[derive(Clone, Copy, Debug)]
pub struct ComparisonReport<'a> {
    /// The heading.
    pub title: &'a str,
    /// The numbers.
    pub comparison: &'a Comparison,
    /// The baseline's summary.
    pub before: &'a Summary,
    /// The data of each candidate, in the comparison's order.
    pub candidates: &'a [CandidateReport<'a>],
    /// The charts, from [`ComparisonCharts::draw`].
    pub charts: &'a ComparisonCharts,
    /// Successive fine-tunes, if the candidates are such.
    pub stages: Option<&'a StageReport>,
    /// Further warnings, one sentence each.
    pub warnings: &'a [String],
    /// The command that reproduces this report.
    pub command: &'a str,
}

/// The data of one candidate.
#[derive(Clone, Copy, Debug)]
pub struct CandidateReport<'a> {
    /// Its summary.
    pub after: &'a Summary,
    /// Lost images, grouped by dataset; possibly fewer than were lost.
    pub gallery: &'a [GalleryImage<'a>],
    /// Accuracy over the epochs of its fine-tuning.
    pub curve: Option<&'a Curve>,
    /// The gate's decision and its reasons.
    pub decision: Option<&'a DecisionBrief>,
    /// Why it forgot.
    pub diagnosis: Option<&'a Diagnosis>,
}

impl<'a> ComparisonReport<'a> {
    /// Returns each candidate's comparison with its data.
    fn pairs(&self) -> impl Iterator<Item = (&'a CandidateComparison, CandidateReport<'a>)> {
        self.comparison.candidates.iter().zip(self.candidates.iter().copied())
    }
}

/// Returns a dataset of a summary.
fn summary_of<'a>(summary: &'a Summary, dataset: &str) -> Option<&'a DatasetSummary> {
    summary.datasets.iter().find(|one| one.dataset == dataset)
}
