//! The forest plot: one dot with its interval per row, on one scale with zero and the margin.

use plotters::prelude::{ChartBuilder, IntoDrawingArea, PathElement, Polygon};

use super::axes::{Axes, HPos, Paper, Pen, Plot, Root, Scale, Sketch, fill, hidden, lettering, pixels, stroke, units};
use super::layout::Layout;
use super::svg::{self, Anchor, Svg, ink, number};
use super::{text, words};
use crate::compare::Interval;

/// The content of a forest plot.
#[derive(Clone, Debug, PartialEq)]
pub struct ForestChart {
    /// The heading.
    pub title: String,
    /// Lines of small print below it.
    pub subtitle: Vec<String>,
    /// Groups of rows.
    pub groups: Vec<ForestGroup>,
    /// The largest acceptable fall, drawn as a dashed line.
    pub margin: Option<f64>,
}

/// Rows under a common name.
#[derive(Clone, Debug, PartialEq)]
pub struct ForestGroup {
    /// The common name; not written if empty.
    pub name: String,
    /// The rows, from the top.
    pub rows: Vec<ForestRow>,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct ForestRow {
    /// Its name.
    pub name: String,
    /// Baseline minus candidate accuracy; `None` is written in words.
    pub fall: Option<f64>,
    /// Its interval.
    pub interval: Option<Interval>,
    /// A note for the reader, such as `tuned on`.
    pub remark: Option<String>,
}

const GROUP: f64 = 34.0;
/// The height below the rows: axis, labels and legend.
const FOOT: f64 = 90.0;
/// The part of [`FOOT`] for the axis numbers and the axis name.
const X_LABEL_HEIGHT: f64 = 58.0;

impl Layout {
    /// The left and right end of the plot: between names and values, or below them.
    fn plot(self) -> [f64; 2] {
        self.either([250.0, 960.0 - 190.0], [20.0, 340.0])
    }

    /// The height of a row, and the offset of its dot.
    fn row(self) -> (f64, f64) {
        self.either((30.0, 15.0), (50.0, 33.0))
    }
}

/// What an interval shows about the sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All of it is above zero.
    Fall,
    /// All of it is below zero.
    Rise,
    /// It contains zero.
    Neither,
}

/// Returns what `interval` shows.
pub fn shown(interval: Option<Interval>) -> Shown {
    match interval {
        Some([low, _]) if low > 0.0 => Shown::Fall,
        Some([_, high]) if high < 0.0 => Shown::Rise,
        _ => Shown::Neither,
    }
}

/// The values that the axis spans, as fractions.
struct Frame {
    layout: Layout,
    low: f64,
    high: f64,
    step: f64,
}

impl Frame {
    fn of(chart: &ForestChart, layout: Layout) -> Self {
        let rows = || chart.groups.iter().flat_map(|group| &group.rows);
        let values = rows().flat_map(|row| row.interval.into_iter().flatten().chain(row.fall)).chain(chart.margin);
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let low = values.iter().copied().fold(0.0, f64::min);
        let high = values.iter().copied().fold(0.02, f64::max);
        let step = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5];
        let step = step.into_iter().find(|step| (high - low) / step <= layout.either(9.0, 6.0)).unwrap_or(0.5);
        // Padding, so that no whisker touches the frame.
        let air = (high - low) * 0.03;
        Self { layout, low: low - air, high: high + air, step }
    }

    fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step).ceil() as i64;
        let last = (self.high / self.step).floor() as i64;
        (first..=last).map(|index| index as f64 * self.step).collect()
    }
}

/// The top and bottom of the rows, in pixels.
#[derive(Clone, Copy)]
struct Rows {
    top: f64,
    bottom: f64,
}

/// Draws the plot as SVG.
pub fn forest(chart: &ForestChart) -> String {
    forest_in(chart, Layout::Wide)
}

/// Draws the plot as SVG, for a screen or a phone.
pub(super) fn forest_in(chart: &ForestChart, layout: Layout) -> String {
    let frame = Frame::of(chart, layout);
    let (margin, row_height) = (layout.margin(), layout.row().0);
    let mut svg = Svg::default();
    let top = svg.heading(layout, &chart.title, &chart.subtitle) + 34.0;
    let n_rows: usize = chart.groups.iter().map(|group| group.rows.len()).sum();
    let n_heads = chart.groups.iter().filter(|group| !group.name.is_empty()).count();
    let bottom = top + row_height * n_rows as f64 + GROUP * n_heads as f64;
    let paper = Paper::new(svg, layout.width(), bottom + FOOT);
    draw(&paper, chart, &frame, Rows { top, bottom }).expect("nothing can fail on paper");
    let mut svg = paper.into_svg();
    let mut y = top;
    for group in &chart.groups {
        if !group.name.is_empty() {
            let room = layout.either(layout.plot()[0], layout.width()) - margin - 16.0;
            let name = text::wrap(&words::printable(&group.name), room, 14.0, true, 1).concat();
            let style = ink(14.0, svg::INK, "ink").bold();
            let style = layout.either(style, style.halo());
            svg.text(margin, y + 23.0, Anchor::Start, style, &name);
            y += GROUP;
        }
        for row in &group.rows {
            write_row(&mut svg, row, layout, y, !group.name.is_empty());
            y += row_height;
        }
    }
    let legend = "Filled: the 95% interval lies on one side of zero. Hollow: zero lies in it.";
    let mut y = bottom + 72.0;
    for line in text::wrap(legend, layout.width() - 2.0 * margin, 12.0, false, 4) {
        svg.text(margin, y, Anchor::Start, ink(12.0, svg::MUTED, "muted"), &line);
        y += 17.0;
    }
    svg.finish(layout.width(), y + 1.0, &chart.title, &description(chart))
}

