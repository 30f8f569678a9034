//! The table on the terminal.
/// The table.
pub fn table(summary: &crate::compare::Summary) -> String {
    let _ = summary;
    String::new()
}
