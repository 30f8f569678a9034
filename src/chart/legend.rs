//! The legend below the plot.

use super::geometry;
use super::petals::{REFERENCE_LOOK, before_look, reference_mark};
use super::radar::corner_mark;
use super::rose::{Role, RoseChart, Style};
use super::svg::{self, Anchor, Svg, ink, number};
use super::text;

const SIZE: f64 = 13.0;
const SWATCH: f64 = 30.0;
const GAP: f64 = 26.0;
const ROW: f64 = 25.0;

/// The sample of a legend entry.
#[derive(Clone, Copy)]
enum Swatch {
    Subject(Role),
    Reference(usize),
    Whisker,
    Chance,
}

/// Draws the legend in rows of at most `width`, centred on `centre`, from `top`. Everything is `scale` times as large
/// as on a wide chart. Returns the height.
pub fn draw(svg: &mut Svg, chart: &RoseChart, centre: f64, width: f64, top: f64, scale: f64) -> f64 {
    if scale != 1.0 {
        return draw_large(svg, chart, [centre - width / 2.0, top], width, scale);
    }
    let entries = entries(chart, width - SWATCH);
    let entry_width = |words: &str| SWATCH + text::width(words, SIZE, false);
    let mut rows: Vec<Vec<&(Swatch, String)>> = Vec::new();
    let mut used = f64::INFINITY;
    for entry in &entries {
        let needed = entry_width(&entry.1);
        if used + GAP + needed > width {
            rows.push(Vec::new());
            used = -GAP;
        }
        used += GAP + needed;
        if let Some(row) = rows.last_mut() {
            row.push(entry);
        }
    }
    svg.open("legend", 0.0, 0.0);
    for (index, row) in rows.iter().enumerate() {
        let row_width: f64 = row.iter().map(|(_, words)| entry_width(words) + GAP).sum::<f64>() - GAP;
        let mut x = centre - row_width / 2.0;
        let y = top + ROW * (index as f64 + 0.5);
        for (swatch, words) in row {
            draw_swatch(svg, chart.style, *swatch, x, y);
            svg.text(x + SWATCH, y + 0.36 * SIZE, Anchor::Start, ink(SIZE, svg::INK, "ink"), words);
            x += entry_width(words) + GAP;
        }
    }
    svg.close();
    ROW * rows.len() as f64
}

/// Draws one entry per row for a narrow chart; its words may take several lines.
fn draw_large(svg: &mut Svg, chart: &RoseChart, [left, top]: [f64; 2], width: f64, scale: f64) -> f64 {
    let (size, words_x) = (SIZE * scale, left + SWATCH * scale);
    let mut y = top;
    svg.open("legend", 0.0, 0.0);
    for (swatch, words) in entries(chart, f64::INFINITY) {
        svg.raw(&format!(
            r#"<g class="swatch" transform="translate({} {}) scale({})">"#,
            number(left),
            number(y + ROW * scale / 2.0),
            number(scale)
        ));
        draw_swatch(svg, chart.style, swatch, 0.0, 0.0);
        svg.close();
        for (index, line) in text::wrap(&words, width - SWATCH * scale, size, false, 3).iter().enumerate() {
            y += if index == 0 { ROW * scale } else { 1.25 * size };
            svg.text(words_x, y - ROW * scale / 2.0 + 0.36 * size, Anchor::Start, ink(size, svg::INK, "ink"), line);
        }
    }
    svg.close();
    y - top
}

fn entries(chart: &RoseChart, words_width_max: f64) -> Vec<(Swatch, String)> {
    let mut entries = Vec::new();
    let mut n_references = 0;
    // The model is first, since the chart is about it.
    for series in chart.series.iter().filter(|series| series.role != Role::Reference).rev() {
        entries.push((Swatch::Subject(series.role), series.name.clone()));
    }
    let has_intervals = chart.series.iter().flat_map(|series| &series.points).flatten().any(|p| p.interval.is_some());
    if has_intervals {
        entries.push((Swatch::Whisker, "95% interval".to_owned()));
    }
    if chart.axes.iter().any(|axis| axis.chance.is_some()) {
        entries.push((Swatch::Chance, "chance (1 / classes)".to_owned()));
    }
    for series in chart.series.iter().filter(|series| series.role == Role::Reference) {
        entries.push((Swatch::Reference(n_references), series.name.clone()));
        n_references += 1;
    }
    for (_, words) in &mut entries {
        *words = text::wrap(words, words_width_max, SIZE, false, 1).concat();
    }
    entries
}

fn draw_swatch(svg: &mut Svg, style: Style, swatch: Swatch, x: f64, y: f64) {
    let (left, right, middle) = (number(x), number(x + 22.0), number(y));
    let bar = format!("M{left} {}H{right}V{}H{left}Z", number(y - 6.5), number(y + 6.5));
    match (swatch, style) {
        (Swatch::Subject(Role::Encoder), Style::Petals) => {
            let look = format!(r#"fill="{}" stroke="{}" stroke-width="1.6""#, svg::ENCODER_FILL, svg::ENCODER_LINE);
            svg.path("encoder", &bar, &look, None);
        }
        (Swatch::Subject(Role::Before), Style::Petals) => {
            svg.path("before", &bar, &before_look(), None);
        }
        (Swatch::Subject(_), Style::Petals) => {
            let look = format!(r#"fill="{}" stroke="{}" stroke-width="1""#, svg::MODEL_FILL, svg::MODEL_INK);
            svg.path("model", &bar, &look, None);
        }
        (Swatch::Subject(role), Style::Radar) => {
            let (class, line, fill, dashes) = match role {
                Role::Encoder => ("encoder", svg::ENCODER_LINE, svg::ENCODER_FILL, ""),
                Role::Before => ("before", svg::MODEL_INK, svg::BEFORE_FILL, r#" stroke-dasharray="2 2""#),
                _ => ("model", svg::MODEL_FILL, svg::MODEL_FILL, r#" stroke-dasharray="6 3""#),
            };
            let stroke = format!(r#"fill="none" stroke="{line}" stroke-width="2.2"{dashes}"#);
            svg.path(&format!("{class}-line"), &format!("M{left} {middle}H{right}"), &stroke, None);
            let look = format!(r#"fill="{fill}" stroke="{line}" stroke-width="1.5""#);
            svg.path(class, &corner_mark(role, x + 11.0, y), &look, None);
        }
        (Swatch::Reference(index), _) => {
            svg.path("reference", &reference_mark(index, x + 11.0, y), REFERENCE_LOOK, None);
        }
        (Swatch::Whisker, _) => {
            let upright = geometry::whisker(-7.0, 7.0, 0.0, 4.0);
            svg.open("swatch", x + 11.0, y);
            svg.path("whisker", &upright, &format!(r#"fill="none" stroke="{}" stroke-width="1.5""#, svg::INK), None);
            svg.close();
        }
        (Swatch::Chance, _) => {
            let look = format!(r#"fill="none" stroke="{}" stroke-width="1.6" stroke-dasharray="4 3""#, svg::INK);
            svg.path("chance", &format!("M{left} {middle}H{right}"), &look, None);
        }
    }
}
