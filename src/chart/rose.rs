//! The rose chart: what it holds, and how its parts are put together.

use std::str::FromStr;

use super::geometry::{RADIUS, Rect, Slots, point};
use super::labels::{self, AxisLabel, LabelStyle, Obstacles};
use super::layout::Layout;
use super::svg::{self, Anchor, Svg, ink, number};
use super::{legend, petals, radar, text, words};

/// The accuracies at which rings stand.
const RINGS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// What differs between a rose for a screen and one for a phone. The plot is the same; a phone shows it smaller, and so its words are
/// larger beside it.
struct Look {
    /// The width of the picture in user units; its height follows from what it holds.
    width: f64,
    /// The least distance from the edge.
    margin: f64,
    /// How many times larger words are than on a wide chart.
    scale: f64,
    /// The same of the title.
    title_scale: f64,
    /// How many lines a paragraph of the header may take.
    n_header_lines_max: usize,
    /// The rings that say what they are.
    labelled_rings: &'static [f64],
    /// With more datasets than these, only the model's numbers stand at the tips.
    n_all_numbers_max: usize,
    /// With more than these, none do.
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

    /// The width of a line across the whole picture.
    fn line_width(&self) -> f64 {
        self.width - 2.0 * self.margin
    }
}

/// How the names of datasets look in a layout.
pub(super) fn label_style(layout: Layout) -> LabelStyle {
    match layout {
        Layout::Wide => LabelStyle { half_width: 460.0, scale: 1.0, n_named_max: usize::MAX, may_turn: false },
        Layout::Narrow => {
            LabelStyle { half_width: 392.0, scale: Look::of(layout).scale, n_named_max: 4, may_turn: true }
        }
    }
}

/// How an accuracy becomes a radius.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Scale {
    /// The radius is proportional to the accuracy.
    Radius,
    /// The petal's area is.
    Area,
}

/// How the series are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
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
    pub const ALL: [Scale; 2] = [Scale::Radius, Scale::Area];

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
    pub const ALL: [Style; 2] = [Style::Petals, Style::Radar];

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
    rose_in(chart, Layout::Wide)
}

/// Draws `chart` as an SVG document, for a screen or for a phone.
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

/// What the numbers at the ring stand for, from `top`; returns where it ends.
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

/// Title, subtitle and warnings; returns where they end.
fn draw_header(svg: &mut Svg, chart: &RoseChart, look: &Look) -> f64 {
    let blocks = [
        (std::slice::from_ref(&chart.title), ink(25.0 * look.title_scale, svg::INK, "ink").bold(), 0.0),
        (&chart.subtitle[..], ink(14.0 * look.scale, svg::MUTED, "muted"), 5.0),
        (&chart.warnings[..], ink(14.0 * look.scale, svg::WARNING, "warning").bold(), 2.0),
    ];
    // Lines break early enough for a page whose reader lacks the font and has a wider one.
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
