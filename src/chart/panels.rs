//! The panel chart: small pictures of curves over the layers, grouped by dataset.

use plotters::prelude::{ChartBuilder, Circle, IntoDrawingArea, PathElement, Polygon};

use super::axes::{
    Axes, HPos, Paper, Pen, Plot, Root, Scale, Sketch, fill, hidden, lettering, pixels, stroke, tint, units,
};
use super::layout::Layout;
use super::svg::{self, Anchor, Svg, ink, number};
use super::{text, words};
use crate::compare::Interval;

/// The content of a panel chart.
#[derive(Clone, Debug, PartialEq)]
pub struct PanelChart {
    /// The heading.
    pub title: String,
    /// Lines of small print below it.
    pub subtitle: Vec<String>,
    /// Groups of panels.
    pub groups: Vec<PanelGroup>,
}

/// Panels under a common name.
#[derive(Clone, Debug, PartialEq)]
pub struct PanelGroup {
    /// The common name; not written if empty.
    pub name: String,
    /// The panels in reading order.
    pub panels: Vec<Panel>,
}

/// Curves on common axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What is drawn.
    pub title: String,
    /// The name of the horizontal axis.
    pub x_label: String,
    /// Whether the panel has the whole width of a wide sheet.
    pub is_large: bool,
    /// Whether values are fractions, shown in percent.
    pub is_share: bool,
    /// The curves.
    pub curves: Vec<PanelCurve>,
    /// Values that do not depend on the layer, drawn as thin lines.
    pub levels: Vec<PanelLevel>,
    /// A place on the horizontal axis with its name, drawn as a dashed upright line.
    pub mark: Option<(f64, String)>,
}

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub struct PanelCurve {
    /// Its name in the key.
    pub name: String,
    /// Its look.
    pub look: CurveLook,
    /// Its points by ascending x, at least one.
    pub points: Vec<PanelPoint>,
}

/// One point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PanelPoint {
    /// The layer.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// Its interval, drawn as a band.
    pub interval: Option<Interval>,
}

/// A value that does not depend on the layer.
#[derive(Clone, Debug, PartialEq)]
pub struct PanelLevel {
    /// Its name in the key.
    pub name: String,
    /// Its look.
    pub look: CurveLook,
    /// The value.
    pub y: f64,
}

/// The look of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurveLook {
    /// The model before, as in a rose.
    Before,
    /// The model after, as in a rose.
    After,
    /// The positions of the image.
    Image,
    /// The last position.
    Last,
}

/// The paint of a look. Dashes and dots distinguish the looks without colour.
struct Paint {
    line_class: &'static str,
    line: &'static str,
    dashes: &'static str,
    dot_class: &'static str,
    dot: &'static str,
    rim: &'static str,
    band_class: &'static str,
    opacity: f64,
}

impl CurveLook {
    fn paint(self) -> Paint {
        let position = |colour, dashes| Paint {
            line_class: "line",
            line: colour,
            dashes,
            dot_class: "line",
            dot: colour,
            rim: colour,
            band_class: "line",
            opacity: 0.15,
        };
        match self {
            Self::Before => Paint {
                line_class: "before-line",
                line: svg::MODEL_INK,
                dashes: "5 3",
                dot_class: "before",
                dot: svg::BEFORE_FILL,
                rim: svg::MODEL_INK,
                band_class: "band-before",
                opacity: 0.4,
            },
            Self::After => Paint {
                line_class: "model-line",
                line: svg::MODEL_FILL,
                dashes: "none",
                dot_class: "model",
                dot: svg::MODEL_FILL,
                rim: svg::MODEL_INK,
                band_class: "band-model",
                opacity: 0.2,
            },
            Self::Image => position("#007A5A", "none"),
            Self::Last => position("#8F4A78", "8 4"),
        }
    }
}

