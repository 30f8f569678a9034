//! JPEG by libjpeg-turbo's arithmetic, which Pillow also uses.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use mozjpeg::{ColorSpace, Decompress};

use super::{check_size, rgb_image};
use crate::domain::RgbImage;

/// Decodes a JPEG of one, three or four components.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    // libjpeg reports errors by unwinding. The decoder is then dropped, and no state of ours is left half-changed.
    catch_unwind(AssertUnwindSafe(|| decode_unwinding(bytes))).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("libjpeg failed");
        Err(message.trim_start_matches("libjpeg fatal error: ").to_owned())
    })
}

fn decode_unwinding(bytes: &[u8]) -> Result<RgbImage, String> {
    let failed = |error: io::Error| error.to_string();
    let ran_dry = Rc::new(Cell::new(false));
    let reader = Watched { rest: bytes, ran_dry: Rc::clone(&ran_dry) };
    let decoder = Decompress::new_reader(reader).map_err(failed)?;
    let (width, height) = check_size(decoder.width() as u64, decoder.height() as u64)?;
    let n_channels = decoder.components().len();
    let space = match n_channels {
        1 => ColorSpace::JCS_GRAYSCALE,
        3 => ColorSpace::JCS_RGB,
        4 => ColorSpace::JCS_CMYK,
        n => return Err(format!("it has {n} colour components")),
    };
    let mut started = decoder.to_colorspace(space).map_err(failed)?;
    let mut samples = vec![0u8; width as usize * height as usize * n_channels];
    let n_read = started.read_scanlines_into::<u8>(&mut samples).map_err(failed)?.len();
    let n_bytes = samples.len();
    started.finish().map_err(failed)?;
    if n_read != n_bytes || ran_dry.get() {
        return Err("it is truncated".to_owned());
    }
    let pixels = match n_channels {
        1 => samples.iter().flat_map(|&level| [level; 3]).collect(),
        3 => samples,
        _ => samples.chunks_exact(4).flat_map(rgb_of_inverted_cmyk).collect(),
    };
    rgb_image(width, height, pixels)
}

/// Pillow assumes that every CMYK JPEG is Adobe's, with inverted inks, and then subtracts inks from white: `(255 - ink)
/// * (255 - black) / 255`, with the division rounded in integers.
fn rgb_of_inverted_cmyk(pixel: &[u8]) -> [u8; 3] {
    let white = u32::from(pixel[3]);
    [0, 1, 2].map(|channel| {
        let ink = 255 - u32::from(pixel[channel]);
        let product = ink * white + 128;
        let taken = ((product >> 8) + product) >> 8;
        u8::try_from(white.saturating_sub(taken)).unwrap_or(u8::MAX)
    })
}

/// The bytes of a file, and whether the decoder read past their end. libjpeg then invents an end of image and fills the
/// rest with grey; Pillow refuses such a file, and so does emt.
struct Watched<'a> {
    rest: &'a [u8],
    ran_dry: Rc<Cell<bool>>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buffer)
    }
}

impl BufRead for Watched<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.ran_dry.set(true);
        }
        Ok(self.rest)
    }

    fn consume(&mut self, n_bytes: usize) {
        self.rest = &self.rest[n_bytes.min(self.rest.len())..];
    }
}
