//! `report.html`: one file that loads nothing, for light and dark, wide and narrow screens, and for screen readers.

pub(super) mod page;

use std::fmt::Write as _;

use self::page::{Figures, Holds, page_that_holds, section, write_folded_table, write_notes, write_table};

use super::error_gallery::ErrorImage;
use super::examples::{self, said};
use super::{ReportInput, error_gallery, kinds, lead, notes, tables};
use crate::chart::{escape, words};
use crate::domain::{DatasetSpec, Outcome};

/// Returns the report as one HTML file that loads nothing.
pub fn html(input: &ReportInput<'_>) -> String {
    let summary = input.summary;
    let title = escape(&notes::title(summary));
    let mut body = String::new();
    write_header(&mut body, input, &title);
    write_notes(&mut body, &notes::notes(summary));
    write_headings(&mut body, input);
    section(&mut body, "accuracy", "Accuracy");
    Figures::default().write(&mut body, input.rose, "The same numbers are in the table below.");
    write_table(&mut body, &tables::accuracies(summary));
    if let Some(shots) = tables::shots(summary) {
        write_folded_table(&mut body, &shots);
    }
    body.push_str("</section>\n");
    section(&mut body, "errors", "Errors");
    kinds::write_bars(&mut body, summary);
    write_table(&mut body, &tables::errors(summary));
    write_folded_table(&mut body, &tables::meanings(summary));
    body.push_str("</section>\n");
    if let Some(pairs) = tables::pairs(summary) {
        let heading = format!("Model against {}", words::encoder_noun(&summary.encoder));
        section(&mut body, "pairs", &heading);
        write_table(&mut body, &pairs);
        body.push_str("</section>\n");
    }
    if let Some(paper) = input.paper_rows.then(|| tables::beside_the_paper(summary)).flatten() {
        section(&mut body, "paper", "Beside the paper");
        write_table(&mut body, &paper);
        body.push_str("</section>\n");
    }
    write_examples(&mut body, input);
    write_making(&mut body, input);
    let _ = writeln!(body, "<footer>emt {}</footer>", env!("CARGO_PKG_VERSION"));
    page_that_holds(if input.images.is_empty() { Holds::Charts } else { Holds::Images }, &title, &body)
}

fn write_header(body: &mut String, input: &ReportInput<'_>, title: &str) {
    let _ = writeln!(body, "<header>\n<h1>{title}</h1>\n<ul class=\"verdicts\">");
    for lead in lead::leads(input.summary) {
        let _ = writeln!(body, "<li><strong>{}</strong> {}</li>", escape(&lead.dataset), escape(&lead.text));
    }
    body.push_str("</ul>\n</header>\n");
}

fn write_headings(body: &mut String, input: &ReportInput<'_>) {
    body.push_str("<dl class=\"about\">\n");
    for (name, value) in notes::headings(input.summary) {
        let _ = writeln!(body, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    body.push_str("</dl>\n");
}

fn write_examples(body: &mut String, input: &ReportInput<'_>) {
    section(body, "examples", "Examples of errors");
    body.push_str("<p>Answers are verbatim. Open a dataset to read them.</p>\n");
    for dataset in &input.spec.datasets {
        write_dataset_examples(body, input, dataset);
    }
    body.push_str("</section>\n");
}

fn write_dataset_examples(body: &mut String, input: &ReportInput<'_>, dataset: &DatasetSpec) {
    let trials = input.trials;
    let by_code = examples::by_code(trials, &dataset.dataset);
    let n_errors: usize = by_code.iter().map(|examples| examples.n_trials).sum();
    let _ = writeln!(
        body,
        "<details>\n<summary>{} <span class=\"count\">{n_errors} {}</span></summary>",
        escape(&dataset.dataset),
        if n_errors == 1 { "error" } else { "errors" }
    );
    let images: Vec<&ErrorImage<'_>> =
        input.images.iter().filter(|image| image.trial.dataset == dataset.dataset).collect();
    if by_code.is_empty() && !images.is_empty() {
        // With label scoring only, every error has the same code.
        error_gallery::write(body, &images);
    }
    for examples in by_code {
        let _ = writeln!(
            body,
            "<h3>{} <span class=\"count\">{}, {} in all</span></h3>",
            notes::spaced(examples.code.name()),
            notes::kind_name(examples.code.kind()),
            examples.n_trials
        );
        let is_of_code = |image: &&&ErrorImage<'_>| image.trial.outcome == Outcome::Incorrect(examples.code);
        let of_code: Vec<&ErrorImage<'_>> = images.iter().filter(is_of_code).copied().collect();
        if !of_code.is_empty() {
            error_gallery::write(body, &of_code);
            continue;
        }
        body.push_str("<ul class=\"examples\">\n");
        for trial in examples.trials {
            let answer = match said(trial) {
                None => words::MISSING.to_owned(),
                Some("") => "<em>empty</em>".to_owned(),
                Some(answer) => format!("<q>{}</q>", escape(answer)),
            };
            let _ = writeln!(
                body,
                "<li><span class=\"label\">{}</span> <span class=\"answer\">{answer}</span> <code>{}</code></li>",
                escape(&trial.label),
                escape(&trial.sample)
            );
        }
        body.push_str("</ul>\n");
    }
    let confusions = examples::confusions(trials, dataset);
    if !confusions.is_empty() {
        write_table(body, &tables::confusions(&confusions));
    }
    body.push_str("</details>\n");
}

fn write_making(body: &mut String, input: &ReportInput<'_>) {
    section(body, "making", "How this was made");
    let _ = writeln!(body, "<pre tabindex=\"0\"><code>{}</code></pre>", escape(input.command));
    write_folded_table(body, &tables::prompts(input.spec));
    write_folded_table(body, &tables::conditions(input.spec, input.environment));
    body.push_str("</section>\n");
}
