//! The orientation stored in an image (EXIF, or XMP if EXIF has none), read from where Pillow reads it.

use std::io::Read;

use crate::domain::RgbImage;

/// The EXIF tag of the orientation.
const ORIENTATION: u16 = 0x0112;

/// The TIFF tag of XMP.
const XMP: u16 = 700;

/// A larger text in a PNG holds no orientation.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// How to treat the orientation stored in an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orientation {
    /// Like Pillow's `Image.open(file).convert("RGB")` and torchvision's `ImageFolder`: only TIFF is turned.
    #[default]
    AsPillow,
    /// Every image is turned upright, as the library `datasets` and `PIL.ImageOps.exif_transpose` do.
    Applied,
    /// No image is turned.
    Ignored,
}

/// Returns the orientation of an encoded image, 2 to 8; `None` if it is upright or not stored.
pub(super) fn of(bytes: &[u8]) -> Option<u8> {
    let found = if bytes.starts_with(&[0xff, 0xd8]) {
        of_jpeg(bytes)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        of_png(bytes)
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        of_webp(bytes)
    } else if is_tiff(bytes) {
        Found { exif: Some(bytes.to_vec()), xmp: None }
    } else {
        return None;
    };
    let directory = found.exif.as_deref().and_then(Directory::of_exif);
    let in_exif = directory.as_ref().and_then(|directory| directory.number(ORIENTATION));
    let orientation = match in_exif {
        Some(number) => u8::try_from(number).ok(),
        None => {
            let of_tiff = directory.and_then(|directory| directory.bytes(XMP)).map(<[u8]>::to_vec);
            found.xmp.or(of_tiff).and_then(|xmp| in_xmp(&xmp))
        }
    };
    orientation.filter(|orientation| (2..=8).contains(orientation))
}

/// Whether the bytes are a TIFF, or a format built on it.
pub(super) fn is_tiff(bytes: &[u8]) -> bool {
    ["II*\0", "MM\0*", "II+\0", "MM\0+"].iter().any(|magic| bytes.starts_with(magic.as_bytes()))
}

/// Returns the image turned upright, as `PIL.ImageOps.exif_transpose` turns it.
pub(super) fn turned(image: RgbImage, orientation: u8) -> RgbImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (columns, rows) = if orientation >= 5 { (height, width) } else { (width, height) };
    let mut pixels = Vec::with_capacity(width * height * 3);
    for row in 0..rows {
        for column in 0..columns {
            let (y, x) = match orientation {
                2 => (row, width - 1 - column),
                3 => (height - 1 - row, width - 1 - column),
                4 => (height - 1 - row, column),
                5 => (column, row),
                6 => (height - 1 - column, row),
                7 => (height - 1 - column, width - 1 - row),
                8 => (column, width - 1 - row),
                _ => (row, column),
            };
            let start = (y * width + x) * 3;
            pixels.extend_from_slice(&image.pixels()[start..start + 3]);
        }
    }
    let (new_width, new_height) =
        if orientation >= 5 { (image.height(), image.width()) } else { (image.width(), image.height()) };
    RgbImage::new(new_width, new_height, pixels).unwrap_or(image)
}

/// The metadata of an image file.
#[derive(Default)]
struct Found {
    exif: Option<Vec<u8>>,
    xmp: Option<Vec<u8>>,
}

fn of_jpeg(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let mut at = 2;
    while let Some(&[marker_start, marker]) = bytes.get(at..at + 2) {
        if marker_start != 0xff || marker == 0xff {
            at += 1;
            continue;
        }
        at += 2;
        if matches!(marker, 0x00 | 0x01 | 0xd0..=0xd8) {
            continue;
        }
        // The pixels, or the end.
        if matches!(marker, 0xda | 0xd9) {
            break;
        }
        let Some(&[high, low]) = bytes.get(at..at + 2) else { break };
        let len = usize::from(u16::from_be_bytes([high, low])).max(2);
        let Some(segment) = bytes.get(at + 2..at + len) else { break };
        if marker == 0xe1 {
            if let Some(exif) = segment.strip_prefix(b"Exif\0\0") {
                // Long EXIF data is divided among several segments.
                found.exif.get_or_insert_default().extend_from_slice(exif);
            } else if let Some(xmp) = segment.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
                found.xmp = Some(xmp.to_vec());
            }
        }
        at += len;
    }
    found
}

fn of_png(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let mut at = 8;
    while let Some(header) = bytes.get(at..at + 8) {
        let len = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let end = (at + 8).checked_add(len);
        let Some(body) = end.and_then(|end| bytes.get(at + 8..end)) else { break };
        match &header[4..8] {
            b"eXIf" => found.exif = Some(body.to_vec()),
            b"tEXt" | b"zTXt" | b"iTXt" => {
                if let Some((key, text)) = png_text(&header[4..8], body) {
                    match key {
                        b"Raw profile type exif" if found.exif.is_none() => found.exif = raw_profile(&text),
                        b"XML:com.adobe.xmp" => found.xmp = Some(text),
                        _ => {}
                    }
                }
            }
            b"IEND" => break,
            _ => {}
        }
        // The checksum follows the body.
        at += 12 + len;
    }
    found
}

