//! Writes SVG: escaped text, few decimals, and a class on everything that a dark page recolours.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::layout::Layout;
use super::{text, words};
use crate::assets::font;

/// The colour of headings and names.
pub const INK: &str = "#1B1F24";
/// The colour of small print.
pub const MUTED: &str = "#57606A";
/// The colour of warnings: Okabe-Ito vermillion, darkened to be readable on white.
pub const WARNING: &str = "#A63C00";
/// The paper's colour.
pub const BACKGROUND: &str = "#FFFFFF";
/// The colour of rings.
pub const GRID: &str = "#C9CFD6";
/// The model's fill: Okabe-Ito blue.
pub const MODEL_FILL: &str = "#0072B2";
/// The model's outline and numbers.
pub const MODEL_INK: &str = "#004B76";
/// The baseline's fill: the model's hue, in grey lighter than the model and darker than the encoder.
pub const BEFORE_FILL: &str = "#8FC1E3";
/// The encoder's fill: Okabe-Ito orange, so pale that it differs from the model by lightness alone.
pub const ENCODER_FILL: &str = "#FBE3B5";
/// The encoder's outline.
pub const ENCODER_LINE: &str = "#B57A00";
/// The encoder's numbers.
pub const ENCODER_INK: &str = "#7A4F00";

/// Escapes `text` for elements and quoted attributes of XML and HTML. Characters that XML forbids and those that change
/// the direction of text become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        let replacement: Cow<'static, str> = match letter {
            '&' => "&amp;".into(),
            '<' => "&lt;".into(),
            '>' => "&gt;".into(),
            '"' => "&quot;".into(),
            '\'' => "&#39;".into(),
            '\t' | '\n' | '\r' => letter.to_string().into(),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => "\u{fffd}".into(),
            _ if words::steers(letter) => "\u{fffd}".into(),
            _ => letter.to_string().into(),
        };
        escaped.push_str(&replacement);
    }
    escaped
}

/// Formats `value` with at most two decimals, and `-0` as `0`.
pub fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// The position of a text's x within the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its left end.
    Start,
    /// Its middle.
    Middle,
    /// Its right end.
    End,
}

/// The style of a text.
#[derive(Clone, Copy, Debug)]
pub struct Ink {
    /// The font size in pixels.
    pub size: f64,
    /// Bold or regular.
    pub is_bold: bool,
    /// The colour.
    pub fill: &'static str,
    /// The class by which a dark page recolours it.
    pub class: &'static str,
    /// Whether a rim in the paper's colour keeps it readable on lines.
    pub has_halo: bool,
}

/// A regular text style.
pub const fn ink(size: f64, fill: &'static str, class: &'static str) -> Ink {
    Ink { size, is_bold: false, fill, class, has_halo: false }
}

impl Ink {
    /// The same style in bold.
    pub const fn bold(self) -> Self {
        Self { is_bold: true, ..self }
    }

    /// The same style with a rim.
    pub const fn halo(self) -> Self {
        Self { has_halo: true, ..self }
    }
}

/// An SVG document under construction.
#[derive(Debug, Default)]
pub struct Svg {
    body: String,
}

impl Svg {
    /// Appends `line` as markup.
    pub fn raw(&mut self, line: &str) {
        self.body.push_str(line);
        self.body.push('\n');
    }

    /// Opens a group with a class, moved by (x, y).
    pub fn open(&mut self, class: &str, x: f64, y: f64) {
        if x == 0.0 && y == 0.0 {
            self.raw(&format!(r#"<g class="{class}">"#));
        } else {
            self.raw(&format!(r#"<g class="{class}" transform="translate({} {})">"#, number(x), number(y)));
        }
    }

    /// Closes the innermost group.
    pub fn close(&mut self) {
        self.raw("</g>");
    }

    /// Adds a path with presentation attributes as markup, and a tooltip.
    pub fn path(&mut self, class: &str, data: &str, attributes: &str, tooltip: Option<&str>) {
        match tooltip {
            None => self.raw(&format!(r#"<path class="{class}" d="{data}" {attributes}/>"#)),
            Some(tooltip) => self.raw(&format!(
                r#"<path class="{class}" d="{data}" {attributes}><title>{}</title></path>"#,
                escape(tooltip)
            )),
        }
    }

    /// Adds a text whose baseline is at `y`.
    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, ink: Ink, content: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let mut line = format!(
            r#"<text class="{}" x="{}" y="{}" font-size="{}" fill="{}"{anchor}"#,
            ink.class,
            number(x),
            number(y),
            number(ink.size),
            ink.fill
        );
        if ink.is_bold {
            line.push_str(r#" font-weight="700""#);
        }
        if ink.has_halo {
            let _ = write!(
                line,
                r#" stroke="{BACKGROUND}" stroke-width="3" stroke-opacity="0.85" stroke-linejoin="round" paint-order="stroke""#
            );
        }
        let _ = write!(line, ">{}</text>", escape(content));
        self.raw(&line);
    }

    /// Writes a title and the lines below it. Returns their bottom.
    pub fn heading(&mut self, layout: Layout, title: &str, subtitle: &[String]) -> f64 {
        let style = ink(layout.either(21.0, 17.0), INK, "ink").bold();
        let small = ink(layout.either(13.0, 12.0), MUTED, "muted");
        // A reader without the font may have a wider one.
        let room = 0.88 * layout.width();
        let mut y = layout.either(12.0, 2.0);
        for line in text::wrap(&words::printable(title), room, style.size, true, layout.either(2, 4)) {
            y += layout.either(26.0, 22.0);
            self.text(layout.margin(), y, Anchor::Start, style, &line);
        }
        let n_lines_max = layout.either(3, 8);
        for line in
            subtitle.iter().flat_map(|line| text::wrap(&words::printable(line), room, small.size, false, n_lines_max))
        {
            y += layout.either(20.0, 17.0);
            self.text(layout.margin(), y, Anchor::Start, small, &line);
        }
        y
    }

    /// Returns the document, with a title and description for screen readers.
    pub fn finish(self, width: f64, height: f64, title: &str, description: &str) -> String {
        let (width, height) = (number(width), number(height));
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" class="rose" viewBox="0 0 {w} {h}" width="{w}" height="{h}" "#,
                r#"role="img" aria-labelledby="rose-title rose-desc" "#,
                r#"font-family="{family}, 'Helvetica Neue', Arial, sans-serif">"#,
                "\n",
                r#"<title id="rose-title">{title}</title>"#,
                "\n",
                r#"<desc id="rose-desc">{description}</desc>"#,
                "\n",
                r#"<rect class="paper" width="{w}" height="{h}" fill="{background}"/>"#,
                "\n{body}</svg>\n"
            ),
            w = width,
            h = height,
            family = font::FAMILY,
            title = escape(title),
            description = escape(description),
            background = BACKGROUND,
            body = self.body
        )
    }
}

#[cfg(test)]
mod tests;
