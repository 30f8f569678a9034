//! A recovery as JSON, Markdown, HTML and text.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use super::decision::{decision_markdown, verdict_name};
use super::html::page::{Figures, Holds, page_that_holds, section, write_table};
use super::markdown;
use super::tables::{Table, rate, table};
use crate::chart::{Drawn, escape, words};
use crate::gate::{Decision, Verdict};
use crate::study::recover::{Accuracies, Chosen, DatasetAccuracy, MeanAccuracy, Point, Recovery};

/// `recovery.json`.
pub fn recovery_json(recovery: &Recovery) -> String {
    let mut text = serde_json::to_string_pretty(recovery).expect("a recovery holds only strings as keys");
    text.push('\n');
    text
}

/// The heading of a page.
fn title(recovery: &Recovery) -> String {
    format!("Can {} be saved?", recovery.adapter)
}

/// How the two halves were used.
fn method(recovery: &Recovery) -> String {
    let [selection, confirmation] = [recovery.selection.n_samples, recovery.confirmation.n_samples];
    match &recovery.confirmation.chosen {
        Some(_) => format!(
            "A point was chosen on {selection} images, and confirmed on {confirmation} others, which its choice did not see."
        ),
        None => format!("No point was chosen on {selection} images; {confirmation} others were not used."),
    }
}

/// By what the point was chosen, and whether its confirmed accuracies are as the frontier shows them.
fn remarks(recovery: &Recovery) -> Vec<String> {
    let mut remarks = Vec::new();
    if recovery.chosen.as_ref().is_some_and(|chosen| chosen.by == "margin") {
        remarks.push(
            "On the selection half the gate passed no point; the chosen one has the largest gain of those whose old datasets fell \
             by no more than their margin there. More images choose better."
                .to_owned(),
        );
    }
    if recovery.chosen.as_ref().and_then(|chosen| chosen.gain).is_some_and(|gain| gain <= 0.0) {
        remarks.push(format!(
            "The chosen point gains nothing on {} on the selection half: its accuracy does not show what was learned, or that was \
             lost, too.",
            recovery.new.join(", ")
        ));
    }
    let confirmation = &recovery.confirmation;
    for (what, is_within) in
        [("new", confirmation.is_new_within_interval), ("old", confirmation.is_old_within_interval)]
    {
        if is_within == Some(false) {
            remarks.push(format!(
                "The confirmed mean of the {what} datasets is outside the interval of the frontier, which belongs to the images on \
                 which the point was chosen."
            ));
        }
    }
    remarks
}

