//! `report.md` of a comparison, for a pull request; details are folded.

use std::fmt::Write as _;

use super::super::decision::{DecisionBrief, verdict_name};
use super::super::diagnosis::brief;
use super::super::markdown::{escape, escape_in_html, fence, write_table};
use super::super::notes::Weight;
use super::{CandidateReport, ComparisonReport, notes, sections, stages, tables, verdict};
use crate::chart::words;
use crate::compare::CandidateComparison;

/// Returns the comparison as Markdown: what changed, one table per candidate, and folded details.
pub fn comparison_markdown(report: &ComparisonReport<'_>) -> String {
    let mut text = format!("# {}\n\n", escape(report.title));
    let is_single = report.comparison.candidates.len() == 1;
    for (candidate, with) in report.pairs() {
        if !is_single {
            let _ = writeln!(text, "**{}**\n", escape(&candidate.run));
        }
        if let Some(decision) = with.decision {
            write_decision(&mut text, decision);
        }
        for dataset in with.diagnosis.iter().flat_map(|diagnosis| &diagnosis.datasets) {
            let (headline, lines) = brief(dataset);
            let _ = writeln!(text, "Why images were lost on {}\n", escape(&headline));
            lines.iter().for_each(|line| _ = writeln!(text, "- {}", escape(line)));
            text.push('\n');
        }
        write_verdicts(&mut text, candidate);
    }
    let notes = notes::notes(report);
    for note in notes.iter().filter(|note| note.weight == Weight::Warning) {
        let _ = writeln!(text, "> **Warning.** {}\n", escape(&note.text));
    }
    for (candidate, with) in report.pairs() {
        write_candidate(&mut text, report, candidate, with);
    }
    if let Some(stages) = report.stages {
        text.push_str(&stages::stages_markdown(stages));
    }
    text.push_str("<details>\n<summary>How this was made</summary>\n\n");
    for (name, value) in notes::headings(report) {
        let _ = writeln!(text, "- **{name}:** {}", escape(&value));
    }
    text.push('\n');
    for note in notes.iter().filter(|note| note.weight == Weight::Remark) {
        let _ = writeln!(text, "- {}", escape(&note.text));
    }
    let command = words::printable(report.command);
    let fence = fence(&command, 3);
    let _ = writeln!(text, "\n{fence}\n{command}\n{fence}\n\n</details>\n");
    let _ = writeln!(text, "emt {}", env!("CARGO_PKG_VERSION"));
    text
}

/// Writes the gate's decision and its reasons.
fn write_decision(text: &mut String, decision: &DecisionBrief) {
    let _ = writeln!(text, "**{}**: {}\n", verdict_name(decision.verdict), escape(&decision.headline));
    for dataset in &decision.datasets {
        let _ = writeln!(
            text,
            "- **{}: {}** over {} images: {}",
            escape(&dataset.dataset),
            verdict_name(dataset.verdict),
            dataset.n_scored,
            escape(&dataset.why)
        );
    }
    for note in &decision.notes {
        let _ = writeln!(text, "- {}", escape(note));
    }
    text.push('\n');
}

fn write_verdicts(text: &mut String, candidate: &CandidateComparison) {
    for dataset in &candidate.datasets {
        let change = verdict::change(dataset);
        let tuned = if dataset.is_tuned_on { " (tuned on)" } else { "" };
        let _ = writeln!(
            text,
            "- **{}{tuned}: {}** {}",
            escape(&dataset.dataset),
            verdict::mark(change),
            escape(&verdict::sentence(dataset))
        );
    }
    if candidate.datasets.is_empty() {
        text.push_str("- The runs share no dataset.\n");
    }
    text.push('\n');
}

fn write_candidate(
    text: &mut String,
    report: &ComparisonReport<'_>,
    candidate: &CandidateComparison,
    with: CandidateReport<'_>,
) {
    let _ = writeln!(text, "## {} against {}\n", escape(&candidate.run), escape(&report.comparison.baseline));
    if !candidate.differences.is_empty() {
        write_table(text, &tables::differences(candidate));
    }
    if !candidate.settings.is_empty() {
        write_table(text, &tables::settings(candidate));
    }
    write_table(text, &tables::short(candidate, with.after));
    for dataset in &candidate.datasets {
        // A summary element is HTML, in which Markdown's escapes would be visible.
        let name = escape_in_html(&dataset.dataset);
        let _ = writeln!(text, "<details>\n<summary>{name}: details</summary>\n");
        for block in sections::blocks(report, with, dataset) {
            let _ = writeln!(text, "#### {}\n", block.heading);
            if let Some(lead) = block.lead {
                let _ = writeln!(text, "{}\n", escape(&lead));
            }
            for (table, _) in &block.tables {
                write_table(text, table);
            }
        }
        text.push_str("</details>\n\n");
    }
}
