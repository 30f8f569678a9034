//! The forest plot: one dot with its interval a row, on one scale, beside zero and the margin.

use plotters::prelude::{ChartBuilder, IntoDrawingArea, PathElement, Polygon};

use super::axes::{Axes, Drawn, HPos, Paper, Pen, Plot, Root, Scale, fill, hidden, lettering, pixels, stroke, units};
use super::svg::{self, Svg, number};
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

const WIDTH: f64 = 960.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = 190.0;
const MARGIN: f64 = 32.0;
const ROW: f64 = 30.0;
const GROUP: f64 = 34.0;
/// Below the rows: the axis with its labels, and the legend.
const FOOT: f64 = 90.0;
/// The part of it for the numbers of the axis and its name.
const X_LABEL_HEIGHT: f64 = 58.0;

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

/// The values that the axis spans, in fractions.
struct Frame {
    low: f64,
    high: f64,
    step: f64,
}

impl Frame {
    fn of(chart: &ForestChart) -> Self {
        let rows = || chart.groups.iter().flat_map(|group| &group.rows);
        let values = rows().flat_map(|row| row.interval.into_iter().flatten().chain(row.fall)).chain(chart.margin);
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let low = values.iter().copied().fold(0.0, f64::min);
        let high = values.iter().copied().fold(0.02, f64::max);
        let step = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5];
        let step = step.into_iter().find(|step| (high - low) / step <= 9.0).unwrap_or(0.5);
        // A little air, so that no whisker touches the frame.
        let air = (high - low) * 0.03;
        Self { low: low - air, high: high + air, step }
    }

    fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step).ceil() as i64;
        let last = (self.high / self.step).floor() as i64;
        (first..=last).map(|index| index as f64 * self.step).collect()
    }
}

/// From where to where the rows reach, in pixels.
#[derive(Clone, Copy)]
struct Rows {
    top: f64,
    bottom: f64,
}

/// The plot as SVG.
pub fn forest(chart: &ForestChart) -> String {
    let mut svg = Svg::default();
    let top = svg.heading(WIDTH, &chart.title, &chart.subtitle) + 34.0;
    let n_rows: usize = chart.groups.iter().map(|group| group.rows.len()).sum();
    let n_heads = chart.groups.iter().filter(|group| !group.name.is_empty()).count();
    let bottom = top + ROW * n_rows as f64 + GROUP * n_heads as f64;
    let paper = Paper::new(svg, WIDTH, bottom + FOOT);
    draw(&paper, chart, Rows { top, bottom }).expect("nothing can fail on paper");
    paper.into_svg().finish(WIDTH, bottom + FOOT, &chart.title, &description(chart))
}

fn draw(paper: &Paper, chart: &ForestChart, rows: Rows) -> Drawn {
    let root = paper.clone().into_drawing_area();
    let axes = draw_axes(paper, &root, chart, rows)?;
    let plot = axes.plotting_area();
    draw_lines(paper, &root, plot, chart, rows)?;
    let mut y = rows.top;
    for group in &chart.groups {
        if !group.name.is_empty() {
            let name = text::wrap(&words::printable(&group.name), LEFT - MARGIN - 16.0, 14.0, true, 1).concat();
            root.draw_text(&name, &lettering(14.0, svg::INK, true, HPos::Left), (units(MARGIN), units(y + 18.0)))?;
            y += GROUP;
        }
        for row in &group.rows {
            draw_row(paper, &root, plot, row, y + ROW / 2.0, !group.name.is_empty())?;
            y += ROW;
        }
    }
    let legend = "Filled: the 95% interval lies on one side of zero. Hollow: zero lies in it.";
    let small = lettering(12.0, svg::MUTED, false, HPos::Left);
    root.draw_text(legend, &small, (units(MARGIN), units(rows.bottom + 68.0)))
}

/// The horizontal axis is the fall; the vertical one counts pixels from the top of the sheet.
fn draw_axes<'a>(paper: &Paper, root: &'a Root, chart: &ForestChart, rows: Rows) -> Drawn<Axes<'a>> {
    let frame = Frame::of(chart);
    let mut axes = ChartBuilder::on(root)
        .margin_top(units(rows.top))
        .margin_right(units(RIGHT))
        .margin_bottom(units(FOOT - X_LABEL_HEIGHT))
        .x_label_area_size(units(X_LABEL_HEIGHT))
        .y_label_area_size(units(LEFT))
        .build_cartesian_2d(
            Scale::new(frame.low..frame.high, frame.ticks()),
            Scale::new(rows.bottom..rows.top, Vec::new()),
        )?;
    paper.take_up(Pen { shape: "ring", ..Pen::default() });
    axes.configure_mesh()
        .disable_y_mesh()
        .axis_style(hidden())
        .bold_line_style(stroke(svg::GRID, 1.0))
        // Labels keep twice this distance from the axes.
        .set_all_tick_mark_size(units(5.0))
        .label_style(lettering(12.0, svg::MUTED, false, HPos::Center))
        // A true minus sign, as wide as the plus that is not written.
        .x_label_formatter(&|fall| number(fall * 100.0).replace('-', "−"))
        .axis_desc_style(lettering(13.0, svg::INK, false, HPos::Center))
        .x_desc("fall of accuracy, percentage points")
        .draw()?;
    Ok(axes)
}

