//! The bar chart: horizontal bars with intervals, one row per cause or part, on one scale in percent.

use plotters::prelude::{ChartBuilder, IntoDrawingArea, PathElement, Polygon, Rectangle};

use super::axes::{Axes, HPos, Paper, Pen, Plot, Root, Scale, Sketch, fill, hidden, lettering, stroke, units};
use super::layout::Layout;
use super::svg::{self, Anchor, Svg, ink, number};
use super::{text, words};
use crate::compare::Interval;

/// The content of a bar chart.
#[derive(Clone, Debug, PartialEq)]
pub struct BarChart {
    /// The heading.
    pub title: String,
    /// Lines of small print below it.
    pub subtitle: Vec<String>,
    /// Groups of rows.
    pub groups: Vec<BarGroup>,
    /// The name of the horizontal axis.
    pub x_label: String,
    /// Values with a strong line, such as 0 and 1.
    pub lines: Vec<f64>,
    /// What each look of a bar means; empty if there is only one.
    pub key: Vec<(BarLook, String)>,
    /// What the diamond of a row means, if rows have one.
    pub diamond: Option<String>,
}

/// Rows under a common name.
#[derive(Clone, Debug, PartialEq)]
pub struct BarGroup {
    /// The common name; not written if empty.
    pub name: String,
    /// The rows, from the top.
    pub rows: Vec<BarRow>,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct BarRow {
    /// Its name.
    pub name: String,
    /// Its bars, from the top.
    pub bars: Vec<Bar>,
    /// A further value, drawn as a diamond.
    pub diamond: Option<f64>,
}

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Its look.
    pub look: BarLook,
    /// Its value, a fraction.
    pub value: f64,
    /// Its interval.
    pub interval: Option<Interval>,
}

/// The look of a bar: that of the model before or after, as in a rose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarLook {
    /// The pale fill of the model before.
    Before,
    /// The full fill of the model after.
    After,
}

impl BarLook {
    /// The class and the fill.
    fn paint(self) -> (&'static str, &'static str) {
        match self {
            Self::Before => ("before", svg::BEFORE_FILL),
            Self::After => ("model", svg::MODEL_FILL),
        }
    }
}

/// The height of a group's name.
const GROUP: f64 = 34.0;
/// The height of a bar, and the distance from one bar of a row to the next.
const BAR: f64 = 12.0;
const BAR_STEP: f64 = 16.0;
/// The empty height below the bars of a row.
const ROW_GAP: f64 = 13.0;
/// The height for the numbers and the name of the axis.
const X_LABEL_HEIGHT: f64 = 46.0;
/// The size of the words of the key.
const KEY_SIZE: f64 = 12.5;
/// The axis is never longer than this; what lies beyond is marked at its end.
const LIMITS: [f64; 2] = [-0.25, 1.25];
const BEYOND: &str = "A triangle at an end of the axis: the value or its interval goes on beyond it.";

/// The shape of the sheet.
struct Frame {
    layout: Layout,
    low: f64,
    high: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn of(chart: &BarChart, layout: Layout, top: f64) -> Self {
        let values = chart.values().collect::<Vec<f64>>();
        // 100% belongs to the picture even if nothing comes near it.
        let low = if values.iter().any(|&value| value < 0.0) { LIMITS[0] } else { 0.0 };
        let high = if values.iter().any(|&value| value > 1.0) { LIMITS[1] } else { 1.0 };
        let heads = chart.groups.iter().filter(|group| !group.name.is_empty()).count();
        let rows: f64 = chart.groups.iter().flat_map(|group| &group.rows).map(|row| row_height(row, layout)).sum();
        Self { layout, low, high, top, bottom: top + GROUP * heads as f64 + rows }
    }

    /// The left and right end of the plot: between names and values, or below them.
    fn plot(&self) -> [f64; 2] {
        self.layout.either([220.0, 960.0 - 190.0], [22.0, 338.0])
    }

