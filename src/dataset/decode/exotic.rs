//! Formats whose decoder differs from Pillow by rounding: corrected to Pillow's numbers, or refused.

/// Whether a PNG's own colour type is grey (a transparent colour makes its decoder add alpha).
pub(super) fn is_grey_png(bytes: &[u8]) -> bool {
    bytes.get(25) == Some(&0)
}

/// Pillow widens the five or six bits of a 16-bit BMP's channels by `value * 255 / maximum`, rounded down.
pub(super) fn widen_16_bit_bmp(bytes: &[u8], pixels: &mut [u8]) {
    let dword = |at: usize| bytes.get(at..at + 4).map(|raw| u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]));
    if bytes.get(28..30) != Some(&[16, 0]) {
        return;
    }
    let green_bits = match (dword(30), dword(58)) {
        (Some(0), _) | (Some(3), Some(0x3e0)) => 5,
        (Some(3), Some(0x7e0)) => 6,
        _ => return,
    };
    // However the decoder widened them, the upper bits are the original ones.
    let widen = |level: u8, n_bits: u32| {
        let value = u32::from(level) >> (8 - n_bits);
        u8::try_from(value * 255 / ((1 << n_bits) - 1)).unwrap_or(u8::MAX)
    };
    for pixel in pixels.chunks_exact_mut(3) {
        pixel.copy_from_slice(&[widen(pixel[0], 5), widen(pixel[1], green_bits), widen(pixel[2], 5)]);
    }
}

/// Returns the grey levels or colours of a binary PNM whose largest value is below 255, scaled as Pillow does:
/// `round(value / maximum * 255)`, halves to even. `None` for any other PNM, `Some(None)` if it is too short.
pub(super) fn scaled_pnm(bytes: &[u8], n_pixels: usize) -> Option<Option<Vec<u8>>> {
    let n_channels = match bytes.get(..2)? {
        b"P5" => 1,
        b"P6" => 3,
        _ => return None,
    };
    let mut at = 2;
    let mut maximum = 0u32;
    for _ in 0..3 {
        while bytes.get(at)?.is_ascii_whitespace() || bytes.get(at) == Some(&b'#') {
            if bytes[at] == b'#' {
                at += bytes[at..].iter().position(|&byte| byte == b'\n')?;
            }
            at += 1;
        }
        let len = bytes[at..].iter().position(|byte| !byte.is_ascii_digit())?;
        maximum = std::str::from_utf8(&bytes[at..at + len]).ok()?.parse().ok()?;
        at += len;
    }
    if !(1..255).contains(&maximum) {
        return None;
    }
    let scale = |&value: &u8| {
        let scaled = (f64::from(value) / f64::from(maximum) * 255.0).round_ties_even().min(255.0);
        // In 0..=255 by the line above.
        scaled as u8
    };
    let values =
        n_pixels.checked_mul(n_channels).and_then(|n_values| bytes.get(at + 1..(at + 1).checked_add(n_values)?));
    let scaled = values.map(|values| match n_channels {
        1 => values.iter().flat_map(|value| [scale(value); 3]).collect(),
        _ => values.iter().map(scale).collect(),
    });
    Some(scaled)
}

/// Whether the first image of a TIFF is JPEG-compressed, because its decoder's arithmetic is not libjpeg's.
pub(super) fn is_jpeg_tiff(bytes: &[u8]) -> bool {
    first_compression(bytes).is_some_and(|compression| matches!(compression, 6 | 7))
}

/// Returns the compression tag (259) of the first directory.
fn first_compression(bytes: &[u8]) -> Option<u16> {
    let is_little = bytes.starts_with(b"II");
    let word = |at: usize| {
        let raw: [u8; 2] = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if is_little { u16::from_le_bytes(raw) } else { u16::from_be_bytes(raw) })
    };
    let raw: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
    let directory = if is_little { u32::from_le_bytes(raw) } else { u32::from_be_bytes(raw) } as usize;
    let n_entries = usize::from(word(directory)?);
    let entries = (0..n_entries).filter_map(|index| directory.checked_add(2 + 12 * index));
    entries.filter(|&entry| word(entry) == Some(259)).find_map(|entry| word(entry.checked_add(8)?))
}
