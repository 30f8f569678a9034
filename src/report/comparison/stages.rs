//! Successive fine-tunes: the matrix of accuracies and the averages over it.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::super::html::page::{page, section, write_table};
use super::super::markdown;
use super::super::tables::{Table, table};
use crate::chart::{escape, words};

/// The schema that [`super::stages_json`] writes.
pub const STAGES_SCHEMA: &str = "emt.stages/1";

/// The matrix of a base and its fine-tunes, each made from the one before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// The datasets, one per column.
    pub datasets: Vec<String>,
    /// The stages, one per row: the base first, then in training order.
    pub stages: Vec<Stage>,
    /// ACC: the mean accuracy after the last stage over the tuned-on datasets.
    pub average_accuracy: Option<f64>,
    /// AIA: the mean over stages of the mean accuracy on the datasets tuned on so far.
    pub average_incremental_accuracy: Option<f64>,
    /// BWT: the mean over datasets tuned on before the last stage of final accuracy minus accuracy just after tuning.
    pub backward_transfer: Option<f64>,
    /// FWT: the mean over datasets tuned on after the first stage of accuracy just before tuning minus the base's
    /// accuracy.
    pub forward_transfer: Option<f64>,
}

/// One row of the matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The run's name.
    pub run: String,
    /// The dataset that this stage was tuned on; absent for the base.
    pub tuned_on: Option<String>,
    /// Accuracies in the order of [`StageReport::datasets`]; absent if the run has none.
    pub accuracies: Vec<Option<f64>>,
}

/// Returns the stages as a separate HTML page.
pub fn stages_html(stages: &StageReport, title: &str, command: &str) -> String {
    let title = escape(title);
    let mut body = format!("<header>\n<h1>{title}</h1>\n</header>\n");
    write_section(&mut body, stages);
    section(&mut body, "making", "How this was made");
    let _ = writeln!(body, "<pre tabindex=\"0\"><code>{}</code></pre>\n</section>", escape(command));
    let _ = writeln!(body, "<footer>emt {}</footer>", env!("CARGO_PKG_VERSION"));
    page(&title, &body)
}

/// Returns the stages as Markdown.
pub fn stages_markdown(stages: &StageReport) -> String {
    let mut text = String::from("## Stage by stage\n\n");
    markdown::write_table(&mut text, &matrix(stages));
    markdown::write_table(&mut text, &measures(stages));
    text
}

/// Writes the stages as a section of a page.
pub fn write_section(body: &mut String, stages: &StageReport) {
    section(body, "stages", "Stage by stage");
    body.push_str("<p>Each stage was made from the one above it. A dot marks what a stage was tuned on.</p>\n");
    write_table(body, &matrix(stages));
    write_table(body, &measures(stages));
    body.push_str("</section>\n");
}

/// One row per stage, one column per dataset.
fn matrix(stages: &StageReport) -> Table {
    let mut columns = vec!["Stage", "Tuned on"];
    columns.extend(stages.datasets.iter().map(String::as_str));
    let row = |stage: &Stage| {
        let mut cells = vec![stage.run.clone(), stage.tuned_on.clone().unwrap_or_else(|| "nothing (base)".to_owned())];
        cells.extend(stages.datasets.iter().enumerate().map(|(index, dataset)| {
            let dot = if stage.tuned_on.as_ref() == Some(dataset) { "• " } else { "" };
            format!("{dot}{}", words::percent(stage.accuracies.get(index).copied().flatten()))
        }));
        cells
    };
    let rows = stages.stages.iter().map(row).collect();
    table("Accuracy after each stage (rows) on each dataset (columns)", &columns, 2..columns.len(), rows)
}

/// The four measures, each with its formula in words.
fn measures(stages: &StageReport) -> Table {
    let row = |name: &str, value: String, says: &str| vec![name.to_owned(), value, says.to_owned()];
    let rows = vec![
        row(
            "ACC, average accuracy",
            words::percent(stages.average_accuracy),
            "after the last stage, the mean over the datasets that were tuned on",
        ),
        row(
            "AIA, average incremental accuracy",
            words::percent(stages.average_incremental_accuracy),
            "after each stage the mean over the datasets tuned on so far, averaged over all stages",
        ),
        row(
            "BWT, backward transfer, points",
            words::points(stages.backward_transfer, None),
            "accuracy at the end minus accuracy when just tuned on, the mean over all but the last dataset; negative \
             is forgetting",
        ),
        row(
            "FWT, forward transfer, points",
            words::points(stages.forward_transfer, None),
            "accuracy just before a dataset is tuned on minus the base's, the mean over all but the first; positive is \
             help from earlier stages",
        ),
    ];
    table("Measures over all stages (Lopez-Paz and Ranzato 2017)", &["Measure", "Value", "What it says"], 1..2, rows)
}

#[cfg(test)]
mod tests;
