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
mod tests {
    use super::*;
    use crate::dataset::decode;

    #[test]
    fn a_png_holds_the_pixels_that_went_in() {
        for (width, height) in [(1, 1), (3, 2), (32, 32), (75, 50)] {
            let pixels = (0..width * height * 3).map(|i| (i * 37 % 256) as u8).collect();
            let image = RgbImage::new(width, height, pixels).unwrap();
            assert_eq!(decode(&png(&image).unwrap()).unwrap(), image);
        }
    }
}
