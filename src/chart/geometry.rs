//! Polar geometry around the chart's centre. Angles are in radians, clockwise from the top; y grows downwards.

use std::f64::consts::PI;
use std::fmt::Write as _;

use super::svg::number;

/// The outer ring's radius in pixels.
pub const RADIUS: f64 = 290.0;

/// The share of its slot that an encoder's petal fills.
const FILL: f64 = 0.78;

/// The largest half width of a petal, so that a single dataset is not a pie.
const HALF_WIDTH_MAX: f64 = 29.0 * PI / 180.0;

/// The width of the model's petal, relative to the encoder's.
const MODEL_WIDTH: f64 = 0.56;

/// The gap between two petals that the ring labels need.
const LABEL_GAP: f64 = 17.0 * PI / 180.0;

/// The point at `radius` and `angle`.
pub fn point(radius: f64, angle: f64) -> (f64, f64) {
    (radius * angle.sin(), -radius * angle.cos())
}

/// An axis-aligned rectangle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// Left.
    pub x0: f64,
    /// Top.
    pub y0: f64,
    /// Right.
    pub x1: f64,
    /// Bottom.
    pub y1: f64,
}

impl Rect {
    /// A rectangle centred on (x, y).
    pub fn centred(x: f64, y: f64, width: f64, height: f64) -> Self {
        Self { x0: x - width / 2.0, y0: y - height / 2.0, x1: x + width / 2.0, y1: y + height / 2.0 }
    }

    /// The rectangle enlarged by `margin` on every side.
    pub fn grown(self, margin: f64) -> Self {
        Self { x0: self.x0 - margin, y0: self.y0 - margin, x1: self.x1 + margin, y1: self.y1 + margin }
    }

    /// Whether the two overlap in more than an edge.
    pub fn overlaps(&self, other: &Rect) -> bool {
        self.x0 < other.x1 && other.x0 < self.x1 && self.y0 < other.y1 && other.y0 < self.y1
    }

    /// Whether a point is inside.
    pub fn contains(&self, (x, y): (f64, f64)) -> bool {
        self.x0 < x && x < self.x1 && self.y0 < y && y < self.y1
    }

    /// Its smallest distance from the centre of the chart.
    pub fn distance_from_centre(&self) -> f64 {
        let x = 0.0_f64.clamp(self.x0, self.x1);
        let y = 0.0_f64.clamp(self.y0, self.y1);
        x.hypot(y)
    }
}

/// The positions of a chart's petals.
#[derive(Clone, Debug, PartialEq)]
pub struct Slots {
    /// The middle angle of each slot, clockwise.
    pub angles: Vec<f64>,
    /// Half the angle of an encoder's petal.
    pub half_encoder: f64,
    /// Half the angle of a model's petal.
    pub half_model: f64,
    /// The angle of the ring labels.
    pub label_angle: f64,
}

impl Slots {
    /// `n` slots around the circle, with a gap for the ring labels: at the top, or next to a single petal.
    pub fn new(n: usize) -> Self {
        let n_slots = n.max(1) as f64;
        let natural_gap = |slot: f64| slot - 2.0 * (slot * FILL / 2.0).min(HALF_WIDTH_MAX);
        let full = 2.0 * PI / n_slots;
        // With an extra gap g the slots shrink: g + (2π - g) / n · (1 - FILL) = LABEL_GAP.
        let shrinking = 1.0 - (1.0 - FILL) / n_slots;
        let extra = ((LABEL_GAP - natural_gap(full)) / shrinking).max(0.0);
        let slot = (2.0 * PI - extra) / n_slots;
        let half_encoder = (slot * FILL / 2.0).min(HALF_WIDTH_MAX);
        // A single petal points up, so the labels are moved aside.
        let (first, label_angle) = if n <= 1 { (0.0, 58.0 * PI / 180.0) } else { ((extra + slot) / 2.0, 0.0) };
        Self {
            angles: (0..n).map(|index| first + slot * index as f64).collect(),
            half_encoder,
            half_model: half_encoder * MODEL_WIDTH,
            label_angle,
        }
    }

    /// The middle of the encoder's visible shoulder next to the model's petal, as an angle from the slot's middle.
    pub fn shoulder(&self) -> f64 {
        (self.half_encoder + self.half_model) / 2.0
    }
}

/// Path data of a petal from the centre to `radius` with rounded corners, `half` an angle to each side of `angle`.
///
/// The corners grow with the radius. Petals of one width are therefore similar figures, and their areas are exactly in
/// the ratio of their squared radii, as [`super::Scale::Area`] requires.
pub fn petal(radius: f64, angle: f64, half: f64) -> String {
    let tightest = 0.5 * half.sin();
    let corner = radius * (tightest / (1.0 + tightest)).min(0.05);
    let slip = if radius > 0.0 { (corner / (radius - corner)).asin() } else { 0.0 };
    let side = (radius - corner) * slip.cos();
    let mut path = String::from("M0 0");
    let mut to = |command: &str, (x, y): (f64, f64)| {
        let _ = write!(path, "{command}{} {}", number(x), number(y));
    };
    let rounded = format!("A{0} {0} 0 0 1 ", number(corner));
    to("L", point(side, angle - half));
    to(&rounded, point(radius, angle - half + slip));
    to(&format!("A{0} {0} 0 0 1 ", number(radius)), point(radius, angle + half - slip));
    to(&rounded, point(side, angle + half));
    path.push('Z');
    path
}

/// Path data of a clockwise arc of less than half a circle.
pub fn arc(radius: f64, from: f64, to: f64) -> String {
    let ((x0, y0), (x1, y1)) = (point(radius, from), point(radius, to));
    format!("M{} {}A{r} {r} 0 0 1 {} {}", number(x0), number(y0), number(x1), number(y1), r = number(radius))
}

/// Path data of a whisker with caps along `angle`, from `low` to `high`.
pub fn whisker(low: f64, high: f64, angle: f64, half_cap: f64) -> String {
    let mut path = String::new();
    let (sin, cos) = angle.sin_cos();
    let mut line = |(x0, y0): (f64, f64), (x1, y1): (f64, f64)| {
        let _ = write!(path, "M{} {}L{} {}", number(x0), number(y0), number(x1), number(y1));
    };
    line(point(low, angle), point(high, angle));
    for radius in [low, high] {
        let (x, y) = point(radius, angle);
        line((x - half_cap * cos, y - half_cap * sin), (x + half_cap * cos, y + half_cap * sin));
    }
    path
}

#[cfg(test)]
mod tests;
