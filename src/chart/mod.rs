//! Turns numbers into pictures.
//!
//! [`rose`], [`lines`](lines()), [`forest`](forest()), [`bars`](bars()), [`panels`](panels()),
//! [`transitions`](transitions()), [`small_multiples`](small_multiples()) and [`frontier`](frontier()) draw the SVG, which is
//! the source. [`png`] rasterises it with the embedded font. None of them touches files. The content of a chart is a struct, such as
//! [`RoseChart`], which [`RoseChart::of_summary`] fills; [`ComparisonCharts`] draws all charts of a comparison, and
//! [`DiagnosisCharts`] those of a diagnosis. The ids in a picture start with `rose-`, so that a page with several
//! pictures can distinguish them.

mod axes;
mod bars;
#[cfg(test)]
pub(crate) mod comparison_samples;
#[cfg(test)]
pub(crate) mod diagnosis_samples;
mod families;
mod forest;
mod frontier;
mod geometry;
mod labels;
mod layout;
mod legend;
mod lines;
mod of_comparison;
mod of_diagnosis;
mod of_recovery;
mod of_summary;
mod of_sweep;
mod of_training;
mod panels;
mod petals;
mod radar;
mod raster;
mod rose;
#[cfg(test)]
pub(crate) mod samples;
mod small_multiples;
mod svg;
#[cfg(test)]
mod tests;
mod text;
mod transitions;
pub mod words;

pub use bars::{Bar, BarChart, BarGroup, BarLook, BarRow, bars};
pub use forest::{ForestChart, ForestGroup, ForestRow, Shown, forest, shown};
pub use frontier::{Frontier, FrontierPoint, FrontierSeries, frontier};
pub use layout::{Drawn, Layout};
pub use lines::{Line, LineChart, LinePoint, lines};
pub use of_comparison::{ComparisonCharts, Figure};
pub use of_diagnosis::DiagnosisCharts;
pub use of_sweep::SweptRose;
pub use panels::{CurveLook, Panel, PanelChart, PanelCurve, PanelGroup, PanelLevel, PanelPoint, panels};
pub use raster::png;
pub use rose::{Axis, Point, Role, RoseChart, RoseOptions, Scale, Series, Style, UnknownName, rose};
pub use small_multiples::{SmallMultiples, SmallRose, small_multiples};
pub use svg::escape;
pub use transitions::{Flow, TransitionChart, TransitionPanel, transitions};

/// The width of the PNG files, in pixels.
pub const PNG_WIDTH_PX: u32 = 1600;

impl Drawn {
    /// Draws a rose.
    pub fn rose(chart: &RoseChart) -> Self {
        Self::of(|layout| rose::rose_in(chart, layout))
    }

    /// Draws a line chart.
    pub fn lines(chart: &LineChart) -> Self {
        Self::of(|layout| lines::lines_in(chart, layout))
    }

    /// Draws a forest plot.
    pub fn forest(chart: &ForestChart) -> Self {
        Self::of(|layout| forest::forest_in(chart, layout))
    }

    /// Draws a bar chart.
    pub fn bars(chart: &BarChart) -> Self {
        Self::of(|layout| bars::bars_in(chart, layout))
    }

    /// Draws a panel chart.
    pub fn panels(chart: &PanelChart) -> Self {
        Self::of(|layout| panels::panels_in(chart, layout))
    }

    /// Draws a transition diagram.
    pub fn transitions(chart: &TransitionChart) -> Self {
        Self::of(|layout| transitions::transitions_in(chart, layout))
    }

    /// Draws small multiples.
    pub fn small_multiples(multiples: &SmallMultiples) -> Self {
        Self::of(|layout| small_multiples::small_multiples_in(multiples, layout))
    }

    /// Draws a frontier.
    pub fn frontier(chart: &Frontier) -> Self {
        Self::of(|layout| frontier::frontier_in(chart, layout))
    }
}
