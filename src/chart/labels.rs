//! Places the words of a chart so that none covers another.

use super::geometry::{RADIUS, Rect, point};
use super::rose::{Role, RoseChart};
use super::svg::{self, Anchor, Ink, Svg, ink};
use super::text;

/// The distance from the outer ring to a dataset's name.
const RING_DISTANCE: f64 = 24.0;

/// The same if a number is beyond the outer ring.
const RING_DISTANCE_BEYOND_NUMBERS: f64 = 42.0;

/// A mark that ends at this share of the outer radius has its number on or beyond the ring.
const NEAR_RING: f64 = 0.93;

/// A placed dataset name with its remarks.
#[derive(Clone, Debug)]
pub struct AxisLabel {
    lines: Vec<(String, Ink)>,
    anchor: Anchor,
    /// Its area, relative to the chart's centre.
    pub rect: Rect,
}

/// The style of labels and the room for them.
#[derive(Clone, Copy, Debug)]
pub struct LabelStyle {
    /// Half the width that labels may fill, from the centre.
    pub half_width: f64,
    /// The size of words relative to a wide chart.
    pub scale: f64,
    /// The most datasets that are named; with more, numbers replace the names.
    pub n_named_max: usize,
    /// Whether a label may leave its angle if there is no room next to the ring.
    pub may_turn: bool,
}

/// Places the labels of the datasets of `chart` at their `angles` outside the outer ring.
pub fn place_axis_labels(chart: &RoseChart, angles: &[f64], style: LabelStyle) -> Vec<AxisLabel> {
    let n_axes = chart.axes.len();
    let name_size = if n_axes > 8 { 14.0 } else { 15.5 } * style.scale;
    let width_max = if n_axes > 10 { 122.0 } else { 140.0 } * style.scale.min(1.3);
    let mut placed: Vec<AxisLabel> = Vec::new();
    for (index, &angle) in angles.iter().enumerate() {
        let lines = match n_axes > style.n_named_max {
            true => vec![((index + 1).to_string(), ink(name_size, svg::INK, "ink").bold())],
            false => axis_lines(chart, index, name_size, width_max, style.scale),
        };
        let end = |series: &super::Series| {
            let value = series.points.get(index).copied().flatten()?;
            Some(chart.scale.fraction(value.interval.map_or(value.accuracy, |[_, high]| high)))
        };
        let is_near_ring = chart.series.iter().filter(|series| series.role != Role::Reference).filter_map(end);
        let is_near_ring = is_near_ring.fold(0.0, f64::max) > NEAR_RING;
        let distance = if is_near_ring { RING_DISTANCE_BEYOND_NUMBERS } else { RING_DISTANCE };
        let label = place_axis_label(lines, angle, RADIUS + distance, &placed, style);
        placed.push(label);
    }
    placed
}

fn axis_lines(chart: &RoseChart, index: usize, name_size: f64, width_max: f64, scale: f64) -> Vec<(String, Ink)> {
    let axis = &chart.axes[index];
    let name = ink(name_size, svg::INK, "ink").bold();
    let remark = ink(12.5 * scale, svg::MUTED, "muted");
    let warning = ink(12.5 * scale, svg::WARNING, "warning").bold();
    let broken = |text: &str, style: Ink, n_lines_max: usize| {
        text::wrap(text, width_max, style.size, style.is_bold, n_lines_max).into_iter().map(move |line| (line, style))
    };
    let mut lines: Vec<(String, Ink)> = broken(&axis.name, name, 3).collect();
    lines.extend(axis.remarks.iter().flat_map(|text| broken(text, remark, 2)));
    lines.extend(unscored(chart, index).iter().flat_map(|text| broken(text, warning, 2)));
    lines.extend(axis.warning.iter().flat_map(|text| broken(text, warning, 2)));
    lines
}

/// Remarks for missing numbers. A petal of length 0 would show a false value.
pub fn unscored(chart: &RoseChart, index: usize) -> Vec<String> {
    let shown = chart.series.iter().filter(|series| series.role != Role::Reference);
    let absent = shown.filter(|series| series.points.get(index).copied().flatten().is_none());
    absent.map(|series| format!("{} not scored", series.short_name)).collect()
}

/// The step in radians by which a label leaves its angle, and the most steps that it may take.
const TURN: f64 = 0.12;
const N_TURNS_MAX: usize = 11;

/// The largest distance beyond the ring before a label turns further.
const OUTWARDS_MAX: f64 = 60.0;

fn place_axis_label(
    lines: Vec<(String, Ink)>,
    angle: f64,
    radius_min: f64,
    placed: &[AxisLabel],
    style: LabelStyle,
) -> AxisLabel {
    let width = lines.iter().map(|(line, ink)| text::width(line, ink.size, ink.is_bold)).fold(0.0, f64::max);
    let height: f64 = lines.iter().map(|(_, ink)| line_height(*ink)).sum();
    let half_width = style.half_width;
    let at = |radius: f64, angle: f64| {
        let (sin, cos) = angle.sin_cos();
        let (x, y) = point(radius, angle);
        let x = x + sin * width / 2.0;
        let x = x.clamp((width / 2.0 - half_width).min(0.0), (half_width - width / 2.0).max(0.0));
        Rect::centred(x, y - cos * height / 2.0, width, height)
    };
    let is_clear = |rect: &Rect| {
        rect.distance_from_centre() >= radius_min - 4.0
            && !placed.iter().any(|other| other.rect.grown(5.0).overlaps(rect))
    };
    // Moves outwards until the label clears the ring and all placed labels, or reaches `farthest`.
    let outwards = |angle: f64, farthest: f64| {
        let mut radius = radius_min;
        while radius < farthest && !is_clear(&at(radius, angle)) {
            radius += 3.0;
        }
        at(radius, angle)
    };
    let n_turns = if style.may_turn { N_TURNS_MAX } else { 0 };
    let turned = (0..=n_turns).flat_map(|n| [angle + TURN * n as f64, angle - TURN * n as f64]);
    let mut near = turned.map(|angle| (angle, outwards(angle, radius_min + OUTWARDS_MAX)));
    let near = near.find(|(_, rect)| style.may_turn && is_clear(rect));
    let (angle, rect) = near.unwrap_or_else(|| (angle, outwards(angle, 3.0 * RADIUS)));
    let sin = angle.sin();
    let anchor = if sin > 0.25 {
        Anchor::Start
    } else if sin < -0.25 {
        Anchor::End
    } else {
        Anchor::Middle
    };
    AxisLabel { lines, anchor, rect }
}

