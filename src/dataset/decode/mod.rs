//! Decoding, bit for bit as Pillow's `Image.open(file).convert("RGB")`.
//!
//! In particular: the EXIF orientation is applied to TIFF and to no other format (unless [`Orientation`] says
//! otherwise), colour profiles and gamma are not applied, transparency is dropped and not blended, 16-bit grey is
//! clipped at 255 and not scaled, and an animation gives its first frame.

mod exotic;
mod gif;
mod jpeg;
mod orientation;
mod raster;

use crate::domain::RgbImage;

pub use orientation::Orientation;

/// Pillow's limit against decompression bombs (twice its `MAX_IMAGE_PIXELS`), checked before any pixel is allocated.
const PIXELS_MAX: u64 = 178_956_970;

/// Decodes an encoded image (JPEG, PNG, GIF, BMP, TIFF, WebP, PNM); the error says what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    decode_turned(bytes, Orientation::AsPillow)
}

/// Like [`decode`], with the given orientation.
pub(super) fn decode_turned(bytes: &[u8], orientation: Orientation) -> Result<RgbImage, String> {
    let image = decode_as_stored(bytes)?;
    let is_turned = match orientation {
        Orientation::AsPillow => orientation::is_tiff(bytes),
        Orientation::Applied => true,
        Orientation::Ignored => false,
    };
    let orientation = if is_turned { orientation::of(bytes) } else { None };
    Ok(match orientation {
        Some(orientation) => orientation::turned(image, orientation),
        None => image,
    })
}

fn decode_as_stored(bytes: &[u8]) -> Result<RgbImage, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        return jpeg::decode(bytes);
    }
    if let Some(format) = unread_format(bytes) {
        return Err(format!("it is {format}, which is not read; hint: convert it to PNG or JPEG"));
    }
    // Third-party decoders are well tested, but one image must never end a run.
    std::panic::catch_unwind(|| raster::decode(bytes)).unwrap_or_else(|_| Err("its decoder gave up".to_owned()))
}

/// Whether a file that begins with `start` is an image, even of an unsupported format.
pub(super) fn looks_like_image(start: &[u8]) -> bool {
    let is_bmp = || {
        let header_len = start.get(14).copied().unwrap_or(0);
        start.starts_with(b"BM") && matches!(header_len, 12 | 40 | 52 | 56 | 64 | 108 | 124)
    };
    let is_pnm = || {
        matches!(start, [b'P', b'4'..=b'6', space, next, ..]
            if space.is_ascii_whitespace() && (next.is_ascii_digit() || *next == b'#'))
    };
    let magics: [&[u8]; 4] = [&[0xff, 0xd8, 0xff], b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"];
    magics.iter().any(|magic| start.starts_with(magic))
        || orientation::is_tiff(start)
        || (start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP"))
        || is_bmp()
        || is_pnm()
        || unread_format(start).is_some()
}

/// Returns the name of a known but unsupported image format.
fn unread_format(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4)? {
            b"avif" | b"avis" => Some("an AVIF image"),
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => Some("a HEIC image"),
            b"crx " => Some("a camera's raw picture"),
            _ => None,
        },
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => Some("a JPEG 2000 image"),
        [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] | [0xff, 0x0a, ..] => Some("a JPEG XL image"),
        [b'8', b'B', b'P', b'S', ..] => Some("a Photoshop document"),
        _ if bytes.starts_with(b"<svg") => Some("an SVG drawing"),
        _ => None,
    }
}

/// Whether the bytes have TIFF structure, as most cameras' raw pictures do.
pub(super) fn is_tiff(bytes: &[u8]) -> bool {
    orientation::is_tiff(bytes)
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
    RgbImage::new(width, height, pixels)
        .ok_or_else(|| "its number of pixels does not match its width and height".to_owned())
}

#[cfg(test)]
mod tests;
