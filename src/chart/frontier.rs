//! The frontier: a scatter of one accuracy against another, with intervals in both directions.

use plotters::prelude::{ChartBuilder, Circle, IntoDrawingArea, PathElement};

use super::axes::{Axes, HPos, Paper, Pen, Plot, Root, Scale, Sketch, fill, hidden, lettering, pixels, stroke, units};
use super::geometry::Rect;
use super::layout::Layout;
use super::lines::{STYLES, nice_above};
use super::svg::{self, Anchor, Svg, ink, number};
use super::{text, words};

/// The content of a frontier. All values are fractions; the axes are in percent.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontier {
    /// The heading.
    pub title: String,
    /// The name of the horizontal axis.
    pub x_label: String,
    /// The name of the vertical axis.
    pub y_label: String,
    /// Groups of points, each with its own colour.
    pub series: Vec<FrontierSeries>,
}

/// Points of one colour.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontierSeries {
    /// The name in the key.
    pub name: String,
    /// Whether a line joins the points in their order.
    pub is_joined: bool,
    /// The points.
    pub points: Vec<FrontierPoint>,
}

/// One point.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontierPoint {
    /// What is written next to it, where there is room.
    pub label: String,
    /// The horizontal value.
    pub x: f64,
    /// Its interval.
    pub x_interval: Option<[f64; 2]>,
    /// The vertical value.
    pub y: f64,
    /// Its interval.
    pub y_interval: Option<[f64; 2]>,
    /// Whether it is marked with a ring, as the one that was chosen.
    pub is_marked: bool,
}

impl FrontierPoint {
    fn is_drawable(&self) -> bool {
        self.x.is_finite() && self.y.is_finite()
    }
}

/// The height below the plot for the numbers and the name of the horizontal axis.
const X_LABEL_HEIGHT: f64 = 50.0;

/// The height of a row of the key.
const KEY_HEIGHT: f64 = 22.0;

/// The font size of labels.
const LABEL_SIZE: f64 = 12.0;

/// The extent of the axes, in values and in the picture.
struct Frame {
    x: Range,
    y: Range,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// The ends of an axis, with its ticks.
struct Range {
    ends: [f64; 2],
    ticks: Vec<f64>,
}

impl Range {
    /// Reaches over `values`, with a little room, to about `n_ticks` round ticks.
    fn over(values: impl Iterator<Item = f64>, n_ticks: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let room = (0.06 * (high - low)).max(0.01);
        (low, high) = (low - room, high + room);
        let step = nice_above((high - low) / n_ticks);
        let first = (low / step).ceil();
        let n = ((high / step).floor() - first).max(0.0) as usize;
        let ticks = (0..=n).map(|index| (first + index as f64) * step).collect();
        Self { ends: [low, high], ticks }
    }
}

impl Frame {
    fn of(chart: &Frontier, layout: Layout, top: f64) -> Self {
        let points = || drawable(chart).map(|(_, point)| point);
        let x = points().flat_map(|point| [point.x].into_iter().chain(point.x_interval.into_iter().flatten()));
        let y = points().flat_map(|point| [point.y].into_iter().chain(point.y_interval.into_iter().flatten()));
        let [left, right] = layout.either([76.0, 928.0], [50.0, 344.0]);
        Self {
            x: Range::over(x, layout.either(10.0, 4.0)),
            y: Range::over(y, layout.either(8.0, 6.0)),
            left,
            right,
            top,
            bottom: top + layout.either(400.0, 270.0),
        }
    }
}

/// The points that can be drawn, with the indices of their series.
fn drawable(chart: &Frontier) -> impl Iterator<Item = (usize, &FrontierPoint)> {
    let of_series = chart.series.iter().enumerate();
    let points = of_series.flat_map(|(index, series)| series.points.iter().map(move |point| (index, point)));
    points.filter(|(_, point)| point.is_drawable())
}

/// Draws the chart as SVG.
pub fn frontier(chart: &Frontier) -> String {
    frontier_in(chart, Layout::Wide)
}

/// Draws the chart as SVG, for a screen or a phone.
pub(super) fn frontier_in(chart: &Frontier, layout: Layout) -> String {
    let mut svg = Svg::default();
    let top = svg.heading(layout, &chart.title, &[]) + 44.0;
    let frame = Frame::of(chart, layout, top);
    let height = frame.bottom + X_LABEL_HEIGHT;
    let paper = Paper::new(svg, layout.width(), height);
    draw(&paper, chart, &frame, layout).expect("nothing can fail on paper");
    let mut svg = paper.into_svg();
    let bottom = draw_key(&mut svg, chart, height + 6.0, layout);
    svg.finish(layout.width(), bottom + 14.0, &chart.title, &description(chart))
}

fn draw(paper: &Paper, chart: &Frontier, frame: &Frame, layout: Layout) -> Sketch {
    let root = paper.clone().into_drawing_area();
    let axes = draw_axes(paper, &root, chart, frame, layout)?;
    let plot = axes.plotting_area();
    for (index, series) in chart.series.iter().enumerate() {
        draw_joining_line(paper, plot, series, index)?;
    }
    for (index, point) in drawable(chart) {
        draw_intervals(paper, plot, point, index)?;
    }
    for (index, point) in drawable(chart) {
        draw_point(paper, plot, point, &chart.series[index].name, index)?;
    }
    draw_labels(paper, &root, plot, chart, frame)
}

fn draw_axes<'a>(paper: &Paper, root: &'a Root, chart: &Frontier, frame: &Frame, layout: Layout) -> Sketch<Axes<'a>> {
    let scale = |range: &Range| Scale::new(range.ends[0]..range.ends[1], range.ticks.clone());
    let mut axes = ChartBuilder::on(root)
        .margin_top(units(frame.top))
        .margin_right(units(layout.width() - frame.right))
        .x_label_area_size(units(X_LABEL_HEIGHT))
        .y_label_area_size(units(frame.left))
        .build_cartesian_2d(scale(&frame.x), scale(&frame.y))?;
    paper.take_up(Pen { shape: "ring", ..Pen::default() });
    let (x_step, y_step) = (step(&frame.x), step(&frame.y));
    let x_label = text::wrap(&words::printable(&chart.x_label), frame.right - frame.left, 13.0, false, 1).concat();
    axes.configure_mesh()
        .axis_style(hidden())
        .bold_line_style(stroke(svg::GRID, 1.0))
        // Labels are at twice this distance from the axes.
        .set_all_tick_mark_size(units(5.0))
        .label_style(lettering(12.0, svg::MUTED, false, HPos::Center))
        .x_label_formatter(&|x| tick_label(*x, x_step))
        .y_label_formatter(&|y| tick_label(*y, y_step))
        .axis_desc_style(lettering(13.0, svg::INK, false, HPos::Center))
        .x_desc(&x_label)
        .draw()?;
    let label = lettering(13.0, svg::INK, false, HPos::Left);
    let left = layout.either(frame.left - 10.0, layout.margin());
    let shown = text::wrap(&words::printable(&chart.y_label), frame.right - left, 13.0, false, 1).concat();
    root.draw_text(&shown, &label, (units(left), units(frame.top - 16.0)))?;
    Ok(axes)
}

