//! The two layouts of a chart: for a screen or a sheet of paper, and for a phone.

/// How much room a chart has from side to side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// A screen or a page; what files hold.
    Wide,
    /// A phone, upright.
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

    /// What stays free at the left and at the right.
    pub fn margin(self) -> f64 {
        match self {
            Layout::Wide => 32.0,
            Layout::Narrow => 12.0,
        }
    }

    /// The wide value or the narrow one.
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
    /// What `draw` makes for each layout.
    pub(super) fn of(draw: impl Fn(Layout) -> String) -> Self {
        Self { wide: draw(Layout::Wide), narrow: draw(Layout::Narrow) }
    }
}
