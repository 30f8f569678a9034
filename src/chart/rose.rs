//! The rose chart: its content and its composition.

use std::str::FromStr;

use super::geometry::{RADIUS, Rect, Slots, point};
use super::labels::{self, AxisLabel, LabelStyle, Obstacles};
use super::layout::Layout;
use super::svg::{self, Anchor, Svg, ink, number};
use super::{legend, petals, radar, text, words};

/// The accuracies of the rings.
const RINGS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// The differences between a rose for a screen and one for a phone. The plot is the same; a phone shows it smaller, so
/// its words are larger.
struct Look {
    /// The width of the picture in user units; its height follows from its content.
    width: f64,
    /// The smallest distance from the edge.
    margin: f64,
    /// The size of words relative to a wide chart.
    scale: f64,
    /// The size of the title relative to a wide chart.
    title_scale: f64,
    /// The most lines of a header paragraph.
    n_header_lines_max: usize,
    /// The rings that have a label.
    labelled_rings: &'static [f64],
    /// The most datasets for which all numbers are at the tips; with more, only the model's are.
    n_all_numbers_max: usize,
    /// The most datasets for which any numbers are at the tips.
    n_numbers_max: usize,
}

impl Look {
    fn of(layout: Layout) -> Self {
        match layout {
            Layout::Wide => Self {
                width: 960.0,
                margin: 40.0,
                scale: 1.0,
                title_scale: 1.0,
                n_header_lines_max: 3,
                labelled_rings: &RINGS,
                n_all_numbers_max: usize::MAX,
                n_numbers_max: usize::MAX,
            },
            Layout::Narrow => Self {
                width: 800.0,
                margin: 16.0,
                scale: 1.85,
                title_scale: 1.5,
                n_header_lines_max: 8,
                labelled_rings: &[0.5, 1.0],
                n_all_numbers_max: 4,
                n_numbers_max: 8,
            },
        }
    }

    /// The width of a line of text across the whole picture.
    fn line_width(&self) -> f64 {
        self.width - 2.0 * self.margin
    }
}

/// The style of dataset names in a layout.
pub(super) fn label_style(layout: Layout) -> LabelStyle {
    match layout {
        Layout::Wide => LabelStyle { half_width: 460.0, scale: 1.0, n_named_max: usize::MAX, may_turn: false },
        Layout::Narrow => {
            LabelStyle { half_width: 392.0, scale: Look::of(layout).scale, n_named_max: 4, may_turn: true }
        }
    }
}

/// How an accuracy is mapped to a radius.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Scale {
    /// The radius is proportional to the accuracy.
    Radius,
    /// The petal's area is proportional to the accuracy.
    Area,
}

/// How the series are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Style {
    /// One petal per dataset and subject.
    Petals,
    /// One polygon per subject, as in the EMT paper's Figures 4 and 5.
    Radar,
}

/// A name that is not in a list.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown {what} `{given}`; hint: one of {known}")]
pub struct UnknownName {
    what: &'static str,
    given: String,
    known: String,
}

impl Scale {
    /// All scales, in the order of the help text.
    pub const ALL: [Scale; 2] = [Scale::Radius, Scale::Area];

    /// The name for `--rose-scale`.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The radius of `accuracy` (0..1), as a share of the outer ring's radius.
    pub fn fraction(self, accuracy: f64) -> f64 {
        let accuracy = accuracy.clamp(0.0, 1.0);
        match self {
            Scale::Radius => accuracy,
            Scale::Area => accuracy.sqrt(),
        }
    }
}

impl Style {
    /// All styles, in the order of the help text.
    pub const ALL: [Style; 2] = [Style::Petals, Style::Radar];

    /// The name for `--rose-style`.
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

/// Options for drawing a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoseOptions {
    /// How accuracies are mapped to radii.
    pub scale: Scale,
    /// Petals or polygons.
    pub style: Style,
    /// Whether the paper's rows for the same datasets are also shown.
    pub paper_rows: bool,
}

/// The content of a rose.
#[derive(Clone, Debug, PartialEq)]
pub struct RoseChart {
    /// The heading.
    pub title: String,
    /// The context of the numbers: encoder and relation, judge.
    pub subtitle: Vec<String>,
    /// Important warnings: a training split, a constant answer.
    pub warnings: Vec<String>,
    /// Small print below the legend.
    pub footer: Vec<String>,
    /// One per dataset, clockwise.
    pub axes: Vec<Axis>,
    /// The series, back to front.
    pub series: Vec<Series>,
    /// How accuracies are mapped to radii.
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
    /// A short warning.
    pub warning: Option<String>,
}

/// One subject of a rose.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// The name in the description: `model`, `encoder`.
    pub short_name: String,
    /// Its role, which decides how it looks.
    pub role: Role,
    /// One per axis; `None` is drawn as "not scored", never as 0.
    pub points: Vec<Option<Point>>,
}

/// The role of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The comparator: behind, pale, with an outline.
    Encoder,
    /// The baseline of a comparison: the left half of the petal, next to the candidate.
    Before,
    /// The subject of the run: in front and narrower.
    Model,
    /// Published values: thin markers; absent points are not drawn.
    Reference,
}

/// An accuracy with its interval, as fractions in 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Correct over scored.
    pub accuracy: f64,
    /// Its 95% interval.
    pub interval: Option<[f64; 2]>,
}

/// Draws `chart` as an SVG document.
pub fn rose(chart: &RoseChart) -> String {
    rose_in(chart, Layout::Wide)
}

