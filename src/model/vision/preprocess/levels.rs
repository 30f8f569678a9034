//! Converts grey levels to the numbers that a tower reads.

use crate::domain::RgbImage;

/// The value of each grey level in each channel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Levels(Box<[[f32; 256]; 3]>);

impl Levels {
    /// Computes `(level * rescale - mean) / std`.
    pub(super) fn new(rescale: f64, mean: [f32; 3], std: [f32; 3]) -> Self {
        let mut levels = Box::new([[0f32; 256]; 3]);
        for (channel, values) in levels.iter_mut().enumerate() {
            for (level, value) in values.iter_mut().enumerate() {
                // Order and precision as in transformers: rescale in f64, round to f32, then normalise in f32.
                let rescaled = (level as f64 * rescale) as f32;
                *value = (rescaled - mean[channel]) / std[channel];
            }
        }
        Self(levels)
    }

    /// Returns the value of each level, by channel.
    pub(super) fn channels(&self) -> &[[f32; 256]; 3] {
        &self.0
    }

    /// Appends the square of `side` pixels at row `top` and column `left` of `image` to `out` as `(3, side, side)`.
    /// `image` contains the square.
    pub(super) fn extend_with_square(&self, image: &RgbImage, (top, left): (u32, u32), side: u32, out: &mut Vec<f32>) {
        let (width, side) = (image.width() as usize, side as usize);
        let (top, left) = (top as usize, left as usize);
        for (channel, values) in self.0.iter().enumerate() {
            for row in top..top + side {
                let start = (row * width + left) * 3;
                let levels = image.pixels()[start..start + side * 3].iter().skip(channel).step_by(3);
                out.extend(levels.map(|&level| values[usize::from(level)]));
            }
        }
    }
}