fn line_height(ink: Ink) -> f64 {
    ink.size * 1.25
}

impl AxisLabel {
    /// Writes the label.
    pub fn draw(&self, svg: &mut Svg) {
        let x = match self.anchor {
            Anchor::Start => self.rect.x0,
            Anchor::Middle => (self.rect.x0 + self.rect.x1) / 2.0,
            Anchor::End => self.rect.x1,
        };
        let mut bottom = self.rect.y0;
        for (line, ink) in &self.lines {
            bottom += line_height(*ink);
            svg.text(x, bottom - 0.29 * ink.size, self.anchor, *ink, line);
        }
    }
}

/// A number to be placed at the tip of a mark.
#[derive(Clone, Debug)]
pub struct TipNumber {
    /// The role of its mark.
    pub role: Role,
    /// The number as text.
    pub text: String,
    /// Its style.
    pub ink: Ink,
    /// The smallest radius at which it may be placed: its mark's tip or its whisker's end.
    pub radius: f64,
    /// The preferred angles, best first.
    pub angles: Vec<f64>,
}

/// The obstacles that numbers avoid.
#[derive(Clone, Debug, Default)]
pub struct Obstacles {
    /// Occupied areas.
    pub rects: Vec<Rect>,
    /// Points that must not be covered, such as whiskers.
    pub hard: Vec<(f64, f64)>,
    /// Points that should not be covered, such as outlines.
    pub soft: Vec<(f64, f64)>,
    /// Dark petals: radius, angle, half width.
    pub dark: Vec<(f64, f64, f64)>,
}

/// The largest outward step of a number; beyond it, it rather covers something.
const OUTWARD_MAX: f64 = 150.0;

/// Places and writes `numbers` in order, each at the position of least cost.
pub fn draw_tip_numbers(svg: &mut Svg, numbers: &[TipNumber], obstacles: &mut Obstacles) {
    for number in numbers {
        let width = text::width(&number.text, number.ink.size, number.ink.is_bold);
        // Digits have no descenders, so the box is as high as a capital letter.
        let (width, height) = (width, number.ink.size * 0.74);
        let mut best: Option<(f64, Rect)> = None;
        for (rank, &angle) in number.angles.iter().enumerate() {
            let (sin, cos) = angle.sin_cos();
            let reach = (sin.abs() * width + cos.abs() * height) / 2.0;
            let mut outward = 0.0;
            while outward <= OUTWARD_MAX {
                let (x, y) = point(number.radius + 6.0 + reach + outward, angle);
                let rect = Rect::centred(x, y, width, height);
                let cost = outward + 9.0 * rank as f64 + obstacles.cost(&rect);
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, rect));
                }
                outward += 3.0;
            }
        }
        if let Some((_, rect)) = best {
            svg.text((rect.x0 + rect.x1) / 2.0, rect.y1, Anchor::Middle, number.ink, &number.text);
            obstacles.rects.push(rect.grown(2.0));
        }
    }
}

impl Obstacles {
    fn cost(&self, rect: &Rect) -> f64 {
        let room = rect.grown(2.0);
        let n_rects = self.rects.iter().filter(|other| other.overlaps(&room)).count();
        let n_hard = self.hard.iter().filter(|&&spot| room.contains(spot)).count();
        let n_soft = self.soft.iter().filter(|&&spot| room.contains(spot)).count();
        let n_dark = corners(&room).iter().filter(|spot| self.is_dark(**spot)).count();
        1000.0 * n_rects as f64 + 120.0 * n_hard as f64 + 500.0 * n_dark as f64 + 6.0 * n_soft as f64
    }

    fn is_dark(&self, (x, y): (f64, f64)) -> bool {
        let radius = x.hypot(y);
        self.dark.iter().any(|&(tip, angle, half)| {
            let turn = (x.atan2(-y) - angle).rem_euclid(std::f64::consts::TAU);
            radius < tip && turn.min(std::f64::consts::TAU - turn) < half
        })
    }
}

fn corners(rect: &Rect) -> [(f64, f64); 9] {
    let (x, y) = ((rect.x0 + rect.x1) / 2.0, (rect.y0 + rect.y1) / 2.0);
    [
        (rect.x0, rect.y0),
        (x, rect.y0),
        (rect.x1, rect.y0),
        (rect.x0, y),
        (x, y),
        (rect.x1, y),
        (rect.x0, rect.y1),
        (x, rect.y1),
        (rect.x1, rect.y1),
    ]
}

#[cfg(test)]
mod tests;
