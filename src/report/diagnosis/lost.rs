//! Lost images of a diagnosis, with their pictures, both answers and their causes.

use std::fmt::Write as _;

use super::super::comparison::{Picture, verbatim, write_picture};
use crate::chart::escape;
use crate::diagnose::{DatasetDiagnosis, GradientMaps, ImageDiagnosis};
use crate::domain::Cause;

/// The most lost images of a dataset that a page shows.
const N_SHOWN: usize = 12;

/// A lost image with its picture, or the reason why it is not shown.
#[derive(Clone, Debug)]
pub struct DiagnosedImage<'a> {
    /// The image and the answers to it.
    pub image: &'a ImageDiagnosis,
    /// The picture.
    pub picture: Picture,
}

/// Chooses at most twelve lost images of `dataset`, taking turns over causes, so that rare causes appear next to
/// frequent ones.
pub fn diagnosed_choice<'a>(images: &'a [ImageDiagnosis], dataset: &str) -> Vec<&'a ImageDiagnosis> {
    let of_dataset = || images.iter().filter(|image| image.lost && image.dataset == dataset);
    let of_cause = |cause: &Cause| of_dataset().filter(|image| image.cause == Some(*cause)).collect();
    let queues: Vec<Vec<&ImageDiagnosis>> = Cause::ALL.iter().map(of_cause).collect();
    let n_rounds = queues.iter().map(Vec::len).max().unwrap_or(0);
    let in_turns = (0..n_rounds).flat_map(|round| queues.iter().filter_map(move |queue| queue.get(round).copied()));
    in_turns.take(N_SHOWN).collect()
}

/// Writes the lost images of `dataset`, and the number of those not shown.
pub(super) fn write(body: &mut String, dataset: &DatasetDiagnosis, lost: &[DiagnosedImage<'_>]) {
    let shown: Vec<&DiagnosedImage<'_>> = lost.iter().filter(|lost| lost.image.dataset == dataset.dataset).collect();
    if shown.is_empty() {
        return;
    }
    let more = match dataset.n_lost.saturating_sub(shown.len()) {
        0 => String::new(),
        n => format!(" {n} more {} in <code>images.jsonl</code>.", if n == 1 { "is" } else { "are" }),
    };
    let _ = writeln!(body, "<h3>Lost images</h3>\n<p>Right before, wrong after; answers are verbatim.{more}</p>");
    body.push_str("<ul class=\"gallery\">\n");
    shown.into_iter().for_each(|image| write_image(body, image));
    body.push_str("</ul>\n");
}

/// Writes where base and candidate look, side by side. Darker cells matter more to the answer.
fn write_maps(body: &mut String, maps: &GradientMaps) {
    body.push_str("<p class=\"maps\">");
    for (name, map) in [("base", &maps.baseline), ("candidate", &maps.candidate)] {
        let _ = write!(
            body,
            "<svg viewBox=\"0 0 {} {}\" width=\"96\" height=\"96\" role=\"img\"><title>Where the {name} looks ({})</title>",
            maps.n_columns,
            maps.n_rows,
            escape(&maps.site)
        );
        for (cell, value) in map.iter().enumerate().filter(|(_, value)| **value > 0.0) {
            let (row, column) = (cell / maps.n_columns.max(1), cell % maps.n_columns.max(1));
            let _ = write!(
                body,
                "<rect x=\"{column}\" y=\"{row}\" width=\"1\" height=\"1\" fill=\"currentColor\" fill-opacity=\"{value}\"/>"
            );
        }
        body.push_str("</svg> ");
    }
    body.push_str("</p>");
}

fn write_image(body: &mut String, DiagnosedImage { image, picture }: &DiagnosedImage<'_>) {
    body.push_str("<li>");
    write_picture(body, picture, &format!("{}, labelled {}", image.sample, image.label));
    let cause = image.cause.map(|cause| format!(" <span class=\"tag\">{}</span>", cause.name())).unwrap_or_default();
    let _ = write!(body, "<div><p><span class=\"label\">{}</span>{cause}</p><dl>", escape(&image.label));
    let mut line = |name: &str, answer: &str| {
        let _ = write!(body, "<div><dt>{name}</dt><dd>{answer}</dd></div>");
    };
    line("before", &verbatim(&image.baseline_answer));
    line("after", &verbatim(&image.candidate_answer));
    let right: Vec<&str> =
        image.restored.iter().filter(|(_, is_right)| **is_right).map(|(part, _)| part.as_str()).collect();
    if !right.is_empty() {
        line("parts", &escape(&format!("right with the base's {}", right.join(", "))));
    }
    let _ = write!(body, "</dl><code>{}</code>", escape(&image.sample));
    if let Some(maps) = &image.maps {
        write_maps(body, maps);
    }
    body.push_str("</div></li>\n");
}