fn step(range: &Range) -> f64 {
    match range.ticks[..] {
        [first, second, ..] => second - first,
        _ => range.ends[1] - range.ends[0],
    }
}

/// Writes a fraction in percent, with a decimal if the ticks are that dense.
fn tick_label(value: f64, step: f64) -> String {
    let decimals = if step * 100.0 < 0.999 { 1 } else { 0 };
    let text = format!("{:.decimals$}%", value * 100.0);
    // A number that rounds to zero has no sign.
    text.replace("-0%", "0%").replace("-0.0%", "0.0%").replace('-', "−")
}

fn draw_joining_line(paper: &Paper, plot: &Plot, series: &FrontierSeries, index: usize) -> Sketch {
    let (colour, dashes) = STYLES[index % STYLES.len()];
    let points = series.points.iter().filter(|point| point.is_drawable());
    let places: Vec<(f64, f64)> = points.map(|point| (point.x, point.y)).collect();
    if !series.is_joined || places.len() < 2 {
        return Ok(());
    }
    let tooltip = Some(series.name.clone());
    paper.take_up(Pen { shape: "line", dashes: Some(dashes), tooltip, ..Pen::default() });
    plot.draw(&PathElement::new(places, stroke(colour, 1.5)))
}

fn draw_intervals(paper: &Paper, plot: &Plot, point: &FrontierPoint, index: usize) -> Sketch {
    let width = if point.is_marked { 1.6 } else { 0.7 };
    let style = stroke(STYLES[index % STYLES.len()].0, width);
    paper.take_up(Pen { shape: "line", ..Pen::default() });
    if let Some([low, high]) = point.x_interval.filter(|ends| ends.iter().all(|end| end.is_finite())) {
        plot.draw(&PathElement::new([(low, point.y), (high, point.y)], style))?;
    }
    if let Some([low, high]) = point.y_interval.filter(|ends| ends.iter().all(|end| end.is_finite())) {
        plot.draw(&PathElement::new([(point.x, low), (point.x, high)], style))?;
    }
    Ok(())
}