/// The height of a group's name, and the gaps between panels.
const GROUP: f64 = 36.0;
const GUTTER: f64 = 32.0;
const PANEL_GAP: f64 = 16.0;
/// The size of a panel's title; the heights of its lines, of a line of its key, and of the gap between key and plot.
const TITLE_SIZE: f64 = 13.5;
const TITLE_LINE: f64 = 18.0;
const KEY_LINE: f64 = 17.0;
const KEY_GAP: f64 = 20.0;
/// The width of the numbers at the left and the height of the numbers and the name below.
const Y_LABEL_WIDTH: f64 = 42.0;
const X_LABEL_HEIGHT: f64 = 40.0;
const KEY_SIZE: f64 = 12.0;
/// The width of a sample in the key, with the gap behind it.
const SAMPLE: f64 = 30.0;
const CURVE_WIDTH: f64 = 2.2;
const LEVEL_WIDTH: f64 = 1.3;
/// The most points that are drawn with dots.
const N_DOTS_MAX: usize = 48;

/// The room of a panel on the sheet.
struct Room<'a> {
    panel: &'a Panel,
    layout: Layout,
    x: f64,
    y: f64,
    width: f64,
    /// The height of title and key, the same for all panels of a row.
    head: f64,
}

impl Room<'_> {
    /// The top of the plot.
    fn top(&self) -> f64 {
        self.y + self.head + KEY_GAP
    }

    fn bottom(&self) -> f64 {
        let large = self.layout.either(220.0, 180.0);
        self.top() + if self.panel.is_large { large } else { 130.0 }
    }
}

/// Draws the chart as SVG.
pub fn panels(chart: &PanelChart) -> String {
    panels_in(chart, Layout::Wide)
}

/// Draws the chart as SVG, for a screen or a phone.
pub(super) fn panels_in(chart: &PanelChart, layout: Layout) -> String {
    let mut svg = Svg::default();
    let mut y = svg.heading(layout, &chart.title, &chart.subtitle) + 14.0;
    let mut rooms = Vec::new();
    for group in &chart.groups {
        if !group.name.is_empty() {
            let room = layout.width() - 2.0 * layout.margin();
            let name = text::wrap(&words::printable(&group.name), room, 15.0, true, 1).concat();
            svg.text(layout.margin(), y + 22.0, Anchor::Start, ink(15.0, svg::INK, "ink").bold(), &name);
            y += GROUP;
        }
        y = arrange(&mut rooms, &group.panels, layout, y);
    }
    let paper = Paper::new(svg, layout.width(), y);
    rooms.iter().try_for_each(|room| draw(&paper, room)).expect("nothing can fail on paper");
    let mut svg = paper.into_svg();
    rooms.iter().for_each(|room| write_head(&mut svg, room));
    svg.finish(layout.width(), y + 4.0, &chart.title, &description(chart))
}

/// Places panels from `y` down: large ones alone, small ones in pairs on a wide sheet. Returns the bottom.
fn arrange<'a>(rooms: &mut Vec<Room<'a>>, panels: &'a [Panel], layout: Layout, mut y: f64) -> f64 {
    let whole = layout.width() - 2.0 * layout.margin();
    let mut rest = panels;
    while let Some(first) = rest.first() {
        let is_pair = layout == Layout::Wide && !first.is_large;
        let width = if is_pair { (whole - GUTTER) / 2.0 } else { whole };
        let n = if is_pair && rest.get(1).is_some_and(|next| !next.is_large) { 2 } else { 1 };
        let (row, next) = rest.split_at(n);
        let head = row.iter().map(|panel| key(panel, width).1).fold(0.0, f64::max);
        let mut bottom = y;
        for (index, panel) in row.iter().enumerate() {
            let x = layout.margin() + index as f64 * (width + GUTTER);
            let room = Room { panel, layout, x, y, width, head };
            bottom = bottom.max(room.bottom());
            rooms.push(room);
        }
        y = bottom + X_LABEL_HEIGHT + PANEL_GAP;
        rest = next;
    }
    y
}

/// The title of a panel, in lines.
fn title(panel: &Panel, width: f64) -> Vec<String> {
    text::wrap(&panel.title, width, TITLE_SIZE, true, 3)
}

