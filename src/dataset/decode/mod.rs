//! Decoding, bit for bit as Pillow's `Image.open(file).convert("RGB")`.
//!
//! That means: EXIF orientation is not applied, colour profiles and gamma are not applied, transparency is dropped and not
//! blended, 16-bit grey is clipped at 255 and not scaled, and of an animation the first frame counts.

mod exotic;
mod gif;
mod jpeg;
mod raster;

use crate::domain::RgbImage;

/// Pillow's limit against decompression bombs (twice its `MAX_IMAGE_PIXELS`), held before any pixel is allocated.
const PIXELS_MAX: u64 = 178_956_970;

/// Decodes an encoded image (JPEG, PNG, GIF, BMP, TIFF, WebP, PNM); the error says what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        return jpeg::decode(bytes);
    }
    // Third-party decoders are well tested, but one image must never end a run.
    std::panic::catch_unwind(|| raster::decode(bytes)).unwrap_or_else(|_| Err("its decoder gave up".to_owned()))
}

/// Checks the sides that a header claims.
fn check_size(width: u64, height: u64) -> Result<(u32, u32), String> {
    let n_pixels = width.checked_mul(height).filter(|&n_pixels| n_pixels <= PIXELS_MAX);
    match (n_pixels, u32::try_from(width), u32::try_from(height)) {
        (Some(0), ..) => Err(format!("its header claims {width} x {height} pixels")),
        (Some(_), Ok(width), Ok(height)) => Ok((width, height)),
        _ => Err(format!("its header claims {width} x {height} pixels, more than {PIXELS_MAX}: a decompression bomb?")),
    }
}

fn rgb_image(width: u32, height: u32, pixels: Vec<u8>) -> Result<RgbImage, String> {
    RgbImage::new(width, height, pixels).ok_or_else(|| "its pixels do not fill its sides".to_owned())
}

#[cfg(test)]
mod tests;