fn draw_point(paper: &Paper, plot: &Plot, point: &FrontierPoint, series: &str, index: usize) -> Sketch {
    let colour = STYLES[index % STYLES.len()].0;
    let tooltip = Some(format!("{series}: {}", in_words(point)));
    paper.take_up(Pen { shape: "line", rim: Some((svg::BACKGROUND, 1.0)), tooltip, ..Pen::default() });
    plot.draw(&Circle::new((point.x, point.y), units(4.5), fill(colour)))?;
    if point.is_marked {
        paper.take_up(Pen { shape: "line", ..Pen::default() });
        plot.draw(&Circle::new((point.x, point.y), units(9.0), stroke(colour, 2.0)))?;
    }
    Ok(())
}

/// Writes labels next to their points, marked points first. A label that would cover another one or a point is left out;
/// the point's tooltip has it.
fn draw_labels(paper: &Paper, root: &Root, plot: &Plot, chart: &Frontier, frame: &Frame) -> Sketch {
    let place = |point: &FrontierPoint| {
        let (x, y) = plot.map_coordinate(&(point.x, point.y));
        (pixels(x), pixels(y))
    };
    let mut points: Vec<(usize, &FrontierPoint)> = drawable(chart).collect();
    points.sort_by_key(|(_, point)| !point.is_marked);
    let mut taken: Vec<Rect> = points
        .iter()
        .map(|(_, point)| {
            let (x, y) = place(point);
            let size = if point.is_marked { 18.0 } else { 9.0 };
            Rect::centred(x, y, size, size)
        })
        .collect();
    for (index, point) in points {
        let width = text::width(&point.label, LABEL_SIZE, point.is_marked);
        let (x, y) = place(point);
        let gap = if point.is_marked { 13.0 } else { 8.0 };
        let beside = gap + width / 2.0;
        let offsets =
            [(beside, -9.0), (-beside, -9.0), (beside, 9.0), (-beside, 9.0), (0.0, -gap - 8.0), (0.0, gap + 8.0)];
        let boxes = offsets.map(|(dx, dy)| Rect::centred(x + dx, y + dy, width, LABEL_SIZE));
        let is_free = |spot: &&Rect| {
            let is_inside = spot.x0 >= frame.left && spot.x1 <= frame.right && spot.y0 >= frame.top - 6.0;
            is_inside && spot.y1 <= frame.bottom && !taken.iter().any(|other| other.overlaps(spot))
        };
        let Some(&spot) = boxes.iter().find(is_free) else { continue };
        let colour = STYLES[index % STYLES.len()].0;
        paper.take_up(Pen { text: (colour, "line-name"), ..Pen::default() });
        let style = lettering(LABEL_SIZE, colour, point.is_marked, HPos::Center);
        let middle = (units((spot.x0 + spot.x1) / 2.0), units((spot.y0 + spot.y1) / 2.0));
        root.draw_text(&point.label, &style, middle)?;
        taken.push(spot);
    }
    Ok(())
}

/// Writes the names of the series below the plot from `top`, each after its dot. Returns the bottom.
fn draw_key(svg: &mut Svg, chart: &Frontier, top: f64, layout: Layout) -> f64 {
    let (mut y, left) = (top, layout.margin());
    for (index, series) in chart.series.iter().enumerate() {
        y += KEY_HEIGHT;
        let (colour, dash) = STYLES[index % STYLES.len()];
        let middle = number(y - 4.0);
        if series.is_joined {
            let style = format!(r#"fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}""#);
            svg.path("line", &format!("M{} {middle}h30", number(left)), &style, None);
        }
        let centre = number(left + 15.0);
        svg.raw(&format!(r#"<circle class="line" cx="{centre}" cy="{middle}" r="4.5" fill="{colour}"/>"#));
        let style = ink(12.5, colour, "line-name");
        let room = layout.width() - 2.0 * left - 38.0;
        let shown = text::wrap(&words::printable(&series.name), room, style.size, false, 1).concat();
        svg.text(left + 38.0, y, Anchor::Start, style, &shown);
    }
    y
}

/// Describes a point in words.
fn in_words(point: &FrontierPoint) -> String {
    let value = |value: f64, interval: Option<[f64; 2]>| match interval {
        Some(ends) => format!("{} (95% interval {})", words::percent(Some(value)), words::interval(Some(ends))),
        None => words::percent(Some(value)),
    };
    let mark = if point.is_marked { " (marked)" } else { "" };
    format!("{}{mark}: {}, {}", point.label, value(point.x, point.x_interval), value(point.y, point.y_interval))
}

/// Describes the chart in words, for readers who cannot see it.
fn description(chart: &Frontier) -> String {
    let mut sentences = vec![format!("{} (second) against {} (first).", chart.y_label, chart.x_label)];
    for series in &chart.series {
        let points: Vec<String> = series.points.iter().filter(|point| point.is_drawable()).map(in_words).collect();
        sentences.push(format!("{}: {}.", series.name, points.join("; ")));
    }
    sentences.join(" ")
}

#[cfg(test)]
mod tests;
