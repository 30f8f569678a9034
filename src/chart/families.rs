//! Families of outcomes. Each has one look in every chart: a colour, a pattern for grey print and a class for dark
//! pages.

use super::svg::{self, Svg, number};
use crate::domain::{ErrorCode, ErrorKind};

/// A coarse outcome of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// The right label.
    Correct,
    /// Another label of the dataset.
    Incorrect,
    /// Several labels, or labels of clashing types.
    Intrinsic,
    /// None of the labels.
    Extrinsic,
    /// Neither right nor wrong.
    Unscored,
}

impl Family {
    /// All families, in the order in which charts show them.
    pub const ALL: [Family; 5] =
        [Family::Correct, Family::Incorrect, Family::Intrinsic, Family::Extrinsic, Family::Unscored];

    /// Returns the family of a state: `correct`, a code's name, or `unscored`.
    pub fn of_state(state: &str) -> Self {
        if state == "correct" {
            return Family::Correct;
        }
        match ErrorCode::ALL.into_iter().find(|code| code.name() == state).map(ErrorCode::kind) {
            Some(ErrorKind::IncorrectPrediction) => Family::Incorrect,
            Some(ErrorKind::IntrinsicHallucination) => Family::Intrinsic,
            Some(ErrorKind::ExtrinsicHallucination) => Family::Extrinsic,
            None => Family::Unscored,
        }
    }

    /// The name in a legend.
    pub fn name(self) -> &'static str {
        match self {
            Family::Correct => "correct",
            Family::Incorrect => "incorrect prediction",
            Family::Intrinsic => "intrinsic hallucination",
            Family::Extrinsic => "extrinsic hallucination",
            Family::Unscored => "unscored",
        }
    }

    /// The colour, from Okabe and Ito; in grey print the patterns distinguish the families.
    pub fn fill(self) -> &'static str {
        match self {
            Family::Correct => "#0072B2",
            Family::Incorrect => "#E69F00",
            Family::Intrinsic => "#CC79A7",
            Family::Extrinsic => "#D55E00",
            Family::Unscored => "#B4BCC5",
        }
    }

    /// The class by which a page recolours the family.
    pub fn class(self) -> &'static str {
        match self {
            Family::Correct => "family-right",
            Family::Incorrect => "family-wrong",
            Family::Intrinsic => "family-intrinsic",
            Family::Extrinsic => "family-extrinsic",
            Family::Unscored => "family-open",
        }
    }

    /// The pattern of lines over a bar of this family; `None` leaves it plain.
    fn pattern(self) -> Option<(&'static str, &'static str)> {
        match self {
            Family::Correct => None,
            Family::Incorrect => Some(("rose-pattern-wrong", "M0 3H6")),
            Family::Intrinsic => Some(("rose-pattern-intrinsic", "M3 0V6M0 3H6")),
            Family::Extrinsic => Some(("rose-pattern-extrinsic", "M-1 1L1 -1M0 6L6 0M5 7L7 5")),
            Family::Unscored => Some(("rose-pattern-open", "M-1 5L1 7M0 0L6 6M5 -1L7 1")),
        }
    }
}

/// Defines the patterns; called once per picture.
pub fn define_patterns(svg: &mut Svg) {
    svg.raw("<defs>");
    for (id, lines) in Family::ALL.into_iter().filter_map(Family::pattern) {
        svg.raw(&format!(
            r#"<pattern id="{id}" width="6" height="6" patternUnits="userSpaceOnUse"><path class="pattern" d="{lines}" fill="none" stroke="{}" stroke-width="1.3"/></pattern>"#,
            svg::BACKGROUND
        ));
    }
    svg.raw("</defs>");
}

/// Draws a bar of a family whose top left corner is (x, y).
pub fn bar(svg: &mut Svg, family: Family, x: f64, y: f64, width: f64, height: f64, tooltip: Option<&str>) {
    let data = format!("M{} {}h{}v{}h{}Z", number(x), number(y), number(width), number(height), number(-width));
    let look = format!(r#"fill="{}" stroke="{}" stroke-width="0.8""#, family.fill(), svg::INK);
    svg.path(&format!("bar {}", family.class()), &data, &look, tooltip);
    // A pattern would blur on a bar lower than its lines.
    if let Some((id, _)) = family.pattern().filter(|_| height >= 4.0) {
        svg.path("lines", &data, &format!(r#"fill="url(#{id})""#), None);
    }
}

#[cfg(test)]
mod tests;
