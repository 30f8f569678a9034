//! `report.md`.
/// The report as Markdown.
pub fn markdown(input: &super::ReportInput<'_>) -> String {
    let _ = input;
    String::new()
}
