//! A diagnosis as JSON, Markdown, HTML and text.

mod inside;
mod lost;
mod tables;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

pub use self::lost::{DiagnosedImage, diagnosed_choice};
use super::html::page::{Figures, Holds, page_that_holds, section, write_folded_table, write_table};
use super::markdown;
use super::tables::Table;
use crate::chart::{DiagnosisCharts, escape, words};
use crate::diagnose::causes::SHARE_OF_EACH;
use crate::diagnose::{DatasetDiagnosis, Diagnosis, ImageDiagnosis};
use crate::domain::CauseShare;

/// The most rows of a table in Markdown; `diagnosis.json` has them all.
const N_ROWS_MARKDOWN: usize = 40;

/// The most rows of a table that a page does not fold.
const N_ROWS_OPEN: usize = 16;

/// `diagnosis.json`.
pub fn diagnosis_json(diagnosis: &Diagnosis) -> String {
    let mut text = serde_json::to_string_pretty(diagnosis).expect("a diagnosis holds only strings as keys");
    text.push('\n');
    text
}

/// `images.jsonl`: one line per image.
pub fn diagnosed_images(images: &[ImageDiagnosis]) -> String {
    let line = |image: &ImageDiagnosis| {
        let text = serde_json::to_string(image).expect("an image holds only strings as keys");
        format!("{text}\n")
    };
    images.iter().map(line).collect()
}

/// The heading of a page.
fn title(diagnosis: &Diagnosis) -> String {
    match &diagnosis.candidate {
        Some(candidate) => format!("Why {} forgot", candidate.run),
        None => format!("How {} reads images", diagnosis.baseline.run),
    }
}

/// The answer first: one or more sentences on a dataset.
fn headline(dataset: &DatasetDiagnosis) -> String {
    let DatasetDiagnosis { n_images, n_lost, n_gained, baseline_accuracy, candidate_accuracy, .. } = dataset;
    let Some(candidate_accuracy) = candidate_accuracy else {
        let accuracy = words::percent(Some(*baseline_accuracy));
        let blind = dataset.reliance.as_ref().map(|reliance| reliance.baseline.blind_accuracy);
        let blind =
            blind.map_or_else(String::new, |blind| format!(", {} without the image", words::percent(Some(blind))));
        return format!("{}: {accuracy} right on {n_images} images{blind}.", dataset.dataset);
    };
    let fall = format!(
        "{}: {} before, {} after, on {n_images} images ({n_lost} lost, {n_gained} gained).",
        dataset.dataset,
        words::percent(Some(*baseline_accuracy)),
        words::percent(Some(*candidate_accuracy))
    );
    if *n_lost == 0 {
        return format!("{fall} Nothing was lost here.");
    }
    if dataset.named.is_empty() {
        return format!("{fall} The fall is within noise, or no part carries it.");
    }
    let names: Vec<&str> = dataset.named.iter().map(|cause| cause.name()).collect();
    let lead =
        dataset.swap.iter().filter(|share| share.shapley.is_some_and(|value| value >= SHARE_OF_EACH)).map(|share| {
            let recovered = words::percent(share.restore.recovered);
            let interval = match share.restore.recovered_interval {
                Some([low, high]) => format!(" [{} to {}]", words::percent(Some(low)), words::percent(Some(high))),
                None => String::new(),
            };
            format!(" {recovered}{interval} of the fall comes back with the base's {}.", share.component)
        });
    format!("{fall} Cause: {}.{}", names.join(" and "), lead.collect::<String>())
}

/// Whether components give back more together or alone than their shares say.
fn interaction(dataset: &DatasetDiagnosis) -> Option<String> {
    let of = |share: &&crate::diagnose::SwapShare| {
        let kept = share.keep.as_ref()?.caused?;
        (share.restore.recovered? > 0.75 && kept < 0.25).then(|| share.component.clone())
    };
    let joint: Vec<String> = dataset.swap.iter().filter_map(|share| of(&share)).collect();
    (joint.len() > 1).then(|| {
        format!(
            "{} act only together: restoring any of them gives the fall back, and none of them alone causes it.",
            joint.join(" and ")
        )
    })
}