    fn clipped(&self, value: f64) -> f64 {
        value.clamp(self.low, self.high)
    }

    fn ticks(&self) -> Vec<f64> {
        (-1..=5).map(|quarter| f64::from(quarter) * 0.25).filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

/// The height of the words above the bars of a row.
fn row_head(layout: Layout) -> f64 {
    layout.either(0.0, 20.0)
}

fn row_height(row: &BarRow, layout: Layout) -> f64 {
    row_head(layout) + BAR_STEP * row.bars.len().max(1) as f64 + ROW_GAP
}

/// The middle of the bar at `index` of a row whose top is at `top`.
fn middle_of(index: usize, top: f64, layout: Layout) -> f64 {
    top + row_head(layout) + BAR_STEP * index as f64 + (BAR_STEP + ROW_GAP) / 2.0
}

/// Draws the chart as SVG.
pub fn bars(chart: &BarChart) -> String {
    bars_in(chart, Layout::Wide)
}

/// Draws the chart as SVG, for a screen or a phone.
pub(super) fn bars_in(chart: &BarChart, layout: Layout) -> String {
    let mut svg = Svg::default();
    let top = svg.heading(layout, &chart.title, &chart.subtitle) + 22.0;
    let frame = Frame::of(chart, layout, top);
    let paper = Paper::new(svg, layout.width(), frame.bottom + X_LABEL_HEIGHT);
    draw(&paper, chart, &frame).expect("nothing can fail on paper");
    let mut svg = paper.into_svg();
    let mut y = top;
    for group in &chart.groups {
        if !group.name.is_empty() {
            let room = layout.width() - 2.0 * layout.margin();
            let name = text::wrap(&words::printable(&group.name), room, 14.0, true, 1).concat();
            svg.text(layout.margin(), y + 23.0, Anchor::Start, ink(14.0, svg::INK, "ink").bold().halo(), &name);
            y += GROUP;
        }
        for row in &group.rows {
            write_row(&mut svg, row, &frame, y, !group.name.is_empty());
            y += row_height(row, layout);
        }
    }
    let bottom = draw_key(&mut svg, chart, &frame);
    svg.finish(layout.width(), bottom + 16.0, &chart.title, &description(chart))
}

/// Draws everything except words.
fn draw(paper: &Paper, chart: &BarChart, frame: &Frame) -> Sketch {
    let root = paper.clone().into_drawing_area();
    let axes = draw_axes(paper, &root, chart, frame)?;
    let plot = axes.plotting_area();
    let sheet = (paper, &root, plot);
    if frame.layout == Layout::Wide {
        draw_lines(sheet, chart, [frame.top, frame.bottom])?;
    }
    let mut y = frame.top;
    for group in &chart.groups {
        y += if group.name.is_empty() { 0.0 } else { GROUP };
        for row in &group.rows {
            if frame.layout == Layout::Narrow {
                // The words above the bars stay free of strong lines.
                draw_lines(sheet, chart, [y + row_head(frame.layout) + 4.0, y + row_height(row, frame.layout)])?;
            }
            for (index, bar) in row.bars.iter().enumerate() {
                draw_bar(sheet, frame, (&row.name, bar), middle_of(index, y, frame.layout))?;
            }
            let last = middle_of(row.bars.len().saturating_sub(1), y, frame.layout);
            let middle = f64::midpoint(middle_of(0, y, frame.layout), last);
            if let Some(value) = row.diamond {
                draw_diamond(sheet, frame, (chart, row, value), middle)?;
            }
            y += row_height(row, frame.layout);
        }
    }
    Ok(())
}

/// Draws the axes. The horizontal one is the value; the vertical one counts pixels from the top of the sheet.
fn draw_axes<'a>(paper: &Paper, root: &'a Root, chart: &BarChart, frame: &Frame) -> Sketch<Axes<'a>> {
    let [left, right] = frame.plot();
    // Padding, so that no mark touches the frame.
    let air = (frame.high - frame.low) * 0.02;
    let mut axes = ChartBuilder::on(root)
        .margin_top(units(frame.top))
        .margin_right(units(frame.layout.width() - right))
        .x_label_area_size(units(X_LABEL_HEIGHT))
        .y_label_area_size(units(left))
        .build_cartesian_2d(
            Scale::new(frame.low - air..frame.high + air, frame.ticks()),
            Scale::new(frame.bottom..frame.top, Vec::new()),
        )?;
    paper.take_up(Pen { shape: "ring", ..Pen::default() });
    axes.configure_mesh()
        .disable_y_mesh()
        .axis_style(hidden())
        .bold_line_style(stroke(svg::GRID, 1.0))
        // Labels are at twice this distance from the axes.
        .set_all_tick_mark_size(units(5.0))
        .label_style(lettering(12.0, svg::MUTED, false, HPos::Center))
        .x_label_formatter(&|share| format!("{}%", words::decimal(Some(share * 100.0), 0)))
        .axis_desc_style(lettering(13.0, svg::INK, false, HPos::Center))
        .x_desc(&chart.x_label)
        .draw()?;
    Ok(axes)
}