/// An entry of a key: the look, whether it is a level, the words, and the place relative to the panel.
type Entry = (CurveLook, bool, String, [f64; 2]);

/// The key of a panel below its title, and the height of both.
fn key(panel: &Panel, width: f64) -> (Vec<Entry>, f64) {
    let curves = panel.curves.iter().map(|curve| (curve.look, false, &curve.name));
    let levels = panel.levels.iter().map(|level| (level.look, true, &level.name));
    let (mut x, mut y) = (0.0, TITLE_LINE * title(panel, width).len() as f64);
    let mut entries = Vec::new();
    for (look, is_level, name) in curves.chain(levels) {
        let shown = text::wrap(name, width - SAMPLE, KEY_SIZE, false, 1).concat();
        let needed = SAMPLE + text::width(&shown, KEY_SIZE, false);
        if x > 0.0 && x + needed > width {
            (x, y) = (0.0, y + KEY_LINE);
        }
        entries.push((look, is_level, shown, [x, y]));
        x += needed + 18.0;
    }
    (entries, y + KEY_LINE)
}

/// Writes the title and the key of a panel.
fn write_head(svg: &mut Svg, room: &Room<'_>) {
    for (index, line) in title(room.panel, room.width).iter().enumerate() {
        let y = room.y + TITLE_LINE * index as f64 + 13.0;
        svg.text(room.x, y, Anchor::Start, ink(TITLE_SIZE, svg::INK, "ink").bold(), line);
    }
    for (look, is_level, words, [dx, dy]) in key(room.panel, room.width).0 {
        let (x, y) = (room.x + dx, room.y + dy + 14.0);
        let Paint { line_class, line, dashes, dot_class, dot, rim, .. } = look.paint();
        let width = if is_level { LEVEL_WIDTH } else { CURVE_WIDTH };
        let style = format!(r#"fill="none" stroke="{line}" stroke-width="{width}" stroke-dasharray="{dashes}""#);
        svg.path(line_class, &format!("M{} {}h24", number(x), number(y - 4.0)), &style, None);
        if !is_level {
            let data = format!("M{} {}a3 3 0 0 1 6 0a3 3 0 0 1 -6 0Z", number(x + 9.0), number(y - 4.0));
            svg.path(dot_class, &data, &format!(r#"fill="{dot}" stroke="{rim}" stroke-width="1""#), None);
        }
        svg.text(x + SAMPLE, y, Anchor::Start, ink(KEY_SIZE, svg::INK, "ink"), &words);
    }
}

/// Draws a panel without its title and its key.
fn draw(paper: &Paper, room: &Room<'_>) -> Sketch {
    let root = paper.clone().into_drawing_area();
    let axes = draw_axes(paper, &root, room)?;
    let plot = axes.plotting_area();
    let panel = room.panel;
    for curve in &panel.curves {
        draw_band(paper, plot, curve)?;
    }
    if let Some((x, name)) = &panel.mark {
        draw_mark(paper, &root, plot, room, *x, name)?;
    }
    let [x_low, x_high] = x_range(panel);
    for level in &panel.levels {
        let Paint { line_class, line, dashes, .. } = level.look.paint();
        let tooltip = Some(format!("{}: {}", level.name, shown(panel, level.y)));
        paper.take_up(Pen { shape: line_class, dashes: Some(dashes), tooltip, ..Pen::default() });
        plot.draw(&PathElement::new([(x_low, level.y), (x_high, level.y)], stroke(line, LEVEL_WIDTH)))?;
    }
    panel.curves.iter().try_for_each(|curve| draw_curve(paper, plot, panel, curve))
}

fn draw_axes<'a>(paper: &Paper, root: &'a Root, room: &Room<'_>) -> Sketch<Axes<'a>> {
    let panel = room.panel;
    let [x_low, x_high] = x_range(panel);
    let (y_range, y_ticks, n_decimals) = y_scale(panel);
    // A wide panel has room for twice as many numbers.
    let n_ticks_max = if room.width > 600.0 { 16.0 } else { 9.0 };
    let step = super::lines::nice_above((x_high - x_low) / n_ticks_max).max(1.0).round();
    let x_ticks = (0..).map(|index| (x_low / step).ceil() * step + f64::from(index) * step);
    let mut axes = ChartBuilder::on(root)
        .margin_top(units(room.top()))
        .margin_left(units(room.x))
        .margin_right(units(room.layout.width() - room.x - room.width))
        .margin_bottom(units(pixels(root.dim_in_pixel().1 as i32) - room.bottom() - X_LABEL_HEIGHT))
        .x_label_area_size(units(X_LABEL_HEIGHT))
        .y_label_area_size(units(Y_LABEL_WIDTH))
        .build_cartesian_2d(
            Scale::new(x_low..x_high, x_ticks.take_while(|tick| *tick <= x_high).collect()),
            Scale::new(y_range[0]..y_range[1], y_ticks),
        )?;
    paper.take_up(Pen { shape: "ring", ..Pen::default() });
    axes.configure_mesh()
        .disable_x_mesh()
        .axis_style(hidden())
        .bold_line_style(stroke(svg::GRID, 1.0))
        // Labels are at twice this distance from the axes.
        .set_all_tick_mark_size(units(4.0))
        .label_style(lettering(11.5, svg::MUTED, false, HPos::Center))
        .x_label_formatter(&|x| words::decimal(Some(*x), 0))
        .y_label_formatter(&|y| match panel.is_share {
            true => format!("{}%", words::decimal(Some(y * 100.0), n_decimals.saturating_sub(2))),
            false => words::decimal(Some(*y), n_decimals),
        })
        .axis_desc_style(lettering(12.0, svg::INK, false, HPos::Center))
        .x_desc(&panel.x_label)
        .draw()?;
    Ok(axes)
}

/// The first and the last layer of a panel.
fn x_range(panel: &Panel) -> [f64; 2] {
    let places = || panel.curves.iter().flat_map(|curve| &curve.points).map(|point| point.x);
    let places = || places().chain(panel.mark.iter().map(|(x, _)| *x));
    let (low, high) = (places().fold(f64::INFINITY, f64::min), places().fold(f64::NEG_INFINITY, f64::max));
    if high > low { [low, high] } else { [low, low + 1.0] }
}

/// The ends of the vertical axis, its ticks, and the decimals that these need.
fn y_scale(panel: &Panel) -> ([f64; 2], Vec<f64>, usize) {
    let points = panel.curves.iter().flat_map(|curve| &curve.points);
    let of_points = points.flat_map(|point| point.interval.into_iter().flatten().chain([point.y]));
    let values: Vec<f64> = of_points.chain(panel.levels.iter().map(|level| level.y)).collect();
    // A share of nothing belongs to the picture of shares.
    let low = values.iter().copied().fold(if panel.is_share { 0.0 } else { f64::INFINITY }, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = if high - low > 1e-6 {
        high - low
    } else if panel.is_share {
        0.1
    } else {
        1.0
    };
    let step = super::lines::nice_above(span / 5.0);
    let first = (low / step + 1e-9).floor();
    // A flat curve still has a step above it.
    let last = (high / step - 1e-9).ceil().max(first + 1.0);
    let ticks = (0..=(last - first) as i32).map(|index| (first + f64::from(index)) * step).collect();
    // A step such as 0.25 needs one decimal more than its power of ten.
    let of_power = (-step.log10().floor()).max(0.0) as usize;
    let is_whole = (step * 10f64.powi(of_power as i32)).fract() < 1e-6;
    ([first * step, last * step], ticks, of_power + usize::from(!is_whole))
}

/// Draws the intervals of a curve as a band, where neighbours have one.
fn draw_band(paper: &Paper, plot: &Plot, curve: &PanelCurve) -> Sketch {
    let Paint { band_class, dot, opacity, .. } = curve.look.paint();
    for run in curve.points.chunk_by(|a, b| a.interval.is_some() && b.interval.is_some()) {
        let ends = || run.iter().filter_map(|point| Some((point.x, point.interval?)));
        let lower = ends().map(|(x, [low, _])| (x, low));
        let upper = ends().rev().map(|(x, [_, high])| (x, high));
        let corners: Vec<(f64, f64)> = lower.chain(upper).collect();
        if corners.len() > 2 {
            paper.take_up(Pen { shape: band_class, ..Pen::default() });
            plot.draw(&Polygon::new(corners, tint(dot, opacity)))?;
        }
    }
    Ok(())
}

/// Draws the dashed upright line, with its name above the plot.
fn draw_mark(paper: &Paper, root: &Root, plot: &Plot, room: &Room<'_>, x: f64, name: &str) -> Sketch {
    let ([low, high], ..) = y_scale(room.panel);
    paper.take_up(Pen { shape: "whisker", dashes: Some("6 4"), tooltip: Some(name.to_owned()), ..Pen::default() });
    plot.draw(&PathElement::new([(x, low), (x, high)], stroke(svg::INK, 1.4)))?;
    // The name must not extend beyond the panel's edges.
    let half = text::width(name, 11.5, false) / 2.0;
    let middle = pixels(plot.map_coordinate(&(x, low)).0);
    let middle = middle.clamp(room.x + half, (room.x + room.width - half).max(room.x + half));
    let style = lettering(11.5, svg::MUTED, false, HPos::Center);
    root.draw_text(name, &style, (units(middle), units(room.top() - 8.0)))
}

fn draw_curve(paper: &Paper, plot: &Plot, panel: &Panel, curve: &PanelCurve) -> Sketch {
    let Paint { line_class, line, dashes, dot_class, dot, rim, .. } = curve.look.paint();
    if curve.points.len() > 1 {
        let (dashes, tooltip) = (Some(dashes), Some(curve.name.clone()));
        paper.take_up(Pen { shape: line_class, dashes, tooltip, ..Pen::default() });
        let places: Vec<(f64, f64)> = curve.points.iter().map(|point| (point.x, point.y)).collect();
        plot.draw(&PathElement::new(places, stroke(line, CURVE_WIDTH)))?;
    }
    if curve.points.len() > N_DOTS_MAX {
        return Ok(());
    }
    for point in &curve.points {
        let tooltip = Some(format!("{} at {}: {}", curve.name, number(point.x), shown(panel, point.y)));
        paper.take_up(Pen { shape: dot_class, rim: Some((rim, 1.0)), tooltip, ..Pen::default() });
        let radius = if panel.is_large { 3.2 } else { 2.6 };
        plot.draw(&Circle::new((point.x, point.y), units(radius), fill(dot)))?;
    }
    Ok(())
}

fn shown(panel: &Panel, value: f64) -> String {
    if panel.is_share { words::percent(Some(value)) } else { words::decimal(Some(value), 2) }
}

/// Describes the chart in words, for readers who cannot see it.
fn description(chart: &PanelChart) -> String {
    let mut sentences = Vec::new();
    for group in &chart.groups {
        for panel in &group.panels {
            let name = if group.name.is_empty() { String::new() } else { format!("{}, ", group.name) };
            let curve = |curve: &PanelCurve| {
                let ends = curve.points.first().zip(curve.points.last());
                let ends =
                    ends.map(|(first, last)| format!(" from {} to {}", shown(panel, first.y), shown(panel, last.y)));
                format!("{}{}", curve.name, ends.unwrap_or_default())
            };
            let curves: Vec<String> = panel.curves.iter().map(curve).collect();
            let mark = panel.mark.as_ref().map(|(_, name)| format!("; {name}")).unwrap_or_default();
            sentences.push(format!("{name}{}: {}{mark}.", panel.title, curves.join(", ")));
        }
    }
    sentences.join(" ")
}

#[cfg(test)]
mod tests;
