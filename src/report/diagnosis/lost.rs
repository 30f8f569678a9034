//! Lost images of a diagnosis, with their pictures, both answers and their causes.

use std::fmt::Write as _;

use super::super::comparison::{Picture, verbatim, write_picture};
use crate::chart::escape;
use crate::diagnose::{DatasetDiagnosis, ImageDiagnosis};
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
    let _ = writeln!(body, "</dl><code>{}</code></div></li>", escape(&image.sample));
}