/// What a mark is drawn on.
type Sheet<'a> = (&'a Paper, &'a Root, &'a Plot);

/// Draws the strong upright lines.
fn draw_lines((paper, _, plot): Sheet<'_>, chart: &BarChart, [top, bottom]: [f64; 2]) -> Sketch {
    for &line in &chart.lines {
        paper.take_up(Pen { shape: "whisker", ..Pen::default() });
        plot.draw(&PathElement::new([(line, top), (line, bottom)], stroke(svg::INK, 1.4)))?;
    }
    Ok(())
}

/// Draws a bar and its whisker, with triangles where they go on beyond the axis.
fn draw_bar(sheet: Sheet<'_>, frame: &Frame, (name, bar): (&str, &Bar), y: f64) -> Sketch {
    let (paper, _, plot) = sheet;
    let (class, colour) = bar.look.paint();
    let tooltip = Some(format!("{name}: {}", value(bar)));
    paper.take_up(Pen { shape: class, rim: Some((svg::MODEL_INK, 1.0)), tooltip, ..Pen::default() });
    let corners = [(0.0, y - BAR / 2.0), (frame.clipped(bar.value), y + BAR / 2.0)];
    plot.draw(&Rectangle::new(corners, fill(colour)))?;
    if let Some([low, high]) = bar.interval {
        paper.take_up(Pen { shape: "whisker", ..Pen::default() });
        plot.draw(&PathElement::new([(frame.clipped(low), y), (frame.clipped(high), y)], stroke(svg::INK, 1.6)))?;
        for end in [low, high].into_iter().filter(|end| frame.clipped(*end) == *end) {
            plot.draw(&PathElement::new([(end, y - 4.0), (end, y + 4.0)], stroke(svg::INK, 1.6)))?;
        }
    }
    draw_beyond(sheet, frame, bar.interval.into_iter().flatten().chain([bar.value]), y)
}

/// Draws a triangle at each end of the axis that one of `values` lies beyond.
fn draw_beyond((paper, root, plot): Sheet<'_>, frame: &Frame, values: impl Iterator<Item = f64>, y: f64) -> Sketch {
    let values: Vec<f64> = values.collect();
    let ends = [(frame.low, -1.0), (frame.high, 1.0)];
    for (end, outwards) in ends.into_iter().filter(|(end, to)| values.iter().any(|value| (value - end) * to > 0.0)) {
        paper.take_up(Pen { shape: "dot open", rim: Some((svg::INK, 1.3)), ..Pen::default() });
        let (x, y) = plot.map_coordinate(&(end, y));
        let corner = |dx: f64, dy: f64| (x + units(outwards * dx), y + units(dy));
        let corners = vec![corner(8.0, 0.0), corner(0.0, -5.0), corner(0.0, 5.0)];
        root.draw(&Polygon::new(corners, fill(svg::BACKGROUND)))?;
    }
    Ok(())
}

