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
mod tests {
    use super::*;

    fn row(canvas: &Canvas, row: usize, columns: Range<usize>) -> Vec<u8> {
        let mut out = Vec::new();
        canvas.extend_with_row(row, columns, &mut out);
        out.into_iter().step_by(3).collect()
    }

    #[test]
    fn the_ground_lies_around_the_image() {
        let tall = RgbImage::from_grey(1, 4, &[1, 2, 3, 4]).unwrap();
        let canvas = Canvas::new(&tall, Some([9, 8, 7]));
        assert_eq!(canvas.size(), (4, 4));
        assert_eq!(row(&canvas, 2, 0..4), [9, 3, 9, 9]);
        assert_eq!(row(&canvas, 2, 2..4), [9, 9]);
        assert_eq!(row(&canvas, 2, 1..2), [3]);
        let wide = RgbImage::from_grey(3, 1, &[1, 2, 3]).unwrap();
        let canvas = Canvas::new(&wide, Some([9, 8, 7]));
        assert_eq!(
            [row(&canvas, 0, 0..3), row(&canvas, 1, 0..3), row(&canvas, 2, 1..3)].concat(),
            [9, 9, 9, 1, 2, 3, 9, 9]
        );
    }

    #[test]
    fn without_a_ground_the_canvas_is_the_image() {
        let image = RgbImage::from_grey(2, 3, &[1, 2, 3, 4, 5, 6]).unwrap();
        let canvas = Canvas::new(&image, None);
        assert_eq!(canvas.size(), (2, 3));
        assert_eq!(row(&canvas, 2, 0..2), [5, 6]);
    }
}
