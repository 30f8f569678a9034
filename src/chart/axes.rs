//! Charts with axes: plotters computes scales, grids and positions, and draws them on our [`Svg`].
//!
//! [`Paper`] is the backend. It counts in tenths of a pixel, because plotters uses integer positions. It gives every
//! element the class by which a dark page recolours it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::ops::Range;
use std::rc::Rc;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::{
    Cartesian2d, ChartContext, Color, DrawingArea, FontStyle, IntoFont, RGBColor, ShapeStyle, TRANSPARENT, TextStyle,
};
pub(super) use plotters_backend::text_anchor::HPos;
use plotters_backend::text_anchor::{Pos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind};

use super::svg::{self, Anchor, Ink, Svg, number};
use super::text;
use crate::assets::font;

/// The result of drawing. [`Paper`] never fails.
pub(super) type Sketch<T = ()> = Result<T, DrawingAreaErrorKind<Infallible>>;
/// The whole sheet, in backend units.
pub(super) type Root = DrawingArea<Paper, Shift>;
/// The area inside the axes.
pub(super) type Plot = DrawingArea<Paper, Cartesian2d<Scale, Scale>>;
/// The axes and their plot.
pub(super) type Axes<'a> = ChartContext<'a, Paper, Cartesian2d<Scale, Scale>>;

/// A linear scale with chosen ticks. Its ends may be in either order.
pub(super) struct Scale {
    values: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Scale {
    pub(super) fn new(values: Range<f64>, ticks: Vec<f64>) -> Self {
        Self { values: values.into(), ticks }
    }
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.values.map(value, limit)
    }

    fn key_points<H: KeyPointHint>(&self, hint: H) -> Vec<f64> {
        // There are no grid lines between the ticks.
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.values.range()
    }
}

/// Backend units per pixel.
const UNITS: f64 = 10.0;

/// Converts a length in pixels to backend units.
pub(super) fn units(pixels: f64) -> i32 {
    (pixels * UNITS).round() as i32
}

/// Converts a length in backend units to pixels.
pub(super) fn pixels(units: i32) -> f64 {
    f64::from(units) / UNITS
}

/// Parses a colour such as `#C9CFD6`.
pub(super) fn colour(hex: &str) -> RGBColor {
    let level = |start: usize| hex.get(start..start + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    RGBColor(level(1).unwrap_or(0), level(3).unwrap_or(0), level(5).unwrap_or(0))
}

/// A line style with a width in pixels.
pub(super) fn stroke(hex: &str, width: f64) -> ShapeStyle {
    ShapeStyle { color: colour(hex).into(), filled: false, stroke_width: (width * UNITS).round() as u32 }
}

/// The style of axis lines and ticks, which plotters only draws together with their labels. They are not shown.
pub(super) fn hidden() -> ShapeStyle {
    ShapeStyle { color: TRANSPARENT, filled: false, stroke_width: 0 }
}

/// A fill style.
pub(super) fn fill(hex: &str) -> ShapeStyle {
    ShapeStyle { color: colour(hex).into(), filled: true, stroke_width: 0 }
}

/// A fill style that shows what is behind it.
pub(super) fn tint(hex: &str, opacity: f64) -> ShapeStyle {
    ShapeStyle { color: colour(hex).mix(opacity), filled: true, stroke_width: 0 }
}

/// A text style with a size in pixels. Its class follows from its colour, see [`Pen::text`].
pub(super) fn lettering(size: f64, hex: &str, is_bold: bool, anchor: HPos) -> TextStyle<'static> {
    let style = if is_bold { FontStyle::Bold } else { FontStyle::Normal };
    let mut style = TextStyle::from((font::FAMILY, size * UNITS).into_font().style(style));
    style.color = colour(hex).to_backend_color();
    style.pos = Pos::new(anchor, VPos::Center);
    style
}

/// Properties of an element that plotters does not know.
#[derive(Clone, Debug, Default)]
pub(super) struct Pen {
    /// The class of shapes.
    pub(super) shape: &'static str,
    /// Colour and class of texts. A text of another colour uses one of [`INKS`].
    pub(super) text: (&'static str, &'static str),
    /// The dashes of lines, as SVG writes them.
    pub(super) dashes: Option<&'static str>,
    /// Colour and width of the outline of filled shapes.
    pub(super) rim: Option<(&'static str, f64)>,
    /// The tooltip of a shape.
    pub(super) tooltip: Option<String>,
}

/// The default text colours with their classes.
const INKS: [(&str, &str); 3] = [(svg::INK, "ink"), (svg::MUTED, "muted"), (svg::WARNING, "warning")];

/// A sheet that plotters draws on. Clones share the sheet.
#[derive(Clone)]
pub(super) struct Paper {
    sheet: Rc<RefCell<Sheet>>,
    size: (u32, u32),
}

#[derive(Default)]
struct Sheet {
    svg: Svg,
    pen: Pen,
}

impl Paper {
    /// A sheet of this size in pixels that starts with the content of `svg`.
    pub(super) fn new(svg: Svg, width: f64, height: f64) -> Self {
        let size = (units(width).unsigned_abs(), units(height).unsigned_abs());
        Self { sheet: Rc::new(RefCell::new(Sheet { svg, pen: Pen::default() })), size }
    }