/// Draws everything except the words of the rows.
fn draw(paper: &Paper, chart: &ForestChart, frame: &Frame, rows: Rows) -> Sketch {
    let root = paper.clone().into_drawing_area();
    let axes = draw_axes(paper, &root, frame, rows)?;
    let plot = axes.plotting_area();
    draw_lines(paper, &root, plot, (chart, frame), rows)?;
    let (row_height, to_dot) = frame.layout.row();
    let mut y = rows.top;
    for group in &chart.groups {
        y += if group.name.is_empty() { 0.0 } else { GROUP };
        for row in &group.rows {
            draw_row(paper, &root, plot, row, y + to_dot)?;
            y += row_height;
        }
    }
    Ok(())
}

/// Draws the axes. The horizontal one is the fall; the vertical one counts pixels from the top of the sheet.
fn draw_axes<'a>(paper: &Paper, root: &'a Root, frame: &Frame, rows: Rows) -> Sketch<Axes<'a>> {
    let [left, right] = frame.layout.plot();
    let mut axes = ChartBuilder::on(root)
        .margin_top(units(rows.top))
        .margin_right(units(frame.layout.width() - right))
        .margin_bottom(units(FOOT - X_LABEL_HEIGHT))
        .x_label_area_size(units(X_LABEL_HEIGHT))
        .y_label_area_size(units(left))
        .build_cartesian_2d(
            Scale::new(frame.low..frame.high, frame.ticks()),
            Scale::new(rows.bottom..rows.top, Vec::new()),
        )?;
    paper.take_up(Pen { shape: "ring", ..Pen::default() });
    axes.configure_mesh()
        .disable_y_mesh()
        .axis_style(hidden())
        .bold_line_style(stroke(svg::GRID, 1.0))
        // Labels are at twice this distance from the axes.
        .set_all_tick_mark_size(units(5.0))
        .label_style(lettering(12.0, svg::MUTED, false, HPos::Center))
        // A true minus sign is as wide as the plus, which is omitted.
        .x_label_formatter(&|fall| number(fall * 100.0).replace('-', "−"))
        .axis_desc_style(lettering(13.0, svg::INK, false, HPos::Center))
        .x_desc("fall of accuracy, percentage points")
        .draw()?;
    Ok(axes)
}

/// Draws the lines at zero and the margin.
fn draw_lines(
    paper: &Paper,
    root: &Root,
    plot: &Plot,
    (chart, frame): (&ForestChart, &Frame),
    Rows { top, bottom }: Rows,
) -> Sketch {
    // The lines start slightly above the plot.
    let upright = |value: f64| {
        let (x, bottom) = plot.map_coordinate(&(value, bottom));
        [(x, units(top - 6.0)), (x, bottom)]
    };
    paper.take_up(Pen { shape: "whisker", ..Pen::default() });
    root.draw(&PathElement::new(upright(0.0), stroke(svg::INK, 1.4)))?;
    let zero = pixels(plot.map_coordinate(&(0.0, bottom)).0);
    let [left, right] = frame.layout.plot();
    let beside = |words: &str, x: f64, anchor| {
        root.draw_text(words, &lettering(12.0, svg::MUTED, false, anchor), (units(x), units(top - 16.0)))
    };
    if zero - left > 60.0 {
        beside("← rose", zero - 8.0, HPos::Right)?;
    }
    if right - zero > 60.0 {
        beside("fell →", zero + 8.0, HPos::Left)?;
    }
    let Some(margin) = chart.margin else { return Ok(()) };
    let tooltip = Some(format!("margin {} points", words::percent_number(Some(margin))));
    paper.take_up(Pen { shape: "margin", dashes: Some("6 4"), tooltip, ..Pen::default() });
    root.draw(&PathElement::new(upright(margin), stroke(svg::WARNING, 1.6)))?;
    let label = format!("margin {}", number(margin * 100.0));
    // The label must not extend beyond the picture's edge.
    let half = text::width(&label, 12.0, true) / 2.0 + 2.0;
    let x = pixels(plot.map_coordinate(&(margin, bottom)).0).clamp(half, frame.layout.width() - half);
    let style = lettering(12.0, svg::WARNING, true, HPos::Center);
    root.draw_text(&label, &style, (units(x), units(bottom + 32.0)))
}

