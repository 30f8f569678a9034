//! Turns summaries and comparisons into documents.
//!
//! Every function returns its document and touches no files. An undefined value is `–` in text, `null` in JSON and an
//! empty cell in CSV, never 0 or NaN.

mod calibration;
mod comparison;
mod csv;
mod decision;
mod diagnosis;
mod error_gallery;
mod examples;
mod html;
mod json;
mod kinds;
mod lead;
mod markdown;
mod notes;
mod recovery;
mod side_by_side;
mod sweep;
mod table;
mod tables;
#[cfg(test)]
mod tests;

use crate::chart::Drawn;
use crate::compare::Summary;
use crate::domain::{RunSpec, Trial};

pub use self::calibration::{calibration_json, calibration_table, sheet_table};
pub use self::comparison::{
    Absence, CHANGED_COLUMNS, CandidateReport, ComparisonReport, GalleryImage, Picture, STAGES_SCHEMA, Stage,
    StageReport, Thumbnail, comparison_columns, comparison_csv, comparison_html, comparison_json, comparison_markdown,
    comparison_table, gained_csv, gallery_choice, lost_csv, stages_html, stages_json, stages_markdown,
};
pub use self::csv::{columns, csv};
pub use self::decision::{
    DatasetBrief, DecisionBrief, annotations, decision_brief, decision_json, decision_markdown, decision_table, junit,
};
pub use self::diagnosis::{
    DiagnosedImage, diagnosed_choice, diagnosed_images, diagnosis_html, diagnosis_json, diagnosis_markdown,
    diagnosis_text,
};
pub use self::error_gallery::{ErrorImage, error_choice};
pub use self::html::html;
pub use self::json::json;
pub use self::markdown::markdown;
pub use self::notes::server_flips_note;
pub use self::recovery::{recovery_html, recovery_json, recovery_markdown, recovery_text};
pub use self::side_by_side::side_by_side;
pub use self::sweep::{SweepCharts, sweep_html, sweep_json, sweep_markdown, sweep_table};
pub use self::table::table;

/// The content of the long reports.
#[derive(Clone, Copy, Debug)]
pub struct ReportInput<'a> {
    /// The numbers.
    pub summary: &'a Summary,
    /// The run's specification.
    pub spec: &'a RunSpec,
    /// Its trials, for examples and confusions.
    pub trials: &'a [Trial],
    /// Some of its errors with their images; empty if no images are wanted.
    pub images: &'a [ErrorImage<'a>],
    /// The rose.
    pub rose: &'a Drawn,
    /// Whether the paper's rows for the same datasets are shown.
    pub paper_rows: bool,
    /// Names and values of the environment, in display order.
    pub environment: &'a [(String, String)],
    /// The command that reproduces this run.
    pub command: &'a str,
}
