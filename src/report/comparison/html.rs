//! `report.html` of a comparison: one self-contained file.

use std::fmt::Write as _;

use super::super::decision::{DecisionBrief, verdict_class, verdict_name};
use super::super::diagnosis::brief;
use super::super::html::page::{
    Figures, Holds, page_that_holds, section, write_folded_table, write_notes, write_table,
};
use super::sections::{self, Fold};
use super::{CandidateReport, ComparisonReport, gallery, notes, stages, tables, verdict};
use crate::chart::{Drawn, LineChart, escape, words};
use crate::compare::{CandidateComparison, DatasetComparison};
use crate::diagnose::Diagnosis;

/// The most datasets over all candidates whose details are not folded.
const N_UNFOLDED_MAX: usize = 4;

/// Returns the comparison as one HTML file that loads nothing; images are data URLs.
pub fn comparison_html(report: &ComparisonReport<'_>) -> String {
    let title = escape(&words::printable(report.title));
    let mut body = format!("<header>\n<h1>{title}</h1>\n</header>\n");
    let mut figures = Figures::default();
    write_verdict(&mut body, report);
    write_notes(&mut body, &notes::notes(report));
    body.push_str("<dl class=\"about\">\n");
    for (name, value) in notes::headings(report) {
        let _ = writeln!(body, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    body.push_str("</dl>\n");
    write_contents(&mut body, report);
    write_overview(&mut body, report, &mut figures);
    if let Some(stages) = report.stages {
        stages::write_section(&mut body, stages);
    }
    for (index, (candidate, with)) in report.pairs().enumerate() {
        write_candidate(&mut body, report, index, (candidate, with), &mut figures);
    }
    section(&mut body, "making", "How this was made");
    let _ = writeln!(body, "<pre tabindex=\"0\"><code>{}</code></pre>\n</section>", escape(report.command));
    let _ = writeln!(body, "<footer>emt {}</footer>", env!("CARGO_PKG_VERSION"));
    page_that_holds(Holds::Images, &title, &body)
}

/// Writes links to the sections.
fn write_contents(body: &mut String, report: &ComparisonReport<'_>) {
    body.push_str("<nav aria-label=\"Contents\"><ul>\n<li><a href=\"#verdict\">Verdict</a></li>\n<li><a href=\"#overview\">Overview</a></li>\n");
    if report.stages.is_some() {
        body.push_str("<li><a href=\"#stages\">Stage by stage</a></li>\n");
    }
    for (index, candidate) in report.comparison.candidates.iter().enumerate() {
        let _ = write!(body, "<li><a href=\"#c{index}\">{}</a>", escape(&candidate.run));
        for (place, dataset) in candidate.datasets.iter().enumerate() {
            let _ = write!(body, " <a href=\"#c{index}-d{place}\">{}</a>", escape(&dataset.dataset));
        }
        body.push_str("</li>\n");
    }
    body.push_str("<li><a href=\"#making\">How this was made</a></li>\n</ul></nav>\n");
}

/// Writes the first section: what was decided and what changed.
fn write_verdict(body: &mut String, report: &ComparisonReport<'_>) {
    section(body, "verdict", "Verdict");
    let is_single = report.comparison.candidates.len() == 1;
    for (candidate, with) in report.pairs() {
        if !is_single {
            let _ = writeln!(body, "<h3>{}</h3>", escape(&candidate.run));
        }
        if let Some(decision) = with.decision {
            write_decision(body, decision);
        }
        if let Some(diagnosis) = with.diagnosis {
            write_diagnosis(body, diagnosis);
        }
        write_verdicts(body, candidate);
    }
    body.push_str("</section>\n");
}

/// Writes why images were lost.
fn write_diagnosis(body: &mut String, diagnosis: &Diagnosis) {
    body.push_str("<div class=\"decision\">\n<p><strong>Why images were lost</strong></p>\n<ul>\n");
    for dataset in &diagnosis.datasets {
        let (headline, lines) = brief(dataset);
        let _ = writeln!(body, "<li>{}", escape(&headline));
        if !lines.is_empty() {
            let lines: Vec<String> = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
            let _ = writeln!(body, "<ul>\n{}\n</ul>", lines.join("\n"));
        }
        body.push_str("</li>\n");
    }
    body.push_str("</ul>\n</div>\n");
}

/// Writes the gate's decision and its reasons.
fn write_decision(body: &mut String, decision: &DecisionBrief) {
    let _ = writeln!(
        body,
        "<div class=\"decision {}\">\n<p><span class=\"verdict\">{}</span> {}</p>\n<ul>",
        verdict_class(decision.verdict),
        verdict_name(decision.verdict),
        escape(&decision.headline)
    );
    for dataset in &decision.datasets {
        let _ = writeln!(
            body,
            "<li><strong>{}</strong> <span class=\"tag {}\">{}</span> over {} images: {}</li>",
            escape(&dataset.dataset),
            verdict_class(dataset.verdict),
            verdict_name(dataset.verdict),
            dataset.n_scored,
            escape(&dataset.why)
        );
    }
    for note in &decision.notes {
        let _ = writeln!(body, "<li class=\"note\">{}</li>", escape(note));
    }
    body.push_str("</ul>\n</div>\n");
}

fn write_overview(body: &mut String, report: &ComparisonReport<'_>, figures: &mut Figures) {
    section(body, "overview", "Overview");
    let mut charts = report.charts.overview();
    charts.by_ref().take(1).for_each(|figure| figures.write(body, &figure.drawn, &figure.caption));
    write_table(body, &tables::falls(report.comparison));
    charts.for_each(|figure| figures.write(body, &figure.drawn, &figure.caption));
    body.push_str("</section>\n");
}

/// Writes one line per dataset: what changed.
fn write_verdicts(body: &mut String, candidate: &CandidateComparison) {
    body.push_str("<ul class=\"verdicts\">\n");
    for dataset in &candidate.datasets {
        let change = verdict::change(dataset);
        let tuned = if dataset.is_tuned_on { " (tuned on)" } else { "" };
        let _ = writeln!(
            body,
            "<li class=\"{}\"><strong>{}{tuned}</strong> <span class=\"tag\">{}</span> {}</li>",
            verdict::class(change),
            escape(&dataset.dataset),
            verdict::mark(change),
            escape(&verdict::sentence(dataset))
        );
    }
    if candidate.datasets.is_empty() {
        body.push_str("<li class=\"undefined\">The runs share no dataset.</li>\n");
    }
    body.push_str("</ul>\n");
}

fn write_candidate(
    body: &mut String,
    report: &ComparisonReport<'_>,
    index: usize,
    (candidate, with): (&CandidateComparison, CandidateReport<'_>),
    figures: &mut Figures,
) {
    section(body, &format!("c{index}"), &format!("After {}", escape(&candidate.run)));
    if !candidate.differences.is_empty() {
        body.push_str("<h3>Not alike</h3>\n");
        write_table(body, &tables::differences(candidate));
    }
    if !candidate.settings.is_empty() {
        body.push_str("<h3>Settings of its own</h3>\n");
        write_table(body, &tables::settings(candidate));
    }
    let mut charts = report.charts.of_candidate(index);
    charts.by_ref().take(1).for_each(|(_, figure)| figures.write(body, &figure.drawn, &figure.caption));
    write_table(body, &tables::overview(candidate, with.after));
    if let Some(curve) = with.curve
        && let Some(chart) = LineChart::of_curve(curve)
    {
        figures.write(body, &Drawn::lines(&chart), "Accuracy on held-out images after each epoch of the fine-tune.");
        write_folded_table(body, &tables::curve(curve));
    }
    charts.for_each(|(_, figure)| figures.write(body, &figure.drawn, &figure.caption));
    let n_datasets: usize = report.comparison.candidates.iter().map(|one| one.datasets.len()).sum();
    let open = if n_datasets <= N_UNFOLDED_MAX { " open" } else { "" };
    for (place, dataset) in candidate.datasets.iter().enumerate() {
        let id = format!("c{index}-d{place}");
        let _ = writeln!(
            body,
            "<details class=\"dataset\" id=\"{id}\"{open}>\n<summary><h3>{}</h3> <span class=\"count\">{}</span></summary>",
            escape(&dataset.dataset),
            verdict::mark(verdict::change(dataset))
        );
        write_dataset(body, report, with, dataset, &id);
        body.push_str("</details>\n");
    }
    write_folded_table(body, &tables::meanings(candidate));
    body.push_str("</section>\n");
}

fn write_dataset(
    body: &mut String,
    report: &ComparisonReport<'_>,
    with: CandidateReport<'_>,
    dataset: &DatasetComparison,
    id: &str,
) {
    for block in sections::blocks(report, with, dataset) {
        let _ = writeln!(body, "<h4 id=\"{id}-{}\">{}</h4>", block.id, block.heading);
        if let Some(lead) = block.lead {
            let _ = writeln!(body, "<p>{}</p>", escape(&lead));
        }
        for (table, fold) in &block.tables {
            match fold {
                Fold::Open => write_table(body, table),
                Fold::Folded => write_folded_table(body, table),
            }
        }
    }
    let _ = writeln!(body, "<h4 id=\"{id}-gallery\">Lost images</h4>");
    gallery::write(body, dataset, with.gallery);
}
