//! `summary.csv`.
use crate::compare::Summary;
/// The columns.
pub const COLUMNS: &[&str] = &[];
/// One row a dataset and subject.
pub fn csv(summary: &Summary) -> String {
    let _ = summary;
    String::new()
}