    /// Sets the properties of the following elements.
    pub(super) fn take_up(&self, pen: Pen) {
        self.sheet.borrow_mut().pen = pen;
    }

    /// Returns what was drawn.
    pub(super) fn into_svg(self) -> Svg {
        std::mem::take(&mut self.sheet.borrow_mut().svg)
    }

    fn path(&self, data: &str, look: &str) {
        let sheet = &mut *self.sheet.borrow_mut();
        sheet.svg.path(sheet.pen.shape, data, look, sheet.pen.tooltip.as_deref());
    }

    /// Returns the presentation attributes of a filled shape.
    fn filled(&self, color: BackendColor) -> String {
        let rim = self.sheet.borrow().pen.rim.map_or(String::new(), |(colour, width)| {
            format!(r#" stroke="{colour}" stroke-width="{}" stroke-linejoin="round""#, number(width))
        });
        let opacity =
            if color.alpha < 1.0 { format!(r#" fill-opacity="{}""#, number(color.alpha)) } else { String::new() };
        format!(r#"fill="{}"{opacity}{rim}"#, hex(color))
    }

    fn line(&self, style: &impl BackendStyle) -> String {
        let dashes = self.sheet.borrow().pen.dashes;
        let dashes = dashes.map_or(String::new(), |dashes| format!(r#" stroke-dasharray="{dashes}""#));
        format!(
            r#"fill="none" stroke="{}" stroke-width="{}"{dashes} stroke-linejoin="round""#,
            hex(style.color()),
            number(f64::from(style.stroke_width()) / UNITS)
        )
    }
}

fn hex(color: BackendColor) -> String {
    let (red, green, blue) = color.rgb;
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// Returns path data such as `M1 2L3 4L5 6`.
fn path_data(points: impl IntoIterator<Item = BackendCoord>) -> String {
    let places = points.into_iter().map(|(x, y)| format!("{} {}", number(pixels(x)), number(pixels(y))));
    format!("M{}", places.collect::<Vec<_>>().join("L"))
}

type Done = Result<(), DrawingErrorKind<Infallible>>;

impl DrawingBackend for Paper {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Done {
        Ok(())
    }

    fn present(&mut self) -> Done {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Done {
        let look = self.filled(color);
        self.path(&format!("M{} {}h0.1v0.1h-0.1Z", number(pixels(x)), number(pixels(y))), &look);
        Ok(())
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Done {
        self.draw_path([from, to], style)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        (left, top): BackendCoord,
        (right, bottom): BackendCoord,
        style: &S,
        is_filled: bool,
    ) -> Done {
        let data = path_data([(left, top), (right, top), (right, bottom), (left, bottom)]) + "Z";
        self.path(&data, &if is_filled { self.filled(style.color()) } else { self.line(style) });
        Ok(())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Done {
        if style.color().alpha > 0.0 {
            self.path(&path_data(path), &self.line(style));
        }
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Done {
        self.path(&(path_data(path) + "Z"), &self.filled(style.color()));
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(&mut self, (x, y): BackendCoord, radius: u32, style: &S, is_filled: bool) -> Done {
        let look = if is_filled { self.filled(style.color()) } else { self.line(style) };
        let sheet = &mut *self.sheet.borrow_mut();
        let circle = format!(
            r#"<circle class="{}" cx="{}" cy="{}" r="{}" {look}"#,
            sheet.pen.shape,
            number(pixels(x)),
            number(pixels(y)),
            number(f64::from(radius) / UNITS)
        );
        sheet.svg.raw(&match &sheet.pen.tooltip {
            None => format!("{circle}/>"),
            Some(tooltip) => format!("{circle}><title>{}</title></circle>", svg::escape(tooltip)),
        });
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, content: &str, style: &S, (x, y): BackendCoord) -> Done {
        let size = style.size() / UNITS;
        let anchor = match style.anchor().h_pos {
            HPos::Left => Anchor::Start,
            HPos::Center => Anchor::Middle,
            HPos::Right => Anchor::End,
        };
        // The distance from the vertical anchor of a line of text to its baseline, in font sizes.
        let to_baseline = match style.anchor().v_pos {
            VPos::Top => 0.76,
            VPos::Center => 0.34,
            VPos::Bottom => -0.2,
        };
        let shown = hex(style.color());
        let sheet = &mut *self.sheet.borrow_mut();
        // The pen's text is first: it may use a default colour with another class.
        let mut inks = std::iter::once(sheet.pen.text).chain(INKS);
        let (fill, class) = inks.find(|(ink, _)| *ink == shown).unwrap_or(sheet.pen.text);
        let ink = Ink { size, is_bold: is_bold(style), fill, class, has_halo: false };
        sheet.svg.text(pixels(x), pixels(y) + to_baseline * size, anchor, ink, content);
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        content: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let width = text::width(content, style.size(), is_bold(style));
        Ok((width.ceil() as u32, style.size().ceil() as u32))
    }
}

fn is_bold(style: &impl BackendTextStyle) -> bool {
    matches!(style.style(), plotters_backend::FontStyle::Bold)
}

#[cfg(test)]
mod tests;
