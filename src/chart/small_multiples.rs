//! Small multiples: one small rose per checkpoint, all on one scale.

use super::geometry::{RADIUS, Slots, point};
use super::labels::Obstacles;
use super::layout::Layout;
use super::legend;
use super::petals;
use super::rose::{Role, RoseChart};
use super::svg::{self, Anchor, Svg, ink, number};
use super::{text, words};

/// The content of small multiples.
#[derive(Clone, Debug, PartialEq)]
pub struct SmallMultiples {
    /// The heading.
    pub title: String,
    /// Lines of small print below it.
    pub subtitle: Vec<String>,
    /// One per checkpoint, in reading order.
    pub cells: Vec<SmallRose>,
}

/// One checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct SmallRose {
    /// Its name.
    pub name: String,
    /// A line below the name.
    pub remark: String,
    /// Its rose; only axes, series and scale are drawn.
    pub chart: RoseChart,
}

/// The scale of a small petal relative to the large rose.
const SHRINK: f64 = 0.31;
/// The distance from a cell's top to its rose's centre.
const CENTRE: f64 = 162.0;
const CELL_HEIGHT: f64 = 296.0;
/// The distance from the outer ring to a name.
const NAME_GAP: f64 = 9.0;
/// The most datasets for which there is room for names; with more, numbers replace them.
const N_NAMED_MAX: usize = 8;
/// The possible font sizes of names, in pixels; numbers use the first.
const NAME_SIZES: [f64; 3] = [11.0, 10.0, 9.0];
const N_NAME_LINES_MAX: usize = 3;

/// The label at a petal's tip.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Naming {
    /// The dataset's name at this font size.
    Names(f64),
    /// A number; small print explains it.
    Numbers,
}

impl Naming {
    /// Chooses names at the largest size at which no name breaks inside a word, or numbers. `width` is a cell's.
    fn of(multiples: &SmallMultiples, width: f64) -> Self {
        let fits = |cell: &SmallRose, size: f64| {
            let slots = Slots::new(cell.chart.axes.len());
            cell.chart.axes.len() <= N_NAMED_MAX
                && cell.chart.axes.iter().zip(&slots.angles).all(|(axis, &angle)| {
                    let room = Tip::at(angle, width).room;
                    text::fits(&axis.name, room, size, false)
                        && text::wrap(&axis.name, room, size, false, usize::MAX).len() <= N_NAME_LINES_MAX
                })
        };
        let size = NAME_SIZES.into_iter().find(|&size| multiples.cells.iter().all(|cell| fits(cell, size)));
        size.map_or(Self::Numbers, Self::Names)
    }
}

/// The position of a petal's name, relative to the rose's centre.
struct Tip {
    dx: f64,
    dy: f64,
    anchor: Anchor,
    /// The width available to a line.
    room: f64,
}

impl Tip {
    /// The position at `angle` in a cell of this width.
    fn at(angle: f64, width: f64) -> Self {
        let (dx, dy) = point(SHRINK * RADIUS + NAME_GAP, angle);
        let anchor = match dx {
            dx if dx > 12.0 => Anchor::Start,
            dx if dx < -12.0 => Anchor::End,
            _ => Anchor::Middle,
        };
        let room = if anchor == Anchor::Middle { width - 20.0 } else { width / 2.0 - dx.abs() - 2.0 };
        Self { dx, dy, anchor, room }
    }
}

/// Draws the charts as one SVG.
pub fn small_multiples(multiples: &SmallMultiples) -> String {
    small_multiples_in(multiples, Layout::Wide)
}

/// Draws the charts as one SVG, for a screen or a phone.
pub(super) fn small_multiples_in(multiples: &SmallMultiples, layout: Layout) -> String {
    let (margin, n_columns) = (layout.margin(), layout.either(3, 1));
    let room = layout.width() - 2.0 * margin;
    let cell_width = room / n_columns as f64;
    let mut svg = Svg::default();
    let top = svg.heading(layout, &multiples.title, &multiples.subtitle) + 16.0;
    let naming = Naming::of(multiples, cell_width);
    for (index, cell) in multiples.cells.iter().enumerate() {
        let x = margin + cell_width * (index % n_columns) as f64;
        let y = top + CELL_HEIGHT * (index / n_columns) as f64;
        draw_cell(&mut svg, cell, naming, (x, y), cell_width);
    }
    let mut bottom = top + CELL_HEIGHT * multiples.cells.len().div_ceil(n_columns) as f64 + 8.0;
    if let Some(first) = multiples.cells.first() {
        let mut key = first.chart.clone();
        // The names of the candidates are above their roses, so the legend uses short names.
        for series in &mut key.series {
            series.name.clone_from(&series.short_name);
        }
        bottom += legend::draw(&mut svg, &key, layout.width() / 2.0, room, bottom, 1.0);
    }
    for line in numbered_names(multiples, naming)
        .iter()
        .flat_map(|key| text::wrap(key, room, 12.0, false, layout.either(6, 24)))
    {
        bottom += 17.0;
        svg.text(margin, bottom, Anchor::Start, ink(12.0, svg::MUTED, "muted"), &line);
    }
    svg.finish(layout.width(), bottom + 22.0, &multiples.title, &description(multiples))
}

