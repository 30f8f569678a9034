//! The forest plot: one dot with its interval a row, on one scale, beside zero and the margin.

use super::layout::Layout;
use super::svg::{self, Anchor, Svg, ink, number};
use super::{text, words};
use crate::compare::Interval;

/// What a forest plot shows.
#[derive(Clone, Debug, PartialEq)]
pub struct ForestChart {
    /// The heading.
    pub title: String,
    /// Lines of small print below it.
    pub subtitle: Vec<String>,
    /// Rows under one name each.
    pub groups: Vec<ForestGroup>,
    /// The fall that is still accepted, drawn as a dashed line.
    pub margin: Option<f64>,
}

/// Rows under one name.
#[derive(Clone, Debug, PartialEq)]
pub struct ForestGroup {
    /// What they have in common; nothing is written where it is empty.
    pub name: String,
    /// From the top.
    pub rows: Vec<ForestRow>,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct ForestRow {
    /// What it is.
    pub name: String,
    /// Baseline less candidate accuracy; `None` is said in words.
    pub fall: Option<f64>,
    /// Its interval.
    pub interval: Option<Interval>,
    /// What a reader must know of it, such as `tuned on`.
    pub remark: Option<String>,
}

const GROUP: f64 = 34.0;

impl Layout {
    /// Where the plot begins and ends: between names and values, or below them.
    fn plot(self) -> [f64; 2] {
        self.either([250.0, 960.0 - 190.0], [20.0, 340.0])
    }

    /// The height of a row, and where its dot lies in it.
    fn row(self) -> (f64, f64) {
        self.either((30.0, 15.0), (50.0, 33.0))
    }
}

/// What an interval says of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All of it lies above zero.
    Fall,
    /// All of it lies below.
    Rise,
    /// Zero lies in it.
    Neither,
}

/// What is shown by `interval`.
pub fn shown(interval: Option<Interval>) -> Shown {
    match interval {
        Some([low, _]) if low > 0.0 => Shown::Fall,
        Some([_, high]) if high < 0.0 => Shown::Rise,
        _ => Shown::Neither,
    }
}

/// From fractions to places.
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
        // A little air, so that no whisker touches the frame.
        let air = (high - low) * 0.03;
        Self { layout, low: low - air, high: high + air, step }
    }

    fn x(&self, value: f64) -> f64 {
        let [left, right] = self.layout.plot();
        left + (value - self.low) / (self.high - self.low) * (right - left)
    }

    fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step).ceil() as i64;
        let last = (self.high / self.step).floor() as i64;
        (first..=last).map(|index| index as f64 * self.step).collect()
    }
}

/// The plot as SVG.
pub fn forest(chart: &ForestChart) -> String {
    forest_in(chart, Layout::Wide)
}

