//! The image to resize: as decoded, or in the middle of a square.

use std::ops::Range;

use crate::domain::RgbImage;

/// An image on a background. The background is not stored: for a long strip it would be a hundred times the strip.
pub(super) struct Canvas<'a> {
    image: &'a RgbImage,
    ground: [u8; 3],
    width: usize,
    height: usize,
    /// The place where the image begins.
    left: usize,
    top: usize,
}

impl<'a> Canvas<'a> {
    /// Returns the image itself, or centred on a square of its longer side in the colour `ground`.
    pub(super) fn new(image: &'a RgbImage, ground: Option<[u8; 3]>) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        match ground {
            None => Self { image, ground: [0; 3], width, height, left: 0, top: 0 },
            Some(ground) => {
                let side = width.max(height);
                let (left, top) = ((side - width) / 2, (side - height) / 2);
                Self { image, ground, width: side, height: side, left, top }
            }
        }
    }

    /// (width, height).
    pub(super) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Whether row `row` contains nothing of the image.
    pub(super) fn is_ground(&self, row: usize) -> bool {
        row < self.top || row >= self.top + self.image.height() as usize
    }

    /// Appends the pixels `columns` of row `row` to `out`.
    pub(super) fn extend_with_row(&self, row: usize, columns: Range<usize>, out: &mut Vec<u8>) {
        let image_width = self.image.width() as usize;
        let start = columns.start.clamp(self.left, self.left + image_width);
        let end = columns.end.clamp(start, self.left + image_width);
        if self.is_ground(row) || start == end {
            return out.extend(self.ground.repeat(columns.len()));
        }
        out.extend(self.ground.repeat(start - columns.start));
        let row_start = (row - self.top) * image_width;
        let pixels = row_start + start - self.left..row_start + end - self.left;
        out.extend_from_slice(&self.image.pixels()[pixels.start * 3..pixels.end * 3]);
        out.extend(self.ground.repeat(columns.end - end));
    }
}

#[cfg(test)]
mod tests;