/// One line per cause: what supports it, and what to try.
fn cause_line(cause: &CauseShare) -> String {
    let interval = match cause.share_interval {
        Some([low, high]) => format!(" [{} to {}]", words::percent(Some(low)), words::percent(Some(high))),
        None => String::new(),
    };
    format!(
        "{}: {}{interval}. {} {}",
        cause.cause.name(),
        words::percent(Some(cause.share)),
        cause.evidence,
        cause.mend
    )
}

/// What a page says of one dataset: the headline, and a line per cause.
pub(super) fn brief(dataset: &DatasetDiagnosis) -> (String, Vec<String>) {
    let lines = dataset.causes.iter().map(cause_line).chain(interaction(dataset));
    (headline(dataset), lines.collect())
}

/// The diagnosis for a terminal.
pub fn diagnosis_text(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    for dataset in &diagnosis.datasets {
        let _ = writeln!(text, "{}", headline(dataset));
        for cause in &dataset.causes {
            let _ = writeln!(text, "  {}", cause_line(cause));
        }
        if let Some(interaction) = interaction(dataset) {
            let _ = writeln!(text, "  {interaction}");
        }
        text.push('\n');
    }
    text
}

/// `diagnosis.md`.
pub fn diagnosis_markdown(diagnosis: &Diagnosis) -> String {
    let mut text = format!("# {}\n\n", markdown::escape(&title(diagnosis)));
    for dataset in &diagnosis.datasets {
        let _ = writeln!(text, "{}\n", markdown::escape(&headline(dataset)));
        for cause in &dataset.causes {
            let _ = writeln!(text, "- {}", markdown::escape(&cause_line(cause)));
        }
        if let Some(interaction) = interaction(dataset) {
            let _ = writeln!(text, "\n{}", markdown::escape(&interaction));
        }
        text.push('\n');
        write_tables_of_markdown(&mut text, &tables::of_dataset(dataset));
    }
    write_tables_of_markdown(&mut text, &tables::of_models(diagnosis));
    text
}

fn write_tables_of_markdown(text: &mut String, tables: &[Table]) {
    tables
        .iter()
        .filter(|table| table.rows.len() <= N_ROWS_MARKDOWN)
        .for_each(|table| markdown::write_table(text, table));
}

/// `diagnosis.html`: one page that needs no network. `lost` are images as [`diagnosed_choice`] chooses them.
pub fn diagnosis_html(
    diagnosis: &Diagnosis,
    charts: &DiagnosisCharts,
    lost: &[DiagnosedImage<'_>],
    command: &str,
) -> String {
    let title = escape(&title(diagnosis));
    let mut body = format!("<header>\n<h1>{title}</h1>\n</header>\n");
    let mut figures = Figures::default();
    for (place, dataset) in diagnosis.datasets.iter().enumerate() {
        section(&mut body, &format!("d{place}"), &escape(&dataset.dataset));
        let _ = writeln!(body, "<p><strong>{}</strong></p>", escape(&headline(dataset)));
        if !dataset.causes.is_empty() {
            let lines: Vec<String> =
                dataset.causes.iter().map(|cause| format!("<li>{}</li>", escape(&cause_line(cause)))).collect();
            let _ = writeln!(body, "<ul>\n{}\n</ul>", lines.join("\n"));
        }
        if let Some(interaction) = interaction(dataset) {
            let _ = writeln!(body, "<p>{}</p>", escape(&interaction));
        }
        for (_, figure) in charts.of_dataset(place) {
            figures.write(&mut body, &figure.drawn, &escape(&figure.caption));
        }
        write_tables(&mut body, &tables::of_dataset(dataset));
        lost::write(&mut body, dataset, lost);
        body.push_str("</section>\n");
    }
    section(&mut body, "models", "The models");
    write_tables(&mut body, &tables::of_models(diagnosis));
    let _ = writeln!(body, "<pre tabindex=\"0\"><code>{}</code></pre>\n</section>", escape(command));
    let _ = writeln!(body, "<footer>emt {}</footer>", env!("CARGO_PKG_VERSION"));
    page_that_holds(if lost.is_empty() { Holds::Charts } else { Holds::Images }, &title, &body)
}

/// Writes tables; long ones are folded.
fn write_tables(body: &mut String, tables: &[Table]) {
    for table in tables {
        let write = if table.rows.len() > N_ROWS_OPEN { write_folded_table } else { write_table };
        write(body, table);
    }
}
