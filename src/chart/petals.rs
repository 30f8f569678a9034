//! Draws the petals: the encoder's behind and the model's in front, with whiskers and numbers at their tips.

use super::geometry::{self, RADIUS, Slots, point};
use super::labels::{Obstacles, TipNumber};
use super::rose::{Point, Role, RoseChart, Series};
use super::svg::{self, Svg, ink};
use super::words;

/// Half the length of a whisker's caps.
const HALF_CAP: f64 = 4.0;

/// The distance in pixels between the points of a line that numbers avoid.
const SAMPLE_STEP: f64 = 5.0;

/// One mark of a chart: a series' point on an axis.
struct Mark<'a> {
    series: &'a Series,
    axis_name: &'a str,
    point: Point,
    /// The middle angle of the petal.
    angle: f64,
    /// The angle of its whisker.
    whisker_angle: f64,
    half: f64,
    tip: f64,
}

/// Draws all petals, whiskers and chance arcs into `svg`. Returns the numbers to be placed.
pub fn draw(svg: &mut Svg, chart: &RoseChart, slots: &Slots, obstacles: &mut Obstacles) -> Vec<TipNumber> {
    let marks = marks(chart, slots);
    for mark in &marks {
        draw_petal(svg, mark);
        obstacles.add_petal(mark);
    }
    draw_chance(svg, chart, slots, slots.half_encoder * 1.12, obstacles);
    for mark in &marks {
        draw_whisker(svg, chart, mark.point, mark.whisker_angle, mark.series.role, obstacles);
    }
    draw_references(svg, chart, slots, slots.half_model, slots.half_encoder, obstacles);
    marks.iter().map(|mark| tip_number(mark, chart, slots)).collect()
}

/// The petals, back to front, each series clockwise.
fn marks<'a>(chart: &'a RoseChart, slots: &Slots) -> Vec<Mark<'a>> {
    let mut marks = Vec::new();
    let has_before = chart.series.iter().any(|series| series.role == Role::Before);
    let has_encoder = chart.series.iter().any(|series| series.role == Role::Encoder);
    for series in chart.series.iter().filter(|series| series.role != Role::Reference) {
        for ((axis, &angle), point) in chart.axes.iter().zip(&slots.angles).zip(&series.points) {
            let Some(point) = *point else { continue };
            // The baseline's half is further left on the page, whichever way the petal points.
            let side = if angle.cos() >= 0.0 { 1.0 } else { -1.0 };
            let turn = if has_before { side * slots.half_model / 2.0 } else { 0.0 };
            let angle = match series.role {
                Role::Before => angle - turn,
                Role::Model => angle + turn,
                _ => angle,
            };
            let (half, whisker_angle) = match series.role {
                Role::Encoder => (slots.half_encoder, angle + slots.shoulder()),
                _ if has_before => (slots.half_model / 2.0, angle),
                _ if has_encoder => (slots.half_model, angle),
                // Without an encoder, no shoulder must stay visible.
                _ => (slots.half_encoder * 0.8, angle),
            };
            let tip = RADIUS * chart.scale.fraction(point.accuracy);
            marks.push(Mark { series, axis_name: &axis.name, point, angle, whisker_angle, half, tip });
        }
    }
    marks
}

