//! The font of PNGs: a subset of Inter under the SIL Open Font License 1.1 (`fonts/OFL.txt`, `fonts/README.md`).

/// The family's name, which comes first in the font list of every SVG.
pub const FAMILY: &str = "Inter";

/// Inter Regular, OpenType.
pub const REGULAR: &[u8] = include_bytes!("fonts/Inter-Regular.subset.otf");

/// Inter Bold, OpenType.
pub const BOLD: &[u8] = include_bytes!("fonts/Inter-Bold.subset.otf");

/// The licence under which the font is passed on.
pub const LICENCE: &str = include_str!("fonts/OFL.txt");
