//! The rose chart: what it holds, and how its parts are put together.

use std::str::FromStr;

use strum::{EnumCount, IntoStaticStr, VariantArray};

use super::geometry::{RADIUS, Rect, Slots, point};
use super::labels::{self, AxisLabel, Obstacles};
use super::svg::{self, Anchor, Svg, ink, number};
use super::{legend, petals, radar, text, words};

/// The width of the picture in user units; its height follows from what it holds.
const WIDTH: f64 = 960.0;

/// The least distance from the edge.
const MARGIN: f64 = 40.0;

/// Header lines break early enough for a page whose reader lacks the font and has a wider one.
const HEADER_WIDTH: f64 = 0.88 * (WIDTH - 2.0 * MARGIN);

/// The accuracies at which rings stand.
const RINGS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// How an accuracy becomes a radius.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Scale {
    /// The radius is proportional to the accuracy.
    Radius,
    /// The petal's area is.
    Area,
}

/// How the series are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
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
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS.first_chunk().unwrap();

    /// The name that `--rose-scale` takes.
    pub fn name(self) -> &'static str {
        self.into()
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
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS.first_chunk().unwrap();

    /// The name that `--rose-style` takes.
    pub fn name(self) -> &'static str {
        self.into()
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
    /// The baseline of a comparison: the left half of the petal, beside what came after.
    Before,
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
    let mut svg = Svg::default();
    let header = draw_header(&mut svg, chart);
    let slots = Slots::new(chart.axes.len());
    let labels = labels::place_axis_labels(chart, &slots.angles);
    let edge = |side: fn(&AxisLabel) -> f64| labels.iter().map(side).fold(RADIUS + 16.0, f64::max);
    let centre_y = header + 14.0 + edge(|label| -label.rect.y0);
    svg.open("plot", WIDTH / 2.0, centre_y);
    draw_plot(&mut svg, chart, &slots, &labels);
    svg.close();
    let legend_top = centre_y + edge(|label| label.rect.y1) + 26.0;
    let legend_height = legend::draw(&mut svg, chart, WIDTH / 2.0, WIDTH - 2.0 * MARGIN, legend_top);
    let mut bottom = legend_top + legend_height + 10.0;
    for line in chart.footer.iter().flat_map(|text| text::wrap(text, WIDTH - 2.0 * MARGIN, 11.5, false, 4)) {
        bottom += 16.0;
        svg.text(WIDTH / 2.0, bottom, Anchor::Middle, ink(11.5, svg::MUTED, "muted"), &line);
    }
    svg.finish(WIDTH, (bottom + 22.0).ceil(), &chart.title, &description(chart))
}

/// Title, subtitle and warnings; returns where they end.
fn draw_header(svg: &mut Svg, chart: &RoseChart) -> f64 {
    let blocks = [
        (std::slice::from_ref(&chart.title), ink(25.0, svg::INK, "ink").bold(), 0.0),
        (&chart.subtitle[..], ink(14.0, svg::MUTED, "muted"), 5.0),
        (&chart.warnings[..], ink(14.0, svg::WARNING, "warning").bold(), 2.0),
    ];
    let mut y = 24.0;
    for (paragraphs, style, space_above) in blocks {
        y += space_above;
        let broken = |text: &String| text::wrap(text, HEADER_WIDTH, style.size, style.is_bold, 3);
        for line in paragraphs.iter().flat_map(broken) {
            y += style.size * 1.42;
            svg.text(MARGIN, y, Anchor::Start, style, &line);
        }
    }
    y + 8.0
}

fn draw_plot(svg: &mut Svg, chart: &RoseChart, slots: &Slots, axis_labels: &[AxisLabel]) {
    let mut obstacles = Obstacles::default();
    draw_rings(svg, chart.scale);
    let numbers = match chart.style {
        Style::Petals => petals::draw(svg, chart, slots, &mut obstacles),
        Style::Radar => radar::draw(svg, chart, slots, &mut obstacles),
    };
    obstacles.rects.extend(axis_labels.iter().map(|label| label.rect));
    draw_ring_labels(svg, chart.scale, slots.label_angle, &mut obstacles);
    labels::draw_tip_numbers(svg, &numbers, &mut obstacles);
    for label in axis_labels {
        label.draw(svg);
    }
    if chart.axes.is_empty() {
        svg.text(0.0, 5.0, Anchor::Middle, ink(15.0, svg::WARNING, "warning"), "no datasets");
    }
}

fn draw_rings(svg: &mut Svg, scale: Scale) {
    svg.open("grid", 0.0, 0.0);
    for accuracy in RINGS {
        let (class, radius, stroke, width) = match accuracy {
            0.0 => ("ring", 1.5, svg::GRID, 1.0),
            1.0 => ("ring outer", RADIUS, svg::MUTED, 1.2),
            _ => ("ring", RADIUS * scale.fraction(accuracy), svg::GRID, 1.0),
        };
        svg.raw(&format!(
            r#"<circle class="{class}" r="{}" fill="none" stroke="{stroke}" stroke-width="{width}"/>"#,
            number(radius)
        ));
    }
    svg.close();
}

fn draw_ring_labels(svg: &mut Svg, scale: Scale, angle: f64, obstacles: &mut Obstacles) {
    let style = ink(11.0, svg::MUTED, "muted").halo();
    for accuracy in RINGS {
        let words = words::chance(accuracy).replace("0.0%", "0%");
        let radius = RADIUS * scale.fraction(accuracy);
        let (x, y) = point(radius, angle);
        svg.text(x, y + 4.0, Anchor::Middle, style, &words);
        obstacles.rects.push(Rect::centred(x, y, text::width(&words, style.size, false), style.size));
    }
}

/// The chart in words, for those who cannot see it.
fn description(chart: &RoseChart) -> String {
    let mut sentences = vec![format!(
        "{} chart of accuracy on {} datasets.",
        if chart.style == Style::Radar { "Radar" } else { "Rose" },
        chart.axes.len()
    )];
    sentences
        .extend(chart.subtitle.iter().chain(&chart.warnings).map(|line| format!("{}.", line.trim_end_matches('.'))));
    for (index, axis) in chart.axes.iter().enumerate() {
        let mut parts: Vec<String> = chart
            .series
            .iter()
            .filter_map(|series| match series.points.get(index).copied().flatten() {
                Some(value) => Some(format!(
                    "{} {} (95% interval {})",
                    series.short_name,
                    words::percent(Some(value.accuracy)),
                    words::interval(value.interval)
                )),
                None if series.role == Role::Reference => None,
                None => Some(format!("{} not scored", series.short_name)),
            })
            .collect();
        parts.extend(axis.chance.map(|chance| format!("chance {}", words::chance(chance))));
        sentences.push(format!("{}: {}.", axis.name, parts.join(", ")));
    }
    sentences.join(" ")
}