/// Draws `chart` as an SVG document, for a screen or a phone.
pub(super) fn rose_in(chart: &RoseChart, layout: Layout) -> String {
    let (look, style) = (Look::of(layout), label_style(layout));
    let mut svg = Svg::default();
    let header = draw_header(&mut svg, chart, &look);
    let slots = Slots::new(chart.axes.len());
    let labels = labels::place_axis_labels(chart, &slots.angles, style);
    let edge = |side: fn(&AxisLabel) -> f64| labels.iter().map(side).fold(RADIUS + 16.0, f64::max);
    let centre_y = header + 14.0 + edge(|label| -label.rect.y0);
    svg.open("plot", look.width / 2.0, centre_y);
    draw_plot(&mut svg, chart, &slots, &labels, &look);
    svg.close();
    let legend_top = centre_y + edge(|label| label.rect.y1) + 26.0;
    let legend_height = legend::draw(&mut svg, chart, look.width / 2.0, look.line_width(), legend_top, look.scale);
    let mut bottom = legend_top + legend_height + 10.0;
    if chart.axes.len() > style.n_named_max {
        bottom = draw_key(&mut svg, chart, &look, bottom);
    }
    let small = ink(11.5 * look.scale, svg::MUTED, "muted");
    let n_lines_max = layout.either(4, 12);
    for line in chart.footer.iter().flat_map(|text| text::wrap(text, look.line_width(), small.size, false, n_lines_max))
    {
        bottom += 16.0 * look.scale;
        let (x, anchor) = layout.either((look.width / 2.0, Anchor::Middle), (look.margin, Anchor::Start));
        svg.text(x, bottom, anchor, small, &line);
    }
    svg.finish(look.width, (bottom + 22.0).ceil(), &chart.title, &description(chart))
}

/// Writes the key to the numbers at the ring, from `top`. Returns its bottom.
fn draw_key(svg: &mut Svg, chart: &RoseChart, look: &Look, top: f64) -> f64 {
    let size = 12.5 * look.scale;
    let mut y = top;
    for (index, axis) in chart.axes.iter().enumerate() {
        let unscored = labels::unscored(chart, index);
        let remarks = axis.remarks.iter().chain(&unscored).chain(&axis.warning);
        let remarks: String = remarks.map(|remark| format!(" · {remark}")).collect();
        let words = format!("{}: {}{remarks}", index + 1, axis.name);
        for line in text::wrap(&words, look.line_width(), size, false, 3) {
            y += 1.35 * size;
            svg.text(look.margin, y, Anchor::Start, ink(size, svg::INK, "ink"), &line);
        }
    }
    y + 10.0
}

/// Writes title, subtitle and warnings. Returns their bottom.
fn draw_header(svg: &mut Svg, chart: &RoseChart, look: &Look) -> f64 {
    let blocks = [
        (std::slice::from_ref(&chart.title), ink(25.0 * look.title_scale, svg::INK, "ink").bold(), 0.0),
        (&chart.subtitle[..], ink(14.0 * look.scale, svg::MUTED, "muted"), 5.0),
        (&chart.warnings[..], ink(14.0 * look.scale, svg::WARNING, "warning").bold(), 2.0),
    ];
    // Lines break early, since a reader without the font may have a wider one.
    let width = 0.88 * look.line_width();
    let mut y = 24.0;
    for (paragraphs, style, space_above) in blocks {
        y += space_above;
        let broken = |text: &String| text::wrap(text, width, style.size, style.is_bold, look.n_header_lines_max);
        for line in paragraphs.iter().flat_map(broken) {
            y += style.size * 1.42;
            svg.text(look.margin, y, Anchor::Start, style, &line);
        }
    }
    y + 8.0
}

fn draw_plot(svg: &mut Svg, chart: &RoseChart, slots: &Slots, axis_labels: &[AxisLabel], look: &Look) {
    let mut obstacles = Obstacles::default();
    draw_rings(svg, chart.scale);
    let mut numbers = match chart.style {
        Style::Petals => petals::draw(svg, chart, slots, &mut obstacles),
        Style::Radar => radar::draw(svg, chart, slots, &mut obstacles),
    };
    let n_axes = chart.axes.len();
    numbers.retain(|number| {
        n_axes <= look.n_all_numbers_max || (number.role == Role::Model && n_axes <= look.n_numbers_max)
    });
    for number in &mut numbers {
        number.ink.size *= look.scale;
    }
    obstacles.rects.extend(axis_labels.iter().map(|label| label.rect));
    draw_ring_labels(svg, chart.scale, slots.label_angle, &mut obstacles, look);
    labels::draw_tip_numbers(svg, &numbers, &mut obstacles);
    for label in axis_labels {
        label.draw(svg);
    }
    if chart.axes.is_empty() {
        let style = ink(15.0 * look.scale, svg::WARNING, "warning");
        svg.text(0.0, 5.0, Anchor::Middle, style, "no datasets");
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

fn draw_ring_labels(svg: &mut Svg, scale: Scale, angle: f64, obstacles: &mut Obstacles, look: &Look) {
    let style = ink(11.0 * look.scale, svg::MUTED, "muted").halo();
    for &accuracy in look.labelled_rings {
        let words = words::chance(accuracy).replace("0.0%", "0%");
        let radius = RADIUS * scale.fraction(accuracy);
        let (x, y) = point(radius, angle);
        svg.text(x, y + 4.0 * look.scale, Anchor::Middle, style, &words);
        obstacles.rects.push(Rect::centred(x, y, text::width(&words, style.size, false), style.size));
    }
}

/// Describes the chart in words, for readers who cannot see it.
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
