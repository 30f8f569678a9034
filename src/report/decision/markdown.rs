//! The decision as Markdown, for a pull request and a job summary.

use std::fmt::Write as _;

use super::{attempt_note, causes, fall, headline, interval_note, verdict, why};
use crate::chart::words::{self, printable};
use crate::gate::{Decision, Verdict};
use crate::report::markdown::escape;

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "✅",
        Verdict::Fail => "❌",
        Verdict::Inconclusive => "❔",
        Verdict::NotApplicable => "➖",
    }
}

/// Returns the decision as Markdown.
pub fn decision_markdown(decision: &Decision) -> String {
    let mut text =
        format!("## {} emt gate: {}\n\n", mark(decision.decision), verdict(decision.decision).to_lowercase());
    let _ = writeln!(text, "{}.\n", capitalised(headline(decision)));
    if let (Some(baseline), Some(candidate)) = (&decision.baseline, &decision.candidate) {
        let _ = writeln!(text, "Baseline **{}**, candidate **{}**.\n", escape(&baseline.run), escape(&candidate.run));
    }
    text.push_str("| Dataset | Decision | Before | After | Fall, points | Lost | Gained | Pairs | Why |\n");
    text.push_str("|---|---|---:|---:|---:|---:|---:|---:|---|\n");
    for dataset in &decision.datasets {
        let _ = writeln!(
            text,
            "| {} | {} {} | {} | {} | {} | {} | {} | {} | {} |",
            escape(&dataset.dataset),
            mark(dataset.decision),
            verdict(dataset.decision).to_lowercase(),
            words::percent(dataset.baseline_accuracy),
            words::percent(dataset.candidate_accuracy),
            fall(dataset),
            dataset.n_lost,
            dataset.n_gained,
            dataset.n_pairs,
            escape(&why(dataset))
        );
    }
    let _ = writeln!(text, "\n{} by Tango; a positive fall is a loss.\n", capitalised(&interval_note(decision)));
    for dataset in &decision.datasets {
        for cause in causes(dataset) {
            let _ = writeln!(text, "- {}: {}", escape(&dataset.dataset), escape(&cause));
        }
        if !dataset.causes.is_empty() {
            text.push('\n');
        }
    }
    for field in &decision.allowed_different {
        let _ = writeln!(text, "> **Warning.** The runs were compared although `{field}` differs.\n");
    }
    for warning in &decision.warnings {
        let _ = writeln!(text, "> **Warning.** {}\n", escape(warning));
    }
    if let Some(note) = attempt_note(decision) {
        let _ = writeln!(text, "> {}.\n", capitalised(&note));
    }
    for step in &decision.next {
        let _ = writeln!(text, "Next: {}\n", escape(&step.message));
        if let Some(command) = &step.command {
            // Indented, not fenced: a path may contain any fence.
            let _ = writeln!(text, "    {}\n", printable(command));
        }
    }
    text
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
