//! Bars of right, wrong by kind, and unscored trials, one per dataset, in HTML.

use std::fmt::Write as _;

use super::notes;
use crate::chart::{escape, words};
use crate::compare::{SubjectSummary, Summary};
use crate::domain::ErrorKind;

/// A class, a name and a count for each part of a bar; together they cover all trials.
fn parts(model: &SubjectSummary) -> [(&'static str, &'static str, usize); 5] {
    let n = |kind: ErrorKind| notes::n_of_kind(Some(model), kind).unwrap_or(0);
    [
        ("right", "correct", model.n_correct),
        ("wrong", "incorrect prediction", n(ErrorKind::IncorrectPrediction)),
        ("intrinsic", "intrinsic hallucination", n(ErrorKind::IntrinsicHallucination)),
        ("extrinsic", "extrinsic hallucination", n(ErrorKind::ExtrinsicHallucination)),
        ("open", "unscored", model.n_unscored),
    ]
}

/// Writes the bars with a legend. They repeat the table below, so screen readers only read the table.
pub fn write_bars(body: &mut String, summary: &Summary) {
    body.push_str("<div class=\"bars\" aria-hidden=\"true\">\n<p class=\"key\">");
    let names = [
        ("right", "correct"),
        ("wrong", "incorrect prediction"),
        ("intrinsic", "intrinsic hallucination"),
        ("extrinsic", "extrinsic hallucination"),
        ("open", "unscored"),
    ];
    for (class, name) in names {
        let _ = write!(body, "<span><i class=\"{class}\"></i>{name}</span>");
    }
    body.push_str("</p>\n");
    for dataset in &summary.datasets {
        let _ = write!(body, "<div class=\"bar\"><span>{}</span>", escape(&dataset.dataset));
        match dataset.model.as_ref().filter(|model| model.n_trials > 0) {
            None => {
                let _ = write!(body, "<span>{}</span>", words::MISSING);
            }
            Some(model) => {
                body.push_str("<div>");
                for (class, name, n) in parts(model).into_iter().filter(|(_, _, n)| *n > 0) {
                    let share = n as f64 / model.n_trials as f64;
                    let _ = write!(
                        body,
                        "<i class=\"{class}\" style=\"width:{:.3}%\" title=\"{name}: {n} ({})\"></i>",
                        share * 100.0,
                        words::percent(Some(share))
                    );
                }
                body.push_str("</div>");
            }
        }
        body.push_str("</div>\n");
    }
    body.push_str("</div>\n");
}
