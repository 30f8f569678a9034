//! The two layouts of a chart: wide for screens and paper, narrow for phones.

/// The horizontal room of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// A screen or a page; used in files.
    Wide,
    /// A phone in portrait orientation.
    Narrow,
}

impl Layout {
    /// The width of a picture in user units. A narrow one is shown at about this many pixels.
    pub fn width(self) -> f64 {
        match self {
            Layout::Wide => 960.0,
            Layout::Narrow => 360.0,
        }
    }

    /// The empty margin at the left and right.
    pub fn margin(self) -> f64 {
        match self {
            Layout::Wide => 32.0,
            Layout::Narrow => 12.0,
        }
    }

    /// Returns `wide` or `narrow`, depending on the layout.
    pub fn either<T>(self, wide: T, narrow: T) -> T {
        match self {
            Layout::Wide => wide,
            Layout::Narrow => narrow,
        }
    }
}

/// One chart in both layouts, as SVG documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// For screens, paper and files.
    pub wide: String,
    /// For phones.
    pub narrow: String,
}

impl Drawn {
    /// Calls `draw` for both layouts.
    pub(super) fn of(draw: impl Fn(Layout) -> String) -> Self {
        Self { wide: draw(Layout::Wide), narrow: draw(Layout::Narrow) }
    }
}
