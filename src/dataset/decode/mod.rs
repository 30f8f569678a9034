//! Decoding, bit for bit as Pillow's `Image.open(file).convert("RGB")`.

use crate::domain::RgbImage;

/// Decodes an encoded image (JPEG, PNG, GIF, BMP, TIFF, WebP, PNM); the error says what is wrong with it.
pub fn decode(_bytes: &[u8]) -> Result<RgbImage, String> {
    Err("not yet".to_owned())
}