/// Returns keyword and text of a PNG's text chunk, if the keyword may hold an orientation.
fn png_text<'b>(kind: &[u8], body: &'b [u8]) -> Option<(&'b [u8], Vec<u8>)> {
    let end = body.iter().position(|&byte| byte == 0)?;
    let (key, rest) = (&body[..end], &body[end + 1..]);
    if !matches!(key, b"Raw profile type exif" | b"XML:com.adobe.xmp") {
        return None;
    }
    let text = match kind {
        b"tEXt" => rest.to_vec(),
        b"zTXt" => inflated(rest.get(1..)?)?,
        _ => {
            let is_compressed = *rest.first()? == 1;
            let mut parts = rest.get(2..)?.splitn(3, |&byte| byte == 0);
            let text = parts.nth(2)?;
            if is_compressed { inflated(text)? } else { text.to_vec() }
        }
    };
    Some((key, text))
}

fn inflated(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    flate2::read::ZlibDecoder::new(bytes).take(TEXT_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(text)
}

/// Decodes ImageMagick's form: an empty line, the kind, the length, then hexadecimal digits in lines.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.split(|&byte| byte == b'\n').skip(3);
    let digits: Vec<u8> = lines.flatten().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

fn of_webp(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let mut at = 12;
    while let Some(header) = bytes.get(at..at + 8) {
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let end = (at + 8).checked_add(len);
        let Some(body) = end.and_then(|end| bytes.get(at + 8..end)) else { break };
        match &header[..4] {
            b"EXIF" => found.exif = Some(body.to_vec()),
            b"XMP " => found.xmp = Some(body.to_vec()),
            _ => {}
        }
        at += 8 + len + len % 2;
    }
    found
}

/// Reads `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn in_xmp(xmp: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    let places =
        xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).map(|(at, _)| at + NAME.len());
    let digit = |at: usize| {
        let rest = &xmp[at..];
        let rest = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        rest.first().filter(|byte| byte.is_ascii_digit()).map(|byte| byte - b'0')
    };
    places.into_iter().find_map(digit)
}

/// The first directory of a TIFF structure, which EXIF uses.
struct Directory<'b> {
    bytes: &'b [u8],
    is_little: bool,
    is_big_tiff: bool,
    start: usize,
    n_entries: usize,
}

impl<'b> Directory<'b> {
    fn of_exif(exif: &'b [u8]) -> Option<Self> {
        let mut bytes = exif;
        while let Some(rest) = bytes.strip_prefix(b"Exif\0\0") {
            bytes = rest;
        }
        let is_little = match bytes.get(..2)? {
            b"II" => true,
            b"MM" => false,
            _ => return None,
        };
        let mut directory = Self { bytes, is_little, is_big_tiff: false, start: 0, n_entries: 0 };
        directory.is_big_tiff = directory.value(2, 2)? == 43;
        let offset = if directory.is_big_tiff { directory.value(8, 8)? } else { directory.value(4, 4)? };
        let offset = usize::try_from(offset).ok()?;
        let n_count_bytes = if directory.is_big_tiff { 8 } else { 2 };
        directory.n_entries = usize::try_from(directory.value(offset, n_count_bytes)?).ok()?.min(1 << 16);
        directory.start = offset.checked_add(n_count_bytes)?;
        Some(directory)
    }

    /// Returns the integer of `n_bytes` at `at`.
    fn value(&self, at: usize, n_bytes: usize) -> Option<u64> {
        let raw = self.bytes.get(at..at.checked_add(n_bytes)?)?;
        let fold = |number: u64, byte: &u8| (number << 8) | u64::from(*byte);
        Some(if self.is_little { raw.iter().rev().fold(0, fold) } else { raw.iter().fold(0, fold) })
    }

    /// Returns the entry of `tag`: its type, its number of values, and the place of the first value or of its offset.
    fn entry(&self, tag: u16) -> Option<(u64, u64, usize)> {
        let n_entry_bytes = if self.is_big_tiff { 20 } else { 12 };
        (0..self.n_entries).find_map(|index| {
            let at = self.start.checked_add(index * n_entry_bytes)?;
            if self.value(at, 2)? != u64::from(tag) {
                return None;
            }
            let kind = self.value(at + 2, 2)?;
            let n_values = self.value(at + 4, if self.is_big_tiff { 8 } else { 4 })?;
            Some((kind, n_values, at + if self.is_big_tiff { 12 } else { 8 }))
        })
    }

    /// Returns the only value of `tag`, an integer of 16 or 32 bits.
    fn number(&self, tag: u16) -> Option<u64> {
        match self.entry(tag)? {
            (3 | 8, 1, at) => self.value(at, 2),
            (4 | 9, 1, at) => self.value(at, 4),
            _ => None,
        }
    }

    /// Returns the bytes of `tag`.
    fn bytes(&self, tag: u16) -> Option<&'b [u8]> {
        let (_, n_bytes, at) = self.entry(tag).filter(|(kind, ..)| matches!(kind, 1 | 2 | 7))?;
        let n_bytes = usize::try_from(n_bytes).ok()?;
        let start = usize::try_from(self.value(at, if self.is_big_tiff { 8 } else { 4 })?).ok()?;
        self.bytes.get(start..start.checked_add(n_bytes)?)
    }
}

#[cfg(test)]
mod tests;
