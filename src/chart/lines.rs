//! The line chart: values over epochs or steps, with each line named at its end.

use plotters::prelude::{ChartBuilder, Circle, IntoDrawingArea, PathElement};

use super::axes::{Axes, HPos, Paper, Pen, Plot, Root, Scale, Sketch, fill, hidden, lettering, pixels, stroke, units};
use super::layout::Layout;
use super::svg::{self, Anchor, Svg, ink, number};
use super::{text, words};

/// The content of a line chart.
#[derive(Clone, Debug, PartialEq)]
pub struct LineChart {
    /// The heading.
    pub title: String,
    /// A line of small print below it.
    pub subtitle: String,
    /// The name of the horizontal axis.
    pub x_label: String,
    /// The name of the vertical axis.
    pub y_label: String,
    /// Whether values are fractions, shown in percent on an axis from 0 to 100.
    pub is_share: bool,
    /// The lines, at least one.
    pub lines: Vec<Line>,
    /// Small print at the foot.
    pub notes: Vec<String>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The name at its end.
    pub name: String,
    /// Whether it is drawn bold.
    pub is_bold: bool,
    /// Its points, by ascending x.
    pub points: Vec<LinePoint>,
}

/// One point of a line.
#[derive(Clone, Debug, PartialEq)]
pub struct LinePoint {
    /// The epoch or step.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// Its interval.
    pub interval: Option<[f64; 2]>,
    /// Letters of warnings, such as `L`; a note explains each.
    pub marks: String,
}

/// Those of Okabe and Ito's colours that are dark enough on paper, each with its own dash pattern.
pub(super) const STYLES: [(&str, &str); 6] = [
    ("#0072B2", "none"),
    ("#A63C00", "8 4"),
    ("#007A5A", "2 3"),
    ("#8F4A78", "10 3 2 3"),
    ("#7A4F00", "5 2"),
    ("#1B1F24", "1 3"),
];

/// The width for names at the right of a wide chart.
const RIGHT: f64 = 230.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 72.0;
const NOTE_HEIGHT: f64 = 18.0;

/// The height for the numbers and the name of the horizontal axis.
const X_LABEL_HEIGHT: f64 = 50.0;

/// The vertical distance between names at the right.
const NAME_HEIGHT: f64 = 17.0;

/// The most points that are drawn with dots.
const N_DOTS_MAX: usize = 40;

/// The extent of the axes, in values and in the picture.
struct Frame {
    x_max: f64,
    x_min: f64,
    y_max: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// The approximate maximum of ticks on the horizontal axis.
    n_ticks_max: f64,
}

impl Frame {
    fn of(chart: &LineChart, layout: Layout, top: f64) -> Self {
        let points = || chart.lines.iter().flat_map(|line| &line.points);
        let x_max = points().map(|point| point.x).fold(f64::NEG_INFINITY, f64::max);
        let x_min = points().map(|point| point.x).fold(f64::INFINITY, f64::min);
        let y_max = if chart.is_share { 1.0 } else { points().map(|point| point.y).fold(0.0, f64::max) };
        let [left, right] = layout.either([76.0, 960.0 - RIGHT], [50.0, 344.0]);
        Self {
            x_min,
            x_max: if x_max > x_min { x_max } else { x_min + 1.0 },
            y_max: nice_above(y_max),
            left,
            right,
            top,
            bottom: top + layout.either(520.0 - BOTTOM - TOP, 220.0),
            n_ticks_max: layout.either(12.0, 6.0),
        }
    }
}

/// Draws the chart as SVG.
pub fn lines(chart: &LineChart) -> String {
    lines_in(chart, Layout::Wide)
}

/// Draws the chart as SVG, for a screen or a phone.
pub(super) fn lines_in(chart: &LineChart, layout: Layout) -> String {
    let mut svg = Svg::default();
    let top = match layout {
        Layout::Wide => {
            svg.text(24.0, 38.0, Anchor::Start, ink(21.0, svg::INK, "ink").bold(), &chart.title);
            svg.text(24.0, 60.0, Anchor::Start, ink(13.0, svg::MUTED, "muted"), &chart.subtitle);
            TOP
        }
        Layout::Narrow => svg.heading(layout, &chart.title, std::slice::from_ref(&chart.subtitle)) + 34.0,
    };
    let frame = Frame::of(chart, layout, top);
    let paper = Paper::new(svg, layout.width(), frame.bottom + BOTTOM);
    draw(&paper, chart, &frame, layout).expect("nothing can fail on paper");
    let mut svg = paper.into_svg();
    let mut y = frame.bottom + BOTTOM - NOTE_HEIGHT;
    if layout == Layout::Narrow {
        y = draw_key(&mut svg, chart, y - 6.0, layout);
    }
    let small = ink(12.0, svg::MUTED, "muted");
    for note in &chart.notes {
        let shown = match layout {
            Layout::Wide => vec![note.clone()],
            Layout::Narrow => text::wrap(note, 0.94 * layout.width() - 2.0 * layout.margin(), small.size, false, 8),
        };
        for line in shown {
            y += NOTE_HEIGHT;
            svg.text(layout.either(24.0, layout.margin()), y, Anchor::Start, small, &line);
        }
    }
    svg.finish(layout.width(), y + NOTE_HEIGHT, &chart.title, &description(chart))
}

