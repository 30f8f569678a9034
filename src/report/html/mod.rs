//! `report.html`: one file that loads nothing, for screens light and dark, wide and narrow, and for ears.

mod story;

use std::fmt::Write as _;

pub use self::story::{Chapter, Story, story};
use super::examples::{self, said};
use super::notes::{self, Weight};
use super::tables::{self, Table};
use super::{ReportInput, kinds};
use crate::chart::{escape, words};
use crate::domain::{DatasetSpec, Trial};

/// The styles, which stand in the page.
const STYLE: &str = include_str!("report.css");

/// The namespace of SVG, which a page does not need and which looks like an address to load.
const SVG_NAMESPACE: &str = r#" xmlns="http://www.w3.org/2000/svg""#;

/// The report as one HTML file that loads nothing.
pub fn html(input: &ReportInput<'_>) -> String {
    let summary = input.summary;
    let title = escape(&notes::title(summary));
    let mut body = String::new();
    write_header(&mut body, input, &title);
    let _ = writeln!(
        body,
        "<section aria-labelledby=\"accuracy\">\n<h2 id=\"accuracy\">Accuracy</h2>\n<figure class=\"chart\">{}<figcaption>The same numbers stand in the table below.</figcaption></figure>",
        input.rose_svg.replacen(SVG_NAMESPACE, "", 1)
    );
    write_table(&mut body, &tables::accuracies(summary));
    body.push_str("</section>\n");
    section(&mut body, "errors", "Errors");
    kinds::write_bars(&mut body, summary);
    write_table(&mut body, &tables::errors(summary));
    write_folded_table(&mut body, &tables::meanings(summary));
    body.push_str("</section>\n");
    if let Some(pairs) = tables::pairs(summary) {
        section(&mut body, "pairs", "Model against encoder");
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
    page(&title, &body)
}

fn page(title: &str, body: &str) -> String {
    format!(
        concat!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
            "<meta name=\"color-scheme\" content=\"light dark\">\n",
            // Even an answer that slipped through escaping could load or run nothing.
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
            "<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
        ),
        title = title,
        style = STYLE,
        body = body
    )
}

fn section(body: &mut String, id: &str, heading: &str) {
    let _ = writeln!(body, "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{heading}</h2>");
}

fn write_header(body: &mut String, input: &ReportInput<'_>, title: &str) {
    let _ = writeln!(body, "<header>\n<h1>{title}</h1>\n<dl>");
    for (name, value) in notes::headings(input.summary) {
        let _ = writeln!(body, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    body.push_str("</dl>\n");
    let notes = notes::notes(input.summary);
    if !notes.is_empty() {
        body.push_str("<ul class=\"notes\">\n");
        for note in notes {
            let (class, mark) = match note.weight {
                Weight::Warning => ("warning", "<strong>Warning.</strong> "),
                Weight::Remark => ("remark", ""),
            };
            let _ = writeln!(body, "<li class=\"{class}\">{mark}{}</li>", escape(&note.text));
        }
        body.push_str("</ul>\n");
    }
    body.push_str("</header>\n");
}

fn write_table(body: &mut String, table: &Table) {
    let caption = escape(&table.caption);
    // A scrolling region must be reachable by keyboard.
    let _ = writeln!(
        body,
        "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\">\n<table>\n<caption><span>{caption}</span></caption>\n<thead><tr>"
    );
    let class = |column: usize| if table.numbers.contains(&column) { " class=\"number\"" } else { "" };
    for (column, name) in table.columns.iter().enumerate() {
        let _ = write!(body, "<th scope=\"col\"{}>{}</th>", class(column), escape(name));
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        body.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            let _ = match column {
                0 => write!(body, "<th scope=\"row\">{cell}</th>"),
                _ => write!(body, "<td{}>{cell}</td>", class(column)),
            };
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</tbody>\n</table>\n</div>\n");
}

fn write_folded_table(body: &mut String, table: &Table) {
    let _ = writeln!(body, "<details>\n<summary>{}</summary>", escape(&table.caption));
    write_table(body, table);
    body.push_str("</details>\n");
}

fn write_examples(body: &mut String, input: &ReportInput<'_>) {
    section(body, "examples", "Examples of errors");
    body.push_str("<p>Answers are verbatim. Open a dataset to read them.</p>\n");
    for dataset in &input.spec.datasets {
        write_dataset_examples(body, input.trials, dataset);
    }
    body.push_str("</section>\n");
}

fn write_dataset_examples(body: &mut String, trials: &[Trial], dataset: &DatasetSpec) {
    let by_code = examples::by_code(trials, &dataset.dataset);
    let n_errors: usize = by_code.iter().map(|examples| examples.n_trials).sum();
    let _ = writeln!(
        body,
        "<details>\n<summary>{} <span class=\"count\">{n_errors} {}</span></summary>",
        escape(&dataset.dataset),
        if n_errors == 1 { "error" } else { "errors" }
    );
    for examples in by_code {
        let _ = writeln!(
            body,
            "<h3>{} <span class=\"count\">{}, {} in all</span></h3>\n<ul class=\"examples\">",
            notes::spaced(examples.code.name()),
            notes::kind_name(examples.code.kind()),
            examples.n_trials
        );
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
