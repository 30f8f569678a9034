//! SVG to PNG.
/// Rasterises `svg` to a PNG of `width_px` pixels.
pub fn png(svg: &str, width_px: u32) -> anyhow::Result<Vec<u8>> {
    let _ = (svg, width_px);
    anyhow::bail!("not yet")
}
