//! Images compiled into the program: many of one size on a sheet, which is decoded as a whole when the first is read.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, ensure};

use super::{Opened, ReadImage, Reader, indexed, unreadable};
use crate::assets::embedded::{MINIATURE, WITHOUT_MINIATURE};
use crate::dataset::UnreadableImage;
use crate::dataset::decode;
use crate::domain::RgbImage;

/// Sheets of the miniature; they have no folder.
pub(super) const READER: Reader = Reader {
    name: "embedded",
    is_of_encoded_images: false,
    is_built_in: true,
    open: |wanted| {
        let n_images = wanted.option("n_samples", wanted.n_samples)?;
        let name = wanted.path()?.to_string_lossy();
        open_sheet(&name, find(&name)?, n_images, wanted.labels.len())
    },
};

/// Images per row of a sheet.
const N_COLUMNS: usize = 25;

/// Whether the program contains the sheet `name`.
pub(in crate::dataset) fn is_there(name: &str) -> bool {
    find(name).is_ok()
}

fn find(name: &str) -> anyhow::Result<&'static [u8]> {
    let miniature = MINIATURE.as_ref().context(WITHOUT_MINIATURE)?;
    let sheet = miniature.sheets.iter().find(|(sheet, _)| *sheet == name);
    sheet.map(|(_, bytes)| *bytes).with_context(|| {
        let names: Vec<&str> = miniature.sheets.iter().map(|(sheet, _)| *sheet).collect();
        format!("no embedded sheet of images is called `{name}`; hint: there are {}", names.join(", "))
    })
}

/// Opens the sheet `name`, on which the classes alternate: image `i` is of class `i` mod `n_classes`.
fn open_sheet(name: &str, bytes: &'static [u8], n_images: usize, n_classes: usize) -> anyhow::Result<Opened> {
    ensure!(
        n_images > 0 && n_images.is_multiple_of(N_COLUMNS),
        "an embedded sheet has rows of {N_COLUMNS} images, and `{name}` is said to have {n_images}; hint: its n_samples"
    );
    let sheet = Sheet { path: format!("embedded/{name}.webp"), bytes, n_images, pixels: OnceLock::new() };
    let labels = (0..n_images).map(|index| index % n_classes).collect();
    Ok(indexed(vec![(labels, Arc::new(sheet))]))
}

struct Sheet {
    /// The path for errors.
    path: String,
    bytes: &'static [u8],
    n_images: usize,
    pixels: OnceLock<Result<RgbImage, String>>,
}

impl Sheet {
    /// Returns the whole sheet: square images, [`N_COLUMNS`] per row.
    fn pixels(&self) -> Result<&RgbImage, String> {
        let decode_whole = || {
            let sheet = decode(self.bytes)?;
            let side = sheet.width() as usize / N_COLUMNS;
            let is_whole = side * N_COLUMNS == sheet.width() as usize
                && side * (self.n_images / N_COLUMNS) == sheet.height() as usize;
            let sides = format!("{} x {}", sheet.width(), sheet.height());
            is_whole.then_some(sheet).ok_or_else(|| format!("it has {sides} pixels, not {} images", self.n_images))
        };
        self.pixels.get_or_init(decode_whole).as_ref().map_err(Clone::clone)
    }

    fn crop(&self, position: usize) -> Result<RgbImage, String> {
        let sheet = self.pixels()?;
        if position >= self.n_images {
            return Err(format!("there is no image {position}"));
        }
        let side = sheet.width() as usize / N_COLUMNS;
        let (row, column) = (position / N_COLUMNS, position % N_COLUMNS);
        let n_row_bytes = 3 * sheet.width() as usize;
        let pixels = sheet
            .pixels()
            .chunks_exact(n_row_bytes)
            .skip(row * side)
            .take(side)
            .flat_map(|line| &line[3 * column * side..3 * (column + 1) * side])
            .copied()
            .collect();
        RgbImage::new(side as u32, side as u32, pixels).ok_or_else(|| format!("image {position} has no pixels"))
    }
}

impl ReadImage for Sheet {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        self.crop(position).map_err(|message| unreadable(&self.path, &message, self.bytes))
    }
}

#[cfg(test)]
mod tests;