/// Draws the diamond of a row.
fn draw_diamond(sheet: Sheet<'_>, frame: &Frame, (chart, row, value): (&BarChart, &BarRow, f64), y: f64) -> Sketch {
    let (paper, root, plot) = sheet;
    let what = chart.diamond.as_deref().unwrap_or_default();
    let tooltip = Some(format!("{}, {what}: {}", row.name, words::points(Some(value), None)));
    paper.take_up(Pen { shape: "dot open", rim: Some((svg::INK, 1.5)), tooltip, ..Pen::default() });
    let (x, middle) = plot.map_coordinate(&(frame.clipped(value), y));
    let corners = DIAMOND.iter().map(|(dx, dy)| (x + units(*dx), middle + units(*dy))).collect::<Vec<_>>();
    root.draw(&Polygon::new(corners, fill(svg::BACKGROUND)))?;
    draw_beyond(sheet, frame, std::iter::once(value), y)
}

/// Corners of a diamond, in pixels from its centre.
const DIAMOND: [(f64, f64); 4] = [(0.0, -6.5), (6.0, 0.0), (0.0, 6.5), (-6.0, 0.0)];

/// Writes the name and the values of a row whose top is at `top`.
fn write_row(svg: &mut Svg, row: &BarRow, frame: &Frame, top: f64, is_indented: bool) {
    let layout = frame.layout;
    let start = layout.margin() + if is_indented { layout.either(14.0, 6.0) } else { 0.0 };
    let end = layout.width() - layout.margin();
    // Grid lines cross the words in a narrow chart.
    let style = |size: f64| layout.either(ink(size, svg::INK, "ink"), ink(size, svg::INK, "ink").halo());
    let values: Vec<String> = row.bars.iter().map(value).collect();
    match layout {
        Layout::Wide => {
            let last = middle_of(row.bars.len().saturating_sub(1), top, layout);
            let middle = f64::midpoint(middle_of(0, top, layout), last);
            let name =
                text::wrap(&words::printable(&row.name), frame.plot()[0] - start - 20.0, 13.5, false, 1).concat();
            svg.text(start, middle + 4.8, Anchor::Start, style(13.5), &name);
            for (index, value) in values.iter().enumerate() {
                svg.text(end, middle_of(index, top, layout) + 4.5, Anchor::End, style(12.5), value);
            }
        }
        Layout::Narrow => {
            let value = values.join(" · ");
            let room = end - start - text::width(&value, 12.0, false) - 10.0;
            let name = text::wrap(&words::printable(&row.name), room, 13.0, false, 1).concat();
            svg.text(start, top + 20.0, Anchor::Start, style(13.0), &name);
            svg.text(end, top + 20.0, Anchor::End, style(12.0), &value);
        }
    }
}

/// The value of a bar in percent with its interval, such as `71.0 (60.2–80.1)`.
fn value(bar: &Bar) -> String {
    words::points(Some(bar.value), bar.interval)
}

/// What a sample of the key shows.
enum Sample {
    Bar(BarLook),
    Diamond,
    Whisker,
    Triangle,
}

