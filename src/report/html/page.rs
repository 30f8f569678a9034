//! The parts of a page: the frame, sections, tables, notes and figures.

use std::fmt::Write as _;

use super::super::notes::{Note, Weight};
use super::super::tables::Table;
use crate::chart::{Drawn, escape};

/// The styles, embedded in the page.
const STYLE: &str = concat!(include_str!("report.css"), include_str!("comparison.css"));

/// The namespace of SVG. A page does not need it, and it looks like an address to load.
const SVG_NAMESPACE: &str = r#" xmlns="http://www.w3.org/2000/svg""#;

/// The most bytes of a value; a longer cell is treated as a sentence.
const N_BYTES_LONG: usize = 48;

/// What a page contains in addition to text and styles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Only charts.
    Charts,
    /// Charts, and images as data URLs.
    Images,
}

/// Returns the page around `body`. `title` must be escaped.
pub fn page(title: &str, body: &str) -> String {
    page_that_holds(Holds::Charts, title, body)
}

/// Returns the page around `body`, which may contain more than charts. `title` must be escaped.
pub fn page_that_holds(holds: Holds, title: &str, body: &str) -> String {
    let images = match holds {
        Holds::Charts => "",
        Holds::Images => " img-src data:;",
    };
    format!(
        concat!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
            "<meta name=\"color-scheme\" content=\"light dark\">\n",
            // Even an answer that bypassed escaping could load, run or send nothing.
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';{images} base-uri 'none'; form-action 'none'\">\n",
            "<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
        ),
        images = images,
        title = title,
        style = STYLE,
        body = body
    )
}

/// Opens a section. `heading` is markup.
pub fn section(body: &mut String, id: &str, heading: &str) {
    let _ = writeln!(body, "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{heading}</h2>");
}

/// Writes a table in a region that scrolls.
pub fn write_table(body: &mut String, table: &Table) {
    let caption = escape(&table.caption);
    // A scrolling region must be reachable by keyboard.
    let _ = writeln!(
        body,
        "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\">\n<table>\n<caption><span>{caption}</span></caption>\n<thead><tr>"
    );
    let class = |column: usize| if table.numbers.contains(&column) { " class=\"number\"" } else { "" };
    for (column, name) in table.columns.iter().enumerate() {
        let _ = write!(body, "<th scope=\"col\"{}>{}</th>", class(column), escape(name));
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        body.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            let _ = match column {
                // A long name may break after a slash.
                0 => write!(body, "<th scope=\"row\">{}</th>", cell.replace('/', "/<wbr/>")),
                // Sentences need width, which a narrow screen provides by scrolling.
                _ if cell.len() > N_BYTES_LONG => write!(body, "<td class=\"long\">{cell}</td>"),
                _ if table.numbers.contains(&column) => {
                    write!(body, "<td class=\"number\">{}</td>", with_kept_interval(&cell))
                }
                _ => write!(body, "<td>{cell}</td>"),
            };
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</tbody>\n</table>\n</div>\n");
}

/// Returns the markup of a number. Its interval stays together and may move to a second line, so that all columns fit
/// on a screen. A cell with a space and no interval, such as `88.9% → 77.4%`, stays on one line.
fn with_kept_interval(cell: &str) -> String {
    match cell.split_once(" (") {
        Some((number, interval)) => format!("{number} <span class=\"interval\">({interval}</span>"),
        None if cell.contains(' ') => format!("<span class=\"interval\">{cell}</span>"),
        None => cell.to_owned(),
    }
}

/// Writes a table that is folded until it is opened.
pub fn write_folded_table(body: &mut String, table: &Table) {
    let _ = writeln!(body, "<details>\n<summary>{}</summary>", escape(&table.caption));
    write_table(body, table);
    body.push_str("</details>\n");
}

/// Writes notes in their order.
pub fn write_notes(body: &mut String, notes: &[Note]) {
    if notes.is_empty() {
        return;
    }
    body.push_str("<ul class=\"notes\">\n");
    for note in notes {
        let (class, mark) = match note.weight {
            Weight::Warning => ("warning", "<strong>Warning.</strong> "),
            Weight::Remark => ("remark", ""),
        };
        let _ = writeln!(body, "<li class=\"{class}\">{mark}{}</li>", escape(&note.text));
    }
    body.push_str("</ul>\n");
}

/// Charts of one page; gives each its own ids.
#[derive(Debug, Default)]
pub struct Figures {
    n_written: usize,
}

impl Figures {
    /// Writes a chart with a caption, which is markup. The styles show the layout that fits the window.
    pub fn write(&mut self, body: &mut String, chart: &Drawn, caption: &str) {
        let (wide, narrow) = (self.prepared(&chart.wide, "wide"), self.prepared(&chart.narrow, "narrow"));
        // It scrolls in its own box on a very narrow screen, and must then be reachable by keyboard.
        let _ = writeln!(
            body,
            "<figure class=\"chart\" tabindex=\"0\">{wide}{narrow}<figcaption>{caption}</figcaption></figure>"
        );
    }

    /// Returns the picture with its own ids, the class of its layout, and the width below which its words would be too
    /// small.
    fn prepared(&mut self, svg: &str, layout: &str) -> String {
        self.n_written += 1;
        let prefix = format!("chart-{}-", self.n_written);
        // Quotes in texts are escaped in a chart, so these strings occur in no text.
        let svg = svg
            .replacen(SVG_NAMESPACE, "", 1)
            .replacen("class=\"rose\"", &format!("class=\"rose {layout}\""), 1)
            .replace("id=\"rose-", &format!("id=\"{prefix}"))
            .replace("\"url(#rose-", &format!("\"url(#{prefix}"))
            .replacen("\"rose-title rose-desc\"", &format!("\"{prefix}title {prefix}desc\""), 1);
        match width_px_min(&svg) {
            Some(width) => svg.replacen("<svg ", &format!("<svg style=\"min-width:{width:.0}px\" "), 1),
            None => svg,
        }
    }
}

/// The smallest size at which texts of a chart are shown.
const TEXT_PX_MIN: f64 = 9.0;

/// Returns the width at which the smallest text of a chart has the size [`TEXT_PX_MIN`].
fn width_px_min(svg: &str) -> Option<f64> {
    let view_box = svg.split_once("viewBox=\"0 0 ")?.1;
    let width: f64 = view_box.split(' ').next()?.parse().ok()?;
    let sizes = svg.split("font-size=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse::<f64>().ok());
    let smallest = sizes.min_by(f64::total_cmp)?;
    Some((width * TEXT_PX_MIN / smallest).ceil())
}

#[cfg(test)]
mod tests;