fn draw_petal(svg: &mut Svg, mark: &Mark<'_>) {
    let tooltip = format!(
        "{}, {}: {} (95% interval {})",
        mark.axis_name,
        mark.series.name,
        words::percent(Some(mark.point.accuracy)),
        words::interval(mark.point.interval)
    );
    let path = geometry::petal(mark.tip, mark.angle, mark.half);
    let (class, attributes) = match mark.series.role {
        Role::Encoder => {
            ("encoder", format!(r#"fill="{}" stroke="{}" stroke-width="1.6""#, svg::ENCODER_FILL, svg::ENCODER_LINE))
        }
        Role::Before => ("before", before_look()),
        _ => ("model", format!(r#"fill="{}" stroke="{}" stroke-width="1""#, svg::MODEL_FILL, svg::MODEL_INK)),
    };
    svg.path(class, &path, &format!(r#"{attributes} stroke-linejoin="round""#), Some(&tooltip));
}

/// The fill of a baseline's half petal.
pub fn before_look() -> String {
    format!(r#"fill="{}" stroke="{}" stroke-width="1""#, svg::BEFORE_FILL, svg::MODEL_INK)
}

impl Obstacles {
    fn add_petal(&mut self, mark: &Mark<'_>) {
        if mark.series.role == Role::Model {
            self.dark.push((mark.tip + 3.0, mark.angle, mark.half));
            return;
        }
        let n_steps = (2.0 * mark.half * mark.tip / SAMPLE_STEP).ceil();
        for step in 0..=n_steps as usize {
            let angle = mark.angle - mark.half + 2.0 * mark.half * step as f64 / n_steps.max(1.0);
            self.soft.push(point(mark.tip, angle));
        }
        for step in 0..=(mark.tip / SAMPLE_STEP) as usize {
            for side in [mark.angle - mark.half, mark.angle + mark.half] {
                self.soft.push(point(step as f64 * SAMPLE_STEP, side));
            }
        }
    }
}

/// Draws the interval of `point` along `angle`, with a pale rim that shows on a dark petal.
pub fn draw_whisker(svg: &mut Svg, chart: &RoseChart, value: Point, angle: f64, role: Role, obstacles: &mut Obstacles) {
    let Some([low, high]) = value.interval else { return };
    let [low, high] = [low, high].map(|end| RADIUS * chart.scale.fraction(end));
    let path = geometry::whisker(low, high, angle, HALF_CAP);
    let (class, stroke) = match role {
        Role::Encoder => ("whisker-encoder", svg::ENCODER_INK),
        _ => ("whisker", svg::INK),
    };
    let rim = r#"fill="none" stroke="FILL" stroke-width="4" stroke-opacity="0.75""#.replace("FILL", svg::BACKGROUND);
    svg.path("rim", &path, &rim, None);
    svg.path(class, &path, &format!(r#"fill="none" stroke="{stroke}" stroke-width="1.5""#), None);
    let n_steps = ((high - low) / SAMPLE_STEP).ceil() as usize;
    for step in 0..=n_steps {
        obstacles.hard.push(point(low + (high - low) * step as f64 / n_steps.max(1) as f64, angle));
    }
}

/// Draws the chance level of every axis that has one as a dashed arc, `half` an angle to each side.
pub fn draw_chance(svg: &mut Svg, chart: &RoseChart, slots: &Slots, half: f64, obstacles: &mut Obstacles) {
    for (axis, &angle) in chart.axes.iter().zip(&slots.angles) {
        let Some(chance) = axis.chance else { continue };
        let radius = RADIUS * chart.scale.fraction(chance);
        let path = geometry::arc(radius, angle - half, angle + half);
        let rim = format!(r#"fill="none" stroke="{}" stroke-width="3.6" stroke-opacity="0.8""#, svg::BACKGROUND);
        svg.path("rim", &path, &rim, None);
        let line = format!(r#"fill="none" stroke="{}" stroke-width="1.6" stroke-dasharray="4 3""#, svg::INK);
        svg.path("chance", &path, &line, Some(&format!("{}: chance {}", axis.name, words::chance(chance))));
        for step in 0..=8 {
            obstacles.soft.push(point(radius, angle - half + half * f64::from(step) / 4.0));
        }
    }
}

/// Draws published figures as hollow marks on the left shoulder of each petal, from `inner` to `outer`.
pub fn draw_references(
    svg: &mut Svg,
    chart: &RoseChart,
    slots: &Slots,
    inner: f64,
    outer: f64,
    obstacles: &mut Obstacles,
) {
    let references: Vec<&Series> = chart.series.iter().filter(|series| series.role == Role::Reference).collect();
    for (index, series) in references.iter().enumerate() {
        let share = (index as f64 + 0.5) / references.len() as f64;
        let turn = inner + (outer - inner) * share;
        for ((axis, &angle), value) in chart.axes.iter().zip(&slots.angles).zip(&series.points) {
            let Some(value) = value else { continue };
            let (x, y) = point(RADIUS * chart.scale.fraction(value.accuracy), angle - turn);
            let tooltip = format!("{}, {}: {}", axis.name, series.name, words::percent(Some(value.accuracy)));
            svg.path("reference", &reference_mark(index, x, y), REFERENCE_LOOK, Some(&tooltip));
            obstacles.hard.push((x, y));
        }
    }
}

/// The look of reference marks: hollow, so that they differ from petals in grey print.
pub const REFERENCE_LOOK: &str = r##"fill="#FFFFFF" stroke="#1B1F24" stroke-width="1.4" stroke-linejoin="round""##;

/// Returns the path of a mark: a diamond, a triangle, a square, a circle-like hexagon, then the first again.
pub fn reference_mark(index: usize, x: f64, y: f64) -> String {
    let corners: &[(f64, f64)] = match index % 4 {
        0 => &[(-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)],
        1 => &[(0.0, -6.2), (6.2, 0.0), (0.0, 6.2), (-6.2, 0.0)],
        2 => &[(0.0, -5.8), (5.6, 4.2), (-5.6, 4.2)],
        _ => &[(-2.8, -5.0), (2.8, -5.0), (5.6, 0.0), (2.8, 5.0), (-2.8, 5.0), (-5.6, 0.0)],
    };
    let spots: Vec<String> =
        corners.iter().map(|(dx, dy)| format!("{} {}", svg::number(x + dx), svg::number(y + dy))).collect();
    format!("M{}Z", spots.join("L"))
}

fn tip_number(mark: &Mark<'_>, chart: &RoseChart, slots: &Slots) -> TipNumber {
    let end = mark.point.interval.map_or(mark.point.accuracy, |[_, high]| high.max(mark.point.accuracy));
    let radius = RADIUS * chart.scale.fraction(end);
    let beside = slots.shoulder();
    let angles = match mark.series.role {
        Role::Encoder => vec![mark.angle + beside, mark.angle, mark.angle - beside, mark.angle + 1.4 * beside],
        Role::Before => {
            let away = if mark.angle.cos() >= 0.0 { -beside } else { beside };
            vec![mark.angle + 0.3 * away, mark.angle, mark.angle + 0.7 * away]
        }
        _ => vec![mark.angle, mark.angle - 0.35 * beside, mark.angle + 0.35 * beside, mark.angle - beside],
    };
    TipNumber {
        role: mark.series.role,
        text: words::percent_number(Some(mark.point.accuracy)),
        ink: number_ink(mark.series.role, chart.axes.len()),
        radius,
        angles,
    }
}

/// The style of a role's numbers; smaller if there are many.
pub fn number_ink(role: Role, n_axes: usize) -> svg::Ink {
    let shrink = if n_axes > 14 {
        0.78
    } else if n_axes > 9 {
        0.88
    } else {
        1.0
    };
    match role {
        Role::Encoder => ink(13.0 * shrink, svg::ENCODER_INK, "encoder-ink").halo(),
        Role::Before => ink(13.0 * shrink, svg::MODEL_INK, "model-ink").halo(),
        _ => ink(15.0 * shrink, svg::MODEL_INK, "model-ink").bold().halo(),
    }
}