/// Draws the key below the axis. Returns its bottom.
fn draw_key(svg: &mut Svg, chart: &BarChart, frame: &Frame) -> f64 {
    let mut entries: Vec<(Sample, String)> =
        chart.key.iter().map(|(look, words)| (Sample::Bar(*look), words.clone())).collect();
    entries.extend(chart.diamond.iter().map(|words| (Sample::Diamond, words.clone())));
    if chart.bars().any(|bar| bar.interval.is_some()) {
        entries.push((Sample::Whisker, "95% interval".to_owned()));
    }
    if chart.values().any(|value| frame.clipped(value) != value) {
        entries.push((Sample::Triangle, BEYOND.to_owned()));
    }
    let (left, right) = (frame.layout.margin(), frame.layout.width() - frame.layout.margin());
    let (mut x, mut y) = (left, frame.bottom + X_LABEL_HEIGHT + 20.0);
    svg.open("legend", 0.0, 0.0);
    for (sample, words) in &entries {
        let needed = 30.0 + text::width(words, KEY_SIZE, false);
        if x > left && x + needed > right {
            (x, y) = (left, y + 20.0);
        }
        draw_sample(svg, sample, x, y - 4.3);
        for (index, line) in text::wrap(words, right - x - 30.0, KEY_SIZE, false, 3).iter().enumerate() {
            y += if index == 0 { 0.0 } else { 17.0 };
            svg.text(x + 30.0, y, Anchor::Start, ink(KEY_SIZE, svg::INK, "ink"), line);
        }
        x += needed + 22.0;
    }
    svg.close();
    y
}

/// Draws a sample of the key in the 22 pixels from `x`, around `y`.
fn draw_sample(svg: &mut Svg, sample: &Sample, x: f64, y: f64) {
    let open = format!(r#"fill="{}" stroke="{}" stroke-width="1.4""#, svg::BACKGROUND, svg::INK);
    match sample {
        Sample::Bar(look) => {
            let (class, fill) = look.paint();
            let data = format!("M{} {}h22v{BAR}h-22Z", number(x), number(y - BAR / 2.0));
            svg.path(class, &data, &format!(r#"fill="{fill}" stroke="{}" stroke-width="1""#, svg::MODEL_INK), None);
        }
        Sample::Diamond => {
            svg.path(
                "dot open",
                &format!("M{} {}l6 6.5l-6 6.5l-6 -6.5Z", number(x + 11.0), number(y - 6.5)),
                &open,
                None,
            );
        }
        Sample::Triangle => {
            svg.path("dot open", &format!("M{} {}l8 5l-8 5Z", number(x + 7.0), number(y - 5.0)), &open, None);
        }
        Sample::Whisker => {
            let data = format!("M{} {}v8M{0} {}h22m0 -4v8", number(x), number(y - 4.0), number(y));
            svg.path("whisker", &data, &format!(r#"fill="none" stroke="{}" stroke-width="1.6""#, svg::INK), None);
        }
    }
}

impl BarChart {
    fn bars(&self) -> impl Iterator<Item = &Bar> {
        self.groups.iter().flat_map(|group| &group.rows).flat_map(|row| &row.bars)
    }

    /// All values and ends of intervals.
    fn values(&self) -> impl Iterator<Item = f64> {
        let diamonds = self.groups.iter().flat_map(|group| &group.rows).filter_map(|row| row.diamond);
        self.bars().flat_map(|bar| bar.interval.into_iter().flatten().chain([bar.value])).chain(diamonds)
    }
}

/// Describes the chart in words, for readers who cannot see it.
fn description(chart: &BarChart) -> String {
    let mut sentences = vec![format!("{}, with 95% intervals.", words::capital(&chart.x_label))];
    for group in &chart.groups {
        let row = |row: &BarRow| {
            let of_look = |look: BarLook| chart.key.iter().find(|(other, _)| *other == look);
            let bars = row.bars.iter().map(|bar| match of_look(bar.look) {
                Some((_, name)) => format!("{name} {}", value(bar)),
                None => value(bar),
            });
            let diamond = row.diamond.zip(chart.diamond.as_ref());
            let diamond = diamond.map(|(value, name)| format!("{name} {}", words::points(Some(value), None)));
            format!("{}: {}", row.name, bars.chain(diamond).collect::<Vec<_>>().join(", "))
        };
        let name = if group.name.is_empty() { String::new() } else { format!("{}: ", group.name) };
        sentences.push(format!("{name}{}.", group.rows.iter().map(row).collect::<Vec<_>>().join("; ")));
    }
    sentences.join(" ")
}

#[cfg(test)]
mod tests;
