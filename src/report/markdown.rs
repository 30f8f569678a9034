//! `report.md`.

use std::fmt::Write as _;

use super::examples::{self, said};
use super::tables::{self, Table};
use super::{ReportInput, lead, notes};
use crate::chart::{self, words};

/// Returns the report as Markdown; it shows `rose.svg` of the same folder.
pub fn markdown(input: &ReportInput<'_>) -> String {
    let summary = input.summary;
    let mut text = format!("# {}\n\n", escape(&notes::title(summary)));
    for lead in lead::leads(summary) {
        let _ = writeln!(text, "- **{}** {}", escape(&lead.dataset), escape(&lead.text));
    }
    text.push('\n');
    for note in notes::notes(summary) {
        let mark = if note.weight == notes::Weight::Warning { "**Warning.** " } else { "" };
        let _ = writeln!(text, "> {mark}{}\n", escape(&note.text));
    }
    for (name, value) in notes::headings(summary) {
        let _ = writeln!(text, "- **{name}:** {}", escape(&value));
    }
    text.push('\n');
    text.push_str("![Rose chart of the accuracies below](rose.svg)\n\n## Accuracy\n\n");
    write_table(&mut text, &tables::accuracies(summary));
    if let Some(shots) = tables::shots(summary) {
        write_table(&mut text, &shots);
    }
    text.push_str("## Errors\n\n");
    write_table(&mut text, &tables::errors(summary));
    write_table(&mut text, &tables::meanings(summary));
    if let Some(pairs) = tables::pairs(summary) {
        let _ = writeln!(text, "## Model against {}\n", words::encoder_noun(&summary.encoder));
        write_table(&mut text, &pairs);
    }
    if let Some(paper) = input.paper_rows.then(|| tables::beside_the_paper(summary)).flatten() {
        text.push_str("## Beside the paper\n\n");
        write_table(&mut text, &paper);
    }
    write_examples(&mut text, input);
    text.push_str("## How this was made\n\n");
    let fence = fence(input.command, 3);
    let _ = writeln!(text, "{fence}\n{}\n{fence}\n", input.command);
    write_table(&mut text, &tables::prompts(input.spec));
    write_table(&mut text, &tables::conditions(input.spec, input.environment));
    let _ = writeln!(text, "emt {}", env!("CARGO_PKG_VERSION"));
    text
}

fn write_examples(text: &mut String, input: &ReportInput<'_>) {
    text.push_str("## Examples of errors\n\n");
    for dataset in &input.spec.datasets {
        let by_code = examples::by_code(input.trials, &dataset.dataset);
        if by_code.is_empty() {
            continue;
        }
        let _ = writeln!(text, "### {}\n", escape(&dataset.dataset));
        for code in by_code {
            let (name, kind) = (notes::spaced(code.code.name()), notes::kind_name(code.code.kind()));
            let _ = writeln!(text, "{name} ({kind}), {} in all:\n", code.n_trials);
            for trial in &code.trials {
                let answer = said(trial).map_or_else(|| words::MISSING.to_owned(), code_span);
                let _ = writeln!(text, "- {}: {answer} ({})", escape(&trial.label), code_span(&trial.sample));
            }
            text.push('\n');
        }
        let confusions = examples::confusions(input.trials, dataset);
        if !confusions.is_empty() {
            write_table(text, &tables::confusions(&confusions));
        }
    }
}

/// Writes a caption and the table below it.
pub(super) fn write_table(text: &mut String, table: &Table) {
    let _ = writeln!(text, "{}:\n", escape(&table.caption));
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escape(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    text.push_str(&line(&table.columns));
    for column in 0..table.columns.len() {
        text.push_str(if table.numbers.contains(&column) { "|---:" } else { "|---" });
    }
    text.push_str("|\n");
    for row in &table.rows {
        text.push_str(&line(row));
    }
    text.push('\n');
}

/// Returns `text` on one line, with everything literal that Markdown or HTML would read as markup, a link or a mention.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in words::printable(text).chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '$' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            // In comments on a forge, a name after an @ is a mention; an empty HTML comment between them prevents it
            // and is invisible.
            '@' => escaped.push_str("@<!-- -->"),
            _ => escaped.push(letter),
        }
    }
    without_links(&escaped)
}

/// Returns the same for the inside of an HTML element, where Markdown is not interpreted.
pub(super) fn escape_in_html(text: &str) -> String {
    without_links(&chart::escape(&words::printable(text)).replace('@', "@<!-- -->"))
}

fn without_links(escaped: &str) -> String {
    escaped.replace("://", "&#58;//").replace("www.", "www&#46;")
}

/// Returns `text` as a code span. It is verbatim except for line breaks, which a code span cannot contain; they become
/// `↵`.
fn code_span(text: &str) -> String {
    if text.is_empty() {
        return "(empty)".to_owned();
    }
    let line = words::printable(&text.replace('\n', "↵"));
    let fence = fence(&line, 1);
    format!("{fence} {line} {fence}")
}

/// Returns a run of backticks longer than any in `text`, and at least `n_min`.
pub(super) fn fence(text: &str, n_min: usize) -> String {
    let longest = text.split(|letter| letter != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(n_min.max(longest + 1))
}