/// Writes the lines' names below the plot from `top`, each after a piece of its line. Returns the bottom.
fn draw_key(svg: &mut Svg, chart: &LineChart, top: f64, layout: Layout) -> f64 {
    let (mut y, left) = (top, layout.margin());
    for (index, line) in chart.lines.iter().enumerate() {
        y += 20.0;
        let (colour, dash) = STYLES[index % STYLES.len()];
        let width = if line.is_bold { 3.5 } else { 2.0 };
        let style = format!(r#"fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}""#);
        svg.path("line", &format!("M{} {}h30", number(left), number(y - 4.0)), &style, None);
        let ink = ink(12.5, colour, "line-name");
        let ink = if line.is_bold { ink.bold() } else { ink };
        let room = layout.width() - 2.0 * left - 38.0;
        let shown = text::wrap(&line.name, room, ink.size, line.is_bold, 1).concat();
        svg.text(left + 38.0, y, Anchor::Start, ink, &shown);
    }
    y + 6.0
}

fn draw(paper: &Paper, chart: &LineChart, frame: &Frame, layout: Layout) -> Sketch {
    let root = paper.clone().into_drawing_area();
    let axes = draw_axes(paper, &root, chart, frame, layout)?;
    let plot = axes.plotting_area();
    for (index, line) in chart.lines.iter().enumerate() {
        draw_line(paper, &root, plot, line, index, chart.is_share)?;
    }
    match layout {
        Layout::Wide => draw_names(paper, &root, plot, chart, frame),
        // The names are in a key below the plot.
        Layout::Narrow => Ok(()),
    }
}

fn draw_axes<'a>(paper: &Paper, root: &'a Root, chart: &LineChart, frame: &Frame, layout: Layout) -> Sketch<Axes<'a>> {
    let steps: Vec<f64> = (0..=5).map(|step| frame.y_max * f64::from(step) / 5.0).collect();
    let mut axes = ChartBuilder::on(root)
        .margin_top(units(frame.top))
        .margin_right(units(layout.width() - frame.right))
        .margin_bottom(units(BOTTOM - X_LABEL_HEIGHT))
        .x_label_area_size(units(X_LABEL_HEIGHT))
        .y_label_area_size(units(frame.left))
        .build_cartesian_2d(Scale::new(frame.x_min..frame.x_max, ticks(frame)), Scale::new(0.0..frame.y_max, steps))?;
    paper.take_up(Pen { shape: "ring", ..Pen::default() });
    axes.configure_mesh()
        .disable_x_mesh()
        .axis_style(hidden())
        .bold_line_style(stroke(svg::GRID, 1.0))
        // Labels are at twice this distance from the axes.
        .set_all_tick_mark_size(units(5.0))
        .label_style(lettering(12.0, svg::MUTED, false, HPos::Center))
        .x_label_formatter(&|x| number(*x))
        .y_label_formatter(&|y| if chart.is_share { format!("{:.0}%", y * 100.0) } else { number(*y) })
        .axis_desc_style(lettering(13.0, svg::INK, false, HPos::Center))
        .x_desc(&chart.x_label)
        .draw()?;
    let label = lettering(13.0, svg::INK, false, HPos::Left);
    root.draw_text(&chart.y_label, &label, (units(frame.left - 10.0), units(frame.top - 16.0)))?;
    Ok(axes)
}

/// Returns a few round values on the horizontal axis.
fn ticks(frame: &Frame) -> Vec<f64> {
    let span = frame.x_max - frame.x_min;
    let step = (nice_above(span / frame.n_ticks_max)).max(1.0).round();
    let first = (frame.x_min / step).ceil();
    let n = ((frame.x_max / step).floor() - first) as usize;
    (0..=n).map(|index| (first + index as f64) * step).collect()
}

/// Returns the smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `value`.
pub(super) fn nice_above(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    power * steps.into_iter().find(|step| step * power >= value * (1.0 - 1e-9)).unwrap_or(10.0)
}