/// Zero and the margin.
fn draw_lines(paper: &Paper, root: &Root, plot: &Plot, chart: &ForestChart, Rows { top, bottom }: Rows) -> Drawn {
    // They begin a little above the plot.
    let upright = |value: f64| {
        let (x, bottom) = plot.map_coordinate(&(value, bottom));
        [(x, units(top - 6.0)), (x, bottom)]
    };
    paper.take_up(Pen { shape: "whisker", ..Pen::default() });
    root.draw(&PathElement::new(upright(0.0), stroke(svg::INK, 1.4)))?;
    let zero = pixels(plot.map_coordinate(&(0.0, bottom)).0);
    let beside = |words: &str, x: f64, anchor| {
        root.draw_text(words, &lettering(12.0, svg::MUTED, false, anchor), (units(x), units(top - 16.0)))
    };
    if zero - LEFT > 60.0 {
        beside("← rose", zero - 8.0, HPos::Right)?;
    }
    if WIDTH - RIGHT - zero > 60.0 {
        beside("fell →", zero + 8.0, HPos::Left)?;
    }
    let Some(margin) = chart.margin else { return Ok(()) };
    let tooltip = Some(format!("margin {} points", words::percent_number(Some(margin))));
    paper.take_up(Pen { shape: "margin", dashes: Some("6 4"), tooltip, ..Pen::default() });
    root.draw(&PathElement::new(upright(margin), stroke(svg::WARNING, 1.6)))?;
    let (x, y) = plot.map_coordinate(&(margin, bottom));
    let label = format!("margin {}", number(margin * 100.0));
    root.draw_text(&label, &lettering(12.0, svg::WARNING, true, HPos::Center), (x, y + units(32.0)))
}

fn draw_row(paper: &Paper, root: &Root, plot: &Plot, row: &ForestRow, y: f64, is_indented: bool) -> Drawn {
    let start = if is_indented { MARGIN + 14.0 } else { MARGIN };
    let remark = row.remark.as_ref().map(|remark| format!(" ({remark})")).unwrap_or_default();
    let name = format!("{}{remark}", words::printable(&row.name));
    let name = text::wrap(&name, LEFT - start - 16.0, 13.5, false, 1).concat();
    root.draw_text(&name, &lettering(13.5, svg::INK, false, HPos::Left), (units(start), units(y)))?;
    let end = (units(WIDTH - MARGIN), units(y));
    let Some(fall) = row.fall.filter(|fall| fall.is_finite()) else {
        // Beside the plot, where no line runs through it.
        return root.draw_text("no scored pairs", &lettering(12.5, svg::WARNING, false, HPos::Right), end);
    };
    if let Some([low, high]) = row.interval {
        paper.take_up(Pen { shape: "whisker", ..Pen::default() });
        for line in [[(low, y), (high, y)], [(low, y - 5.0), (low, y + 5.0)], [(high, y - 5.0), (high, y + 5.0)]] {
            plot.draw(&PathElement::new(line, stroke(svg::INK, 1.6)))?;
        }
    }
    // A fall is a square, a rise a triangle that points to it: they differ without colour, too.
    let (class, colour, corners) = match shown(row.interval) {
        Shown::Fall => ("dot fell", svg::WARNING, &SQUARE[..]),
        Shown::Rise => ("dot rose-up", svg::MODEL_FILL, &TRIANGLE[..]),
        Shown::Neither => ("dot open", svg::BACKGROUND, &DIAMOND[..]),
    };
    let tooltip = Some(format!("{name}: {}", value(row)));
    paper.take_up(Pen { shape: class, rim: Some((svg::INK, 1.5)), tooltip, ..Pen::default() });
    let (x, y) = plot.map_coordinate(&(fall, y));
    let corners: Vec<(i32, i32)> = corners.iter().map(|(dx, dy)| (x + units(*dx), y + units(*dy))).collect();
    root.draw(&Polygon::new(corners, fill(colour)))?;
    root.draw_text(&value(row), &lettering(13.0, svg::INK, false, HPos::Right), end)
}

/// Corners of the dots, in pixels from their middle.
const SQUARE: [(f64, f64); 4] = [(-5.0, -5.0), (5.0, -5.0), (5.0, 5.0), (-5.0, 5.0)];
const TRIANGLE: [(f64, f64); 3] = [(-6.5, 0.0), (4.5, -6.5), (4.5, 6.5)];
const DIAMOND: [(f64, f64); 4] = [(0.0, -6.5), (6.5, 0.0), (0.0, 6.5), (-6.5, 0.0)];

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
        let frame = Frame::of(&drawn);
        assert!(frame.ticks().iter().any(|tick| tick.abs() < 1e-12));
        assert!(frame.low < -0.4 && frame.high > 0.15);
        let svg = forest(&drawn);
        let document = Document::parse(&svg).unwrap();
        let places = |class: &str| -> Vec<Vec<f64>> {
            let nodes = document.descendants().filter(|node| node.attribute("class") == Some(class));
            let xs = |data: &str| {
                data.trim_matches(['M', 'Z'])
                    .split('L')
                    .map(|place| place.split(' ').next().unwrap().parse().unwrap())
                    .collect()
            };
            nodes.map(|node| xs(node.attribute("d").unwrap())).collect()
        };
        // Zero first, then of each row the whisker and its two ends.
        let whiskers = places("whisker");
        let (zero, first) = (whiskers[0][0], &whiskers[1]);
        let square = &places("dot fell")[0];
        let dot = f64::midpoint(square[0], square[1]);
        assert!(zero < first[0] && first[0] < dot && dot < first[1], "{svg}");
        assert!((dot - f64::midpoint(first[0], first[1])).abs() < 0.2, "it lies in the middle of its interval");
        assert!(whiskers[4][0] > LEFT && whiskers[4][1] < zero && first[1] < WIDTH - RIGHT);
        assert_eq!((svg.matches("dot fell").count(), svg.matches("dot rose-up").count()), (1, 1));
        assert!(svg.contains(">−40</text>") && svg.contains(">10</text>"), "the axis has numbers: {svg}");
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