/// The plot as SVG, for a screen or for a phone.
pub(super) fn forest_in(chart: &ForestChart, layout: Layout) -> String {
    let frame = Frame::of(chart, layout);
    let (margin, row_height) = (layout.margin(), layout.row().0);
    let mut svg = Svg::default();
    let top = svg.heading(layout, &chart.title, &chart.subtitle) + 34.0;
    let n_rows: usize = chart.groups.iter().map(|group| group.rows.len()).sum();
    let n_heads = chart.groups.iter().filter(|group| !group.name.is_empty()).count();
    let bottom = top + row_height * n_rows as f64 + GROUP * n_heads as f64;
    draw_frame(&mut svg, chart, &frame, top, bottom);
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
            draw_row(&mut svg, row, &frame, y, !group.name.is_empty());
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

fn draw_frame(svg: &mut Svg, chart: &ForestChart, frame: &Frame, top: f64, bottom: f64) {
    let small = ink(12.0, svg::MUTED, "muted");
    for tick in frame.ticks() {
        let x = frame.x(tick);
        let data = format!("M{} {}V{}", number(x), number(top), number(bottom));
        svg.path("ring", &data, &format!(r#"fill="none" stroke="{}" stroke-width="1""#, svg::GRID), None);
        // A true minus sign, as wide as the plus that is not written.
        let label = number(tick * 100.0).replace('-', "−");
        svg.text(x, bottom + 19.0, Anchor::Middle, small, &label);
    }
    let zero = frame.x(0.0);
    let data = format!("M{} {}V{}", number(zero), number(top - 6.0), number(bottom));
    svg.path("whisker", &data, &format!(r#"fill="none" stroke="{}" stroke-width="1.4""#, svg::INK), None);
    let [left, right] = frame.layout.plot();
    let right_of_zero = right - zero;
    if zero - left > 60.0 {
        svg.text(zero - 8.0, top - 12.0, Anchor::End, small, "← rose");
    }
    if right_of_zero > 60.0 {
        svg.text(zero + 8.0, top - 12.0, Anchor::Start, small, "fell →");
    }
    if let Some(margin) = chart.margin {
        let x = frame.x(margin);
        let data = format!("M{} {}V{}", number(x), number(top - 6.0), number(bottom));
        let look = format!(r#"fill="none" stroke="{}" stroke-width="1.6" stroke-dasharray="6 4""#, svg::WARNING);
        svg.path("margin", &data, &look, Some(&format!("margin {} points", words::percent_number(Some(margin)))));
        let label = format!("margin {}", number(margin * 100.0));
        // No part of the label may lie beyond the picture's edge.
        let half = text::width(&label, 12.0, true) / 2.0 + 2.0;
        let x = x.clamp(half, frame.layout.width() - half);
        svg.text(x, bottom + 36.0, Anchor::Middle, ink(12.0, svg::WARNING, "warning").bold(), &label);
    }
    let middle = f64::midpoint(left, right);
    let label = "fall of accuracy, percentage points";
    svg.text(middle, bottom + 54.0, Anchor::Middle, ink(13.0, svg::INK, "ink"), label);
}

/// Draws a row whose top is at `top`.
fn draw_row(svg: &mut Svg, row: &ForestRow, frame: &Frame, top: f64, is_indented: bool) {
    let (layout, margin) = (frame.layout, frame.layout.margin());
    let y = top + layout.row().1;
    // Grid lines run through the words of a narrow chart.
    let words_ink = |size: f64, fill: &'static str, class: &'static str| {
        let style = ink(size, fill, class);
        layout.either(style, style.halo())
    };
    let baseline = layout.either(y + 4.5, top + 17.0);
    let start = if is_indented { margin + 14.0 } else { margin };
    let value = value(row);
    let remark = row.remark.as_ref().map(|remark| format!(" ({remark})")).unwrap_or_default();
    let name = format!("{}{remark}", words::printable(&row.name));
    let of_value = text::width(&value, 13.0, false);
    let room = layout.either(layout.plot()[0] - start - 16.0, layout.width() - margin - start - of_value - 10.0);
    let name = text::wrap(&name, room, 13.5, false, 1).concat();
    svg.text(start, baseline, Anchor::Start, words_ink(13.5, svg::INK, "ink"), &name);
    let end = layout.width() - margin;
    let Some(fall) = row.fall.filter(|fall| fall.is_finite()) else {
        // Beside the plot, where no line runs through it.
        svg.text(end, baseline, Anchor::End, words_ink(12.5, svg::WARNING, "warning"), "no scored pairs");
        return;
    };
    let tooltip = format!("{name}: {value}");
    if let Some([low, high]) = row.interval {
        let (low, high) = (number(frame.x(low)), number(frame.x(high)));
        let (top, bottom) = (number(y - 5.0), number(y + 5.0));
        let data = format!("M{low} {}H{high}M{low} {top}V{bottom}M{high} {top}V{bottom}", number(y));
        svg.path("whisker", &data, &format!(r#"fill="none" stroke="{}" stroke-width="1.6""#, svg::INK), None);
    }
    let x = frame.x(fall);
    let (class, fill, data) = match shown(row.interval) {
        // A fall is a square, a rise a triangle that points to it: they differ without colour, too.
        Shown::Fall => ("dot fell", svg::WARNING, square(x, y)),
        Shown::Rise => ("dot rose-up", svg::MODEL_FILL, triangle(x, y)),
        Shown::Neither => ("dot open", svg::BACKGROUND, diamond(x, y)),
    };
    let look = format!(r#"fill="{fill}" stroke="{}" stroke-width="1.5" stroke-linejoin="round""#, svg::INK);
    svg.path(class, &data, &look, Some(&tooltip));
    svg.text(end, baseline, Anchor::End, words_ink(13.0, svg::INK, "ink"), &value);
}

fn square(x: f64, y: f64) -> String {
    format!("M{} {}h10v10h-10Z", number(x - 5.0), number(y - 5.0))
}

fn triangle(x: f64, y: f64) -> String {
    format!("M{} {}l11 -6.5v13Z", number(x - 6.5), number(y))
}

fn diamond(x: f64, y: f64) -> String {
    format!("M{} {}l6.5 6.5l-6.5 6.5l-6.5 -6.5Z", number(x), number(y - 6.5))
}

/// `12.3 (10.1–14.5)`, with true minus signs.
fn value(row: &ForestRow) -> String {
    words::points(row.fall, row.interval)
}

/// The plot in words, for those who cannot see it.
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
mod tests {
    use resvg::usvg::roxmltree::Document;

    use super::*;
    use crate::chart::raster;

    fn row(name: &str, fall: Option<f64>, interval: Option<Interval>) -> ForestRow {
        ForestRow { name: name.to_owned(), fall, interval, remark: None }
    }

    fn chart(rows: Vec<ForestRow>, margin: Option<f64>) -> ForestChart {
        let groups = vec![ForestGroup { name: "run <a>".to_owned(), rows }];
        ForestChart { title: "Forgetting".to_owned(), subtitle: Vec::new(), groups, margin }
    }

    #[test]
    fn a_dot_stands_between_the_ends_of_its_whisker_and_zero_where_zero_is() {
        let drawn =
            chart(vec![row("a", Some(0.1), Some([0.05, 0.15])), row("b", Some(-0.3), Some([-0.4, -0.2]))], None);
        let frame = Frame::of(&drawn, Layout::Wide);
        assert!(frame.x(0.05) < frame.x(0.1) && frame.x(0.1) < frame.x(0.15));
        assert!(frame.ticks().iter().any(|tick| tick.abs() < 1e-12));
        let [left, right] = Layout::Wide.plot();
        assert!(frame.x(-0.4) > left && frame.x(0.15) < right);
        let svg = forest(&drawn);
        assert_eq!((svg.matches("dot fell").count(), svg.matches("dot rose-up").count()), (1, 1));
        assert!(svg.contains("10.0 (5.0–15.0)") && svg.contains("−30.0 (−40.0 to −20.0)"), "{svg}");
    }

    #[test]
    fn what_is_not_defined_is_said_and_has_no_dot() {
        let svg = forest(&chart(vec![row("a", None, None)], Some(0.02)));
        assert!(svg.contains("no scored pairs") && !svg.contains("class=\"dot") && svg.contains("margin 2</text>"));
        assert!(!svg.contains("NaN") && !svg.contains("<a>"));
        Document::parse(&svg).unwrap();
        raster::parse(&forest(&chart(Vec::new(), None))).unwrap();
    }

    #[test]
    fn an_interval_that_holds_zero_shows_neither() {
        assert_eq!(shown(Some([-0.01, 0.2])), Shown::Neither);
        assert_eq!(shown(None), Shown::Neither);
        assert_eq!(shown(Some([0.01, 0.2])), Shown::Fall);
        assert_eq!(shown(Some([-0.2, -0.01])), Shown::Rise);
    }
}
