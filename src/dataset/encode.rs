//! Image encoding, for a server that must receive exactly the decoded pixels.

use anyhow::{Context, Result};
use image::ImageEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};

use crate::domain::RgbImage;

/// Encodes the image as PNG, which is lossless.
pub fn png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive)
        .write_image(image.pixels(), image.width(), image.height(), image::ExtendedColorType::Rgb8)
        .context("an image cannot be encoded as PNG")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