fn draw_line(paper: &Paper, root: &Root, plot: &Plot, line: &Line, index: usize, is_share: bool) -> Sketch {
    let (colour, dashes) = STYLES[index % STYLES.len()];
    let places: Vec<(f64, f64)> = line.points.iter().map(|point| (point.x, point.y)).collect();
    if places.len() > 1 {
        let (dashes, tooltip) = (Some(dashes), Some(line.name.clone()));
        paper.take_up(Pen { shape: "line", dashes, tooltip, ..Pen::default() });
        plot.draw(&PathElement::new(places, stroke(colour, if line.is_bold { 3.5 } else { 2.0 })))?;
    }
    if line.points.len() > N_DOTS_MAX {
        return Ok(());
    }
    for point in &line.points {
        if let Some([low, high]) = point.interval {
            paper.take_up(Pen { shape: "line", ..Pen::default() });
            plot.draw(&PathElement::new([(point.x, low), (point.x, high)], stroke(colour, 1.0)))?;
        }
        let value = if is_share { words::percent(Some(point.y)) } else { number(point.y) };
        let tooltip = Some(format!("{} at {}: {value}", line.name, number(point.x)));
        paper.take_up(Pen { shape: "line", rim: Some((svg::BACKGROUND, 1.0)), tooltip, ..Pen::default() });
        let radius = if line.is_bold { 5.0 } else { 3.5 };
        plot.draw(&Circle::new((point.x, point.y), units(radius), fill(colour)))?;
        let (x, y) = plot.map_coordinate(&(point.x, point.y));
        for (position, mark) in point.marks.chars().enumerate() {
            draw_mark(paper, root, (x + units(17.0 * position as f64), y - units(15.0)), mark)?;
        }
    }
    Ok(())
}

/// Draws a warning's letter on a disc.
fn draw_mark(paper: &Paper, root: &Root, place: (i32, i32), mark: char) -> Sketch {
    paper.take_up(Pen { shape: "warning-disc", text: (svg::BACKGROUND, "warning-letter"), ..Pen::default() });
    root.draw(&Circle::new(place, units(8.0), fill(svg::WARNING)))?;
    root.draw_text(&mark.to_string(), &lettering(11.0, svg::BACKGROUND, true, HPos::Center), place)
}

/// Writes the names at the lines' ends, spread so that they do not overlap.
fn draw_names(paper: &Paper, root: &Root, plot: &Plot, chart: &LineChart, frame: &Frame) -> Sketch {
    let end = |line: &Line| line.points.last().map(|point| pixels(plot.map_coordinate(&(point.x, point.y)).1));
    let mut ends: Vec<(f64, usize)> =
        chart.lines.iter().enumerate().filter_map(|(index, line)| Some((end(line)?, index))).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = f64::NEG_INFINITY;
    let floor = frame.bottom + 4.0;
    let overflow = (TOP + NAME_HEIGHT * ends.len() as f64 - floor).max(0.0);
    for (position, (y, index)) in ends.iter().enumerate() {
        // Leaves room for the names below.
        let n_below = (ends.len() - 1 - position) as f64;
        let place = y.min(floor - NAME_HEIGHT * n_below).max(lowest + NAME_HEIGHT).max(TOP - overflow);
        lowest = place;
        let line = &chart.lines[*index];
        let colour = STYLES[*index % STYLES.len()].0;
        let shown = text::wrap(&line.name, RIGHT - 24.0, 13.0, line.is_bold, 1).concat();
        paper.take_up(Pen { text: (colour, "line-name"), ..Pen::default() });
        let style = lettering(13.0, colour, line.is_bold, HPos::Left);
        root.draw_text(&shown, &style, (units(frame.right + 14.0), units(place)))?;
    }
    Ok(())
}

/// Describes the chart in words, for readers who cannot see it.
fn description(chart: &LineChart) -> String {
    let value = |y: f64| if chart.is_share { words::percent(Some(y)) } else { number(y) };
    let mut sentences = vec![format!("{} over {}.", chart.y_label, chart.x_label)];
    for line in &chart.lines {
        let points = &line.points;
        if points.len() > N_DOTS_MAX {
            if let (Some(first), Some(last)) = (points.first(), points.last()) {
                sentences.push(format!("{}: from {} to {}.", line.name, value(first.y), value(last.y)));
            }
            continue;
        }
        let parts: Vec<String> = points
            .iter()
            .map(|point| {
                let marks = if point.marks.is_empty() { String::new() } else { format!(" ({})", point.marks) };
                format!("{}: {}{marks}", number(point.x), value(point.y))
            })
            .collect();
        sentences.push(format!("{}: {}.", line.name, parts.join(", ")));
    }
    sentences.extend(chart.notes.iter().cloned());
    sentences.join(" ")
}

#[cfg(test)]
mod tests;
