//! Numbers to pictures.
//!
//! [`rose`] and [`lines`](lines()) draw the SVG, which is the source; [`png`] rasterises it with the embedded font. All return
//! what they made and touch no files. What a chart shows is a [`RoseChart`], which
//! [`RoseChart::of_summary`] fills; a layout that needs other series (a before and an after) is one more
//! [`Style`] over the same data.

mod geometry;
mod labels;
mod legend;
mod lines;
mod of_summary;
mod of_training;
mod petals;
mod radar;
mod raster;
mod rose;
#[cfg(test)]
pub(crate) mod samples;
mod svg;
#[cfg(test)]
mod tests;
mod text;
pub mod words;

pub use lines::{Line, LineChart, LinePoint, lines};
pub use raster::png;
pub use rose::{Axis, Point, Role, RoseChart, RoseOptions, Scale, Series, Style, UnknownName, rose};
pub use svg::escape;