fn draw_cell(svg: &mut Svg, cell: &SmallRose, naming: Naming, (x, y): (f64, f64), width: f64) {
    let middle = x + width / 2.0;
    let name = text::wrap(&words::printable(&cell.name), width - 24.0, 14.0, true, 1).concat();
    svg.text(middle, y + 14.0, Anchor::Middle, ink(14.0, svg::INK, "ink").bold(), &name);
    let remark = text::wrap(&words::printable(&cell.remark), width - 20.0, 12.0, false, 1).concat();
    svg.text(middle, y + 31.0, Anchor::Middle, ink(12.0, svg::MUTED, "muted"), &remark);
    let centre = y + CENTRE;
    for share in [0.25, 0.5, 0.75, 1.0] {
        let outer = if share == 1.0 { " outer" } else { "" };
        svg.raw(&format!(
            r#"<circle class="ring{outer}" cx="{}" cy="{}" r="{}" fill="none" stroke="{}" stroke-width="0.8"/>"#,
            number(middle),
            number(centre),
            number(SHRINK * RADIUS * cell.chart.scale.fraction(share)),
            if share == 1.0 { svg::MUTED } else { svg::GRID }
        ));
    }
    let slots = Slots::new(cell.chart.axes.len());
    svg.raw(&format!(
        r#"<g class="plot" transform="translate({} {}) scale({SHRINK})">"#,
        number(middle),
        number(centre)
    ));
    // The numbers are not drawn, since they would be too small to read; the table below has them.
    petals::draw(svg, &cell.chart, &slots, &mut Obstacles::default());
    svg.close();
    for (index, (axis, &angle)) in cell.chart.axes.iter().zip(&slots.angles).enumerate() {
        let Tip { dx, dy, anchor, room } = Tip::at(angle, width);
        let (size, lines) = match naming {
            Naming::Numbers => (NAME_SIZES[0], vec![(index + 1).to_string()]),
            Naming::Names(size) => (size, text::wrap(&axis.name, room, size, false, N_NAME_LINES_MAX)),
        };
        // Above the centre, the last line is nearest to the ring; below it, the first is.
        let first = match dy {
            dy if dy > 12.0 => 0.8,
            dy if dy < -12.0 => 1.0 - lines.len() as f64,
            _ => 0.86 - 0.5 * lines.len() as f64,
        };
        for (place, line) in lines.iter().enumerate() {
            let y = centre + dy + (first + 1.15 * place as f64) * size;
            svg.text(middle + dx, y, anchor, ink(size, svg::INK, "ink"), line);
        }
    }
}

/// The key to the numbers, if there is no room for names.
fn numbered_names(multiples: &SmallMultiples, naming: Naming) -> Option<String> {
    let axes = &multiples.cells.first()?.chart.axes;
    let names: Vec<String> =
        axes.iter().enumerate().map(|(index, axis)| format!("{}: {}", index + 1, axis.name)).collect();
    (naming == Naming::Numbers).then(|| names.join(" · "))
}

/// Describes the charts in words, for readers who cannot see them.
fn description(multiples: &SmallMultiples) -> String {
    let mut sentences = vec![format!("{} checkpoints on one scale.", multiples.cells.len())];
    for cell in &multiples.cells {
        let axes = cell.chart.axes.iter().enumerate().map(|(index, axis)| {
            let of = |role: Role| {
                let series = cell.chart.series.iter().find(|series| series.role == role);
                let value = series.and_then(|series| series.points.get(index).copied().flatten());
                words::percent(value.map(|value| value.accuracy))
            };
            format!("{} {} before, {} after", axis.name, of(Role::Before), of(Role::Model))
        });
        sentences.push(format!("{}: {}.", cell.name, axes.collect::<Vec<_>>().join("; ")));
    }
    sentences.join(" ")
}

#[cfg(test)]
mod tests;
