//! The errors of a single run with their images.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::comparison::{Picture, verbatim, write_picture};
use super::examples::said;
use super::notes;
use crate::chart::{escape, words};
use crate::domain::{ErrorCode, Mode, Outcome, Subject, Trial};

/// An error with its picture, or the reason why it is not shown.
#[derive(Clone, Debug)]
pub struct ErrorImage<'a> {
    /// The model's trial.
    pub trial: &'a Trial,
    /// The encoder's choice for the same image, and whether it is right.
    pub encoder: Option<(&'a str, bool)>,
    /// The picture.
    pub picture: Picture,
}

/// Chooses at most `n_max` of the model's errors on `dataset`, taking turns over codes, so that rare codes appear next
/// to frequent ones. Each comes with the encoder's trial of the same image.
pub fn error_choice<'a>(trials: &'a [Trial], dataset: &str, n_max: usize) -> Vec<(&'a Trial, Option<&'a Trial>)> {
    let of_dataset = || trials.iter().filter(|trial| trial.dataset == dataset);
    let is_generated = of_dataset().any(|trial| trial.subject == Subject::Model && trial.mode == Mode::Generate);
    let mode = if is_generated { Mode::Generate } else { Mode::Score };
    let of_model = || of_dataset().filter(|trial| trial.subject == Subject::Model && trial.mode == mode);
    let encoders: BTreeMap<&str, &Trial> = of_dataset()
        .filter(|trial| trial.subject == Subject::Encoder)
        .map(|trial| (trial.sample.as_str(), trial))
        .collect();
    let queues: Vec<Vec<&Trial>> = ErrorCode::ALL
        .into_iter()
        .map(|code| of_model().filter(|trial| trial.outcome == Outcome::Incorrect(code)).collect())
        .filter(|queue: &Vec<&Trial>| !queue.is_empty())
        .collect();
    let n_rounds = queues.iter().map(Vec::len).max().unwrap_or(0);
    let in_turns = (0..n_rounds).flat_map(|round| queues.iter().filter_map(move |queue| queue.get(round).copied()));
    in_turns.take(n_max).map(|trial| (trial, encoders.get(trial.sample.as_str()).copied())).collect()
}

/// Writes those of `images` whose error is `code`, as a list.
pub(super) fn write(body: &mut String, images: &[&ErrorImage<'_>]) {
    body.push_str("<ul class=\"gallery\">\n");
    for image in images {
        let trial = image.trial;
        body.push_str("<li>");
        write_picture(body, &image.picture, &format!("{}, labelled {}", trial.sample, trial.label));
        let code = match trial.outcome {
            Outcome::Incorrect(code) => format!(" <span class=\"tag\">{}</span>", notes::spaced(code.name())),
            Outcome::Correct | Outcome::Unscored(_) => String::new(),
        };
        let answer = said(trial).map_or_else(|| words::MISSING.to_owned(), verbatim);
        let _ = write!(
            body,
            "<div><p><span class=\"label\">{}</span>{code}</p><dl><div><dt>answer</dt><dd>{answer}</dd></div>",
            escape(&trial.label)
        );
        if let Some((chosen, is_right)) = image.encoder {
            let outcome = if is_right { "right" } else { "wrong" };
            let _ = write!(
                body,
                "<div><dt>encoder</dt><dd>{} ({outcome})</dd></div>",
                escape(&words::shortened(chosen, 80))
            );
        }
        let _ = writeln!(body, "</dl><code>{}</code></div></li>", escape(&trial.sample));
    }
    body.push_str("</ul>\n");
}