/// The recovery for a terminal.
pub fn recovery_text(recovery: &Recovery) -> String {
    let mut text = String::new();
    let name = |point: &Point| match &point.component {
        Some(component) => format!("{} {} without {component}", point.method, point.strength),
        None => format!("{} {}", point.method, point.strength),
    };
    let names: Vec<String> = recovery.points.iter().map(name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("base".len());
    let mut row = |name: &str, of: &Accuracies, end: &str| {
        let _ = writeln!(text, "{name:width$}  new {:>20}  old {:>20}{end}", mean(of.new), mean(of.old));
    };
    row("base", &recovery.baseline, "");
    for (point, name) in recovery.points.iter().zip(&names) {
        let mark = if is_chosen(recovery, point) { "  chosen" } else { "" };
        row(name, &point.accuracies, &format!("  {}{mark}", selection_verdict(point)));
    }
    let _ = writeln!(text, "\n{}", method(recovery));
    if let Some((baseline, chosen)) = recovery.confirmation.baseline.as_ref().zip(recovery.confirmation.chosen.as_ref())
    {
        for (before, after) in baseline.datasets.iter().zip(&chosen.datasets) {
            let change = words::change(&words::percent(before.accuracy), &words::percent(after.accuracy));
            let _ = writeln!(text, "  {}: {change}", words::printable(&before.dataset));
        }
    }
    remarks(recovery).iter().for_each(|remark| {
        let _ = writeln!(text, "{remark}");
    });
    let _ = writeln!(text, "{}: {}", verdict_name(recovery.decision), recovery.message);
    text
}

/// `recovery.md`; `decision` is the gate's on the confirmation half.
pub fn recovery_markdown(recovery: &Recovery, decision: Option<&Decision>) -> String {
    let mut text = format!("# {}\n\n", markdown::escape(&title(recovery)));
    let _ = writeln!(text, "**{}.** {}\n", verdict_name(recovery.decision), markdown::escape(&recovery.message));
    let _ = writeln!(text, "{}\n", markdown::escape(&method(recovery)));
    for remark in remarks(recovery) {
        let _ = writeln!(text, "{}\n", markdown::escape(&remark));
    }
    tables(recovery).iter().for_each(|table| markdown::write_table(&mut text, table));
    if let Some(decision) = decision {
        let _ = write!(text, "\n{}", decision_markdown(decision));
    }
    text
}

/// `recovery.html`: one page that needs no network.
pub fn recovery_html(recovery: &Recovery, frontier: &Drawn, decision: Option<&Decision>, command: &str) -> String {
    let title = escape(&title(recovery));
    let mut body = format!("<header>\n<h1>{title}</h1>\n</header>\n");
    section(&mut body, "answer", verdict_name(recovery.decision));
    let _ =
        writeln!(body, "<p><strong>{}</strong></p>\n<p>{}</p>", escape(&recovery.message), escape(&method(recovery)));
    remarks(recovery).iter().for_each(|remark| {
        let _ = writeln!(body, "<p>{}</p>", escape(remark));
    });
    let caption = "Accuracy on the new task against accuracy on the old ones, on the selection half, with 95% intervals. The ring \
                   is the chosen point.";
    Figures::default().write(&mut body, frontier, caption);
    body.push_str("</section>\n");
    section(&mut body, "numbers", "Numbers");
    tables(recovery).iter().for_each(|table| write_table(&mut body, table));
    body.push_str("</section>\n");
    if let Some(decision) = decision.filter(|decision| !decision.reasons.is_empty() || !decision.warnings.is_empty()) {
        section(&mut body, "reasons", "What the gate says");
        let reasons = decision.reasons.iter().map(|reason| match &reason.dataset {
            Some(dataset) => format!("{dataset}: {}", reason.message),
            None => reason.message.clone(),
        });
        let lines: Vec<String> = reasons
            .chain(decision.warnings.iter().cloned())
            .map(|line| format!("<li>{}</li>", escape(&line)))
            .collect();
        let _ = writeln!(body, "<ul>\n{}\n</ul>\n</section>", lines.join("\n"));
    }
    let _ = writeln!(body, "<pre tabindex=\"0\"><code>{}</code></pre>", escape(command));
    let _ = writeln!(body, "<footer>emt {}</footer>", env!("CARGO_PKG_VERSION"));
    page_that_holds(Holds::Charts, &title, &body)
}

fn tables(recovery: &Recovery) -> Vec<Table> {
    let mut tables = vec![frontier_table(recovery)];
    tables.extend(confirmation_table(recovery));
    tables
}

/// One row per point, with every dataset.
fn frontier_table(recovery: &Recovery) -> Table {
    let mut columns = vec!["Method", "Strength", "Base's part", "New", "Old", "Selection half"];
    let names: Vec<&str> = recovery.baseline.datasets.iter().map(|of| of.dataset.as_str()).collect();
    columns.splice(5..5, names);
    let n_columns = columns.len();
    let cells = |of: &Accuracies| {
        let datasets = of.datasets.iter().map(|of| words::percent(of.accuracy));
        [mean(of.new), mean(of.old)].into_iter().chain(datasets).collect::<Vec<String>>()
    };
    let missing = || words::MISSING.to_owned();
    let mut base = vec!["base".to_owned(), missing(), missing()];
    base.extend(cells(&recovery.baseline));
    base.push(missing());
    let mut rows = vec![base];
    for point in &recovery.points {
        let mark = if is_chosen(recovery, point) { ", chosen" } else { "" };
        let component = point.component.clone().unwrap_or_else(missing);
        let mut row = vec![point.method.clone(), point.strength.to_string(), component];
        row.extend(cells(&point.accuracies));
        row.push(format!("{}{mark}", selection_verdict(point)));
        rows.push(row);
    }
    table(
        &format!(
            "Accuracy at each strength, on the {} images of the selection half, with 95% intervals; new and old are means over \
             their datasets",
            recovery.selection.n_samples
        ),
        &columns,
        3..n_columns - 1,
        rows,
    )
}

/// The base and the chosen point on the other half.
fn confirmation_table(recovery: &Recovery) -> Option<Table> {
    let (baseline, chosen) = recovery.confirmation.baseline.as_ref().zip(recovery.confirmation.chosen.as_ref())?;
    let row = |(before, after): (&DatasetAccuracy, &DatasetAccuracy)| {
        let kind = if recovery.new.contains(&before.dataset) { "new" } else { "old" };
        let cells = [before, after].map(|of| rate((of.accuracy, of.interval)));
        let [before_cell, after_cell] = cells;
        vec![before.dataset.clone(), kind.to_owned(), before_cell, after_cell]
    };
    Some(table(
        &format!(
            "Accuracy on the {} images of the confirmation half, with 95% intervals",
            recovery.confirmation.n_samples
        ),
        &["Dataset", "Task", "Base", "Chosen point"],
        2..4,
        baseline.datasets.iter().zip(&chosen.datasets).map(row).collect(),
    ))
}

fn is_chosen(recovery: &Recovery, point: &Point) -> bool {
    recovery.chosen.as_ref().is_some_and(|chosen: &Chosen| {
        chosen.method == point.method && chosen.strength == point.strength && chosen.component == point.component
    })
}

/// What the selection half says of the old datasets.
fn selection_verdict(point: &Point) -> &'static str {
    match (point.selection_decision, point.is_within_margin) {
        (Some(Verdict::Pass), _) => "passes",
        (Some(Verdict::Fail), _) => "fails",
        (Some(_), Some(true)) => "within the margin",
        (Some(_), _) => "beyond the margin",
        (None, _) => "the base",
    }
}

fn mean(of: MeanAccuracy) -> String {
    rate((of.accuracy, of.interval))
}
