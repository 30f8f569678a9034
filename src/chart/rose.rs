//! The rose chart: what it holds, and how its parts are put together.

use std::str::FromStr;

/// How an accuracy becomes a radius.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scale {
    /// The radius is proportional to the accuracy.
    Radius,
    /// The petal's area is.
    Area,
}

/// How the series are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Style {
    /// One petal a dataset and subject.
    Petals,
    /// One polygon a subject, as in the EMT paper's Figures 4 and 5.
    Radar,
}

/// A name that is none of a list.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown {what} `{given}`; hint: one of {known}")]
pub struct UnknownName {
    what: &'static str,
    given: String,
    known: String,
}

impl Scale {
    /// All scales, in the order in which help lists them.
    pub const ALL: [Scale; 2] = [Scale::Radius, Scale::Area];

    /// The name that `--rose-scale` takes.
    pub fn name(self) -> &'static str {
        match self {
            Scale::Radius => "radius",
            Scale::Area => "area",
        }
    }

    /// The share of the outer ring's radius at which `accuracy` (0..1) lies.
    pub fn fraction(self, accuracy: f64) -> f64 {
        let accuracy = accuracy.clamp(0.0, 1.0);
        match self {
            Scale::Radius => accuracy,
            Scale::Area => accuracy.sqrt(),
        }
    }
}

impl Style {
    /// All styles, in the order in which help lists them.
    pub const ALL: [Style; 2] = [Style::Petals, Style::Radar];

    /// The name that `--rose-style` takes.
    pub fn name(self) -> &'static str {
        match self {
            Style::Petals => "petals",
            Style::Radar => "radar",
        }
    }
}

impl FromStr for Scale {
    type Err = UnknownName;

    fn from_str(given: &str) -> Result<Self, UnknownName> {
        let known = Self::ALL.map(Self::name);
        Self::ALL.into_iter().find(|scale| scale.name() == given).ok_or_else(|| UnknownName {
            what: "rose scale",
            given: given.to_owned(),
            known: known.join(", "),
        })
    }
}

impl FromStr for Style {
    type Err = UnknownName;

    fn from_str(given: &str) -> Result<Self, UnknownName> {
        let known = Self::ALL.map(Self::name);
        Self::ALL.into_iter().find(|style| style.name() == given).ok_or_else(|| UnknownName {
            what: "rose style",
            given: given.to_owned(),
            known: known.join(", "),
        })
    }
}

/// How a summary is to be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoseOptions {
    /// How accuracies become radii.
    pub scale: Scale,
    /// Petals or polygons.
    pub style: Style,
    /// Whether the paper's own rows for the same datasets stand beside the run's.
    pub paper_rows: bool,
}

/// Everything that a rose shows.
#[derive(Clone, Debug, PartialEq)]
pub struct RoseChart {
    /// The heading.
    pub title: String,
    /// What a reader must know to read it: encoder and relation, judge.
    pub subtitle: Vec<String>,
    /// What a reader must not overlook: a training split, a constant answer.
    pub warnings: Vec<String>,
    /// Small print below the legend.
    pub footer: Vec<String>,
    /// One a dataset, clockwise.
    pub axes: Vec<Axis>,
    /// Drawn in this order, the first at the back.
    pub series: Vec<Series>,
    /// How accuracies become radii.
    pub scale: Scale,
    /// Petals or polygons.
    pub style: Style,
}

/// One dataset of a rose.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Its name.
    pub name: String,
    /// The accuracy of a uniform guess, 1 / classes.
    pub chance: Option<f64>,
    /// Short lines below the name.
    pub remarks: Vec<String>,
    /// A short line that must not be overlooked.
    pub warning: Option<String>,
}

/// One subject of a rose.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// As the legend names it.
    pub name: String,
    /// As the description names it: `model`, `encoder`.
    pub short_name: String,
    /// What it is, which decides how it looks.
    pub role: Role,
    /// One an axis; `None` is drawn as "not scored", never as 0.
    pub points: Vec<Option<Point>>,
}

/// What a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The comparator: behind, pale with an outline.
    Encoder,
    /// The subject of the run: in front and narrower.
    Model,
    /// Published figures: thin markers; absent points are simply absent.
    Reference,
}

/// An accuracy with its interval, fractions in 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Correct over scored.
    pub accuracy: f64,
    /// Its 95% interval.
    pub interval: Option<[f64; 2]>,
}

/// Draws `chart` as an SVG document.
pub fn rose(chart: &RoseChart) -> String {
    let _ = chart;
    String::new()
}