/// Draws the dot and the whisker of a row at `y`.
fn draw_row(paper: &Paper, root: &Root, plot: &Plot, row: &ForestRow, y: f64) -> Sketch {
    let Some(fall) = row.fall.filter(|fall| fall.is_finite()) else { return Ok(()) };
    if let Some([low, high]) = row.interval {
        paper.take_up(Pen { shape: "whisker", ..Pen::default() });
        for line in [[(low, y), (high, y)], [(low, y - 5.0), (low, y + 5.0)], [(high, y - 5.0), (high, y + 5.0)]] {
            plot.draw(&PathElement::new(line, stroke(svg::INK, 1.6)))?;
        }
    }
    // A fall is a square, and a rise is a triangle that points towards it: they differ without colour.
    let (class, colour, corners) = match shown(row.interval) {
        Shown::Fall => ("dot fell", svg::WARNING, &SQUARE[..]),
        Shown::Rise => ("dot rose-up", svg::MODEL_FILL, &TRIANGLE[..]),
        Shown::Neither => ("dot open", svg::BACKGROUND, &DIAMOND[..]),
    };
    let tooltip = Some(format!("{}: {}", named(row), value(row)));
    paper.take_up(Pen { shape: class, rim: Some((svg::INK, 1.5)), tooltip, ..Pen::default() });
    let (x, y) = plot.map_coordinate(&(fall, y));
    let corners: Vec<(i32, i32)> = corners.iter().map(|(dx, dy)| (x + units(*dx), y + units(*dy))).collect();
    root.draw(&Polygon::new(corners, fill(colour)))
}

/// Corners of the dots, in pixels from their centre.
const SQUARE: [(f64, f64); 4] = [(-5.0, -5.0), (5.0, -5.0), (5.0, 5.0), (-5.0, 5.0)];
const TRIANGLE: [(f64, f64); 3] = [(-6.5, 0.0), (4.5, -6.5), (4.5, 6.5)];
const DIAMOND: [(f64, f64); 4] = [(0.0, -6.5), (6.5, 0.0), (0.0, 6.5), (-6.5, 0.0)];

/// Writes the name and the value of a row whose top is at `top`.
fn write_row(svg: &mut Svg, row: &ForestRow, layout: Layout, top: f64, is_indented: bool) {
    let margin = layout.margin();
    // Grid lines cross the words in a narrow chart.
    let words_ink = |size: f64, fill: &'static str, class: &'static str| {
        let style = ink(size, fill, class);
        layout.either(style, style.halo())
    };
    let baseline = layout.either(top + layout.row().1 + 4.5, top + 17.0);
    let start = if is_indented { margin + 14.0 } else { margin };
    let value = value(row);
    let of_value = text::width(&value, 13.0, false);
    let room = layout.either(layout.plot()[0] - start - 16.0, layout.width() - margin - start - of_value - 10.0);
    let name = text::wrap(&named(row), room, 13.5, false, 1).concat();
    svg.text(start, baseline, Anchor::Start, words_ink(13.5, svg::INK, "ink"), &name);
    let end = layout.width() - margin;
    if row.fall.is_some_and(f64::is_finite) {
        svg.text(end, baseline, Anchor::End, words_ink(13.0, svg::INK, "ink"), &value);
    } else {
        // No grid line crosses the words next to the plot.
        svg.text(end, baseline, Anchor::End, words_ink(12.5, svg::WARNING, "warning"), "no scored pairs");
    }
}

/// Returns text such as `cifar10 (tuned on)`.
fn named(row: &ForestRow) -> String {
    let remark = row.remark.as_ref().map(|remark| format!(" ({remark})")).unwrap_or_default();
    format!("{}{remark}", words::printable(&row.name))
}

/// Returns text such as `12.3 (10.1–14.5)`, with true minus signs.
fn value(row: &ForestRow) -> String {
    words::points(row.fall, row.interval)
}

/// Describes the plot in words, for readers who cannot see it.
fn description(chart: &ForestChart) -> String {
    let mut sentences = vec!["Fall of accuracy in percentage points, with 95% intervals.".to_owned()];
    sentences.extend(chart.margin.map(|margin| format!("Margin {}.", words::percent_number(Some(margin)))));
    for group in &chart.groups {
        let rows: Vec<String> = group.rows.iter().map(|row| format!("{} {}", row.name, value(row))).collect();
        let name = if group.name.is_empty() { String::new() } else { format!("{}: ", group.name) };
        sentences.push(format!("{name}{}.", rows.join(", ")));
    }
    sentences.join(" ")
}

#[cfg(test)]
mod tests;
