//! The polygons of the EMT paper's Figures 4 and 5: one closed line per subject over all datasets.

use super::geometry::{RADIUS, Slots, point};
use super::labels::{Obstacles, TipNumber};
use super::petals;
use super::rose::{Point, Role, RoseChart, Series};
use super::svg::{self, Svg, number};
use super::words;

/// Draws all polygons, whiskers and chance arcs into `svg`. Returns the numbers to be placed.
pub fn draw(svg: &mut Svg, chart: &RoseChart, slots: &Slots, obstacles: &mut Obstacles) -> Vec<TipNumber> {
    for &angle in &slots.angles {
        let (x, y) = point(RADIUS, angle);
        let look = format!(r#"fill="none" stroke="{}" stroke-width="1""#, svg::GRID);
        svg.path("grid", &format!("M0 0L{} {}", number(x), number(y)), &look, None);
    }
    petals::draw_chance(svg, chart, slots, slots.half_encoder, obstacles);
    let mut numbers = Vec::new();
    for series in chart.series.iter().filter(|series| series.role != Role::Reference) {
        draw_polygon(svg, chart, slots, series);
    }
    for series in chart.series.iter().filter(|series| series.role != Role::Reference) {
        for ((axis, &angle), value) in chart.axes.iter().zip(&slots.angles).zip(&series.points) {
            let Some(value) = *value else { continue };
            petals::draw_whisker(svg, chart, value, angle, series.role, obstacles);
            draw_corner(svg, chart, series, &axis.name, value, angle, obstacles);
            numbers.push(tip_number(chart, series, value, angle));
        }
    }
    petals::draw_references(svg, chart, slots, 0.02, 0.14, obstacles);
    numbers
}

/// Draws the outline through all points. A missing point interrupts the line, and nothing is filled then.
fn draw_polygon(svg: &mut Svg, chart: &RoseChart, slots: &Slots, series: &Series) {
    let corners: Vec<Option<(f64, f64)>> = slots
        .angles
        .iter()
        .zip(&series.points)
        .map(|(&angle, value)| value.map(|value| point(RADIUS * chart.scale.fraction(value.accuracy), angle)))
        .collect();
    let is_closed = corners.len() > 2 && corners.iter().all(Option::is_some);
    let (class, stroke, fill, dashes) = match series.role {
        Role::Encoder => ("encoder-line", svg::ENCODER_LINE, svg::ENCODER_FILL, ""),
        Role::Before => ("before-line", svg::MODEL_INK, svg::BEFORE_FILL, r#" stroke-dasharray="2 3""#),
        _ => ("model-line", svg::MODEL_FILL, svg::MODEL_FILL, r#" stroke-dasharray="9 4""#),
    };
    let mut path = String::new();
    let n = corners.len();
    for (index, corner) in corners.iter().enumerate() {
        let Some((x, y)) = corner else { continue };
        let joins = index > 0 && corners[index - 1].is_some();
        path.push_str(&format!("{}{} {}", if joins { "L" } else { "M" }, number(*x), number(*y)));
        if index + 1 == n
            && !is_closed
            && n > 2
            && let Some((x, y)) = corners[0]
        {
            path.push_str(&format!("L{} {}", number(x), number(y)));
        }
    }
    if path.is_empty() {
        return;
    }
    let fill = if is_closed {
        path.push('Z');
        format!(r#"fill="{fill}" fill-opacity="0.3""#)
    } else {
        r#"fill="none""#.to_owned()
    };
    let look = format!(r#"{fill} stroke="{stroke}" stroke-width="2.2" stroke-linejoin="round"{dashes}"#);
    svg.path(class, &path, &look, Some(&series.name));
}

fn draw_corner(
    svg: &mut Svg,
    chart: &RoseChart,
    series: &Series,
    axis_name: &str,
    value: Point,
    angle: f64,
    obstacles: &mut Obstacles,
) {
    let (x, y) = point(RADIUS * chart.scale.fraction(value.accuracy), angle);
    let tooltip = format!("{axis_name}, {}: {}", series.name, words::percent(Some(value.accuracy)));
    let (class, fill, stroke) = match series.role {
        Role::Encoder => ("encoder", svg::ENCODER_FILL, svg::ENCODER_LINE),
        Role::Before => ("before", svg::BEFORE_FILL, svg::MODEL_INK),
        _ => ("model", svg::MODEL_FILL, svg::MODEL_INK),
    };
    svg.path(
        class,
        &corner_mark(series.role, x, y),
        &format!(r#"fill="{fill}" stroke="{stroke}" stroke-width="1.5""#),
        Some(&tooltip),
    );
    obstacles.hard.push((x, y));
}

/// Returns a round mark for an encoder and a square one for a model: they differ without colour.
pub fn corner_mark(role: Role, x: f64, y: f64) -> String {
    let at = |dx: f64, dy: f64| format!("{} {}", number(x + dx), number(y + dy));
    match role {
        Role::Encoder => format!("M{}A5 5 0 0 1 {}A5 5 0 0 1 {}Z", at(-5.0, 0.0), at(5.0, 0.0), at(-5.0, 0.0)),
        _ => format!("M{}L{}L{}L{}Z", at(-4.2, -4.2), at(4.2, -4.2), at(4.2, 4.2), at(-4.2, 4.2)),
    }
}

fn tip_number(chart: &RoseChart, series: &Series, value: Point, angle: f64) -> TipNumber {
    let radius = RADIUS * chart.scale.fraction(value.accuracy);
    let side = 20.0 / radius.max(40.0);
    TipNumber {
        role: series.role,
        text: words::percent_number(Some(value.accuracy)),
        ink: petals::number_ink(series.role, chart.axes.len()),
        radius,
        angles: vec![angle + side, angle - side, angle, angle + 2.0 * side, angle - 2.0 * side],
    }
}
