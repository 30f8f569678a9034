//! Converts SVG to PNG.

use std::sync::{Arc, LazyLock};

use anyhow::Context as _;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::{Database, Source};
use resvg::usvg::{Options, Tree};

use crate::assets::font;

/// The largest width or height of a picture, in pixels.
const SIDE_PX_MAX: u32 = 16_384;

/// Only the embedded font, so that a PNG looks the same on every machine.
static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    for bytes in [font::REGULAR, font::BOLD] {
        fonts.load_font_source(Source::Binary(Arc::new(bytes)));
    }
    fonts.set_sans_serif_family(font::FAMILY);
    fonts.set_serif_family(font::FAMILY);
    fonts.set_monospace_family(font::FAMILY);
    Arc::new(fonts)
});

/// Rasterises `svg` to a PNG that is `width_px` pixels wide, with the embedded font.
///
/// # Errors
/// `svg` is not SVG, or the picture would be empty or exceed 16,384 pixels in width or height.
pub fn png(svg: &str, width_px: u32) -> anyhow::Result<Vec<u8>> {
    let tree = parse(svg)?;
    let size = tree.size();
    let scale = width_px as f32 / size.width();
    let height_px = (size.height() * scale).ceil();
    anyhow::ensure!(
        (1..=SIDE_PX_MAX).contains(&width_px) && height_px <= SIDE_PX_MAX as f32,
        "failed to rasterise a chart: {width_px}×{height_px} pixels; hint: use a width from 1 to {SIDE_PX_MAX} px"
    );
    let mut pixmap = Pixmap::new(width_px, (height_px as u32).max(1)).context("failed to allocate the picture")?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    pixmap.encode_png().context("failed to write a chart as PNG")
}

/// Parses `svg` and lays its texts out in the embedded font.
pub(super) fn parse(svg: &str) -> anyhow::Result<Tree> {
    let options = Options { fontdb: Arc::clone(&FONTS), font_family: font::FAMILY.to_owned(), ..Options::default() };
    Tree::from_str(svg, &options).context("failed to read a chart's SVG")
}
