//! The part of a GIF's canvas outside its first frame, as Pillow shows it.

/// Paints the canvas outside the first frame as Pillow does: in the palette's transparent colour, or in its first.
pub(super) fn fill_outside_first_frame(bytes: &[u8], width: u32, height: u32, pixels: &mut [u8]) {
    let Some(frame) = first_frame(bytes) else { return };
    for (row, line) in pixels.chunks_exact_mut(width as usize * 3).enumerate().take(height as usize) {
        for (column, pixel) in line.chunks_exact_mut(3).enumerate() {
            if !frame.rows.contains(&row) || !frame.columns.contains(&column) {
                pixel.copy_from_slice(&frame.outside);
            }
        }
    }
}

struct FirstFrame {
    columns: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
    outside: [u8; 3],
}

/// Reads the blocks before the first frame's data; `None` if they are malformed.
fn first_frame(bytes: &[u8]) -> Option<FirstFrame> {
    let word = |at: usize| Some(usize::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let global_flags = *bytes.get(10)?;
    let global_start = 13;
    let mut at = global_start + palette_len(global_flags);
    let mut transparent = None;
    loop {
        match *bytes.get(at)? {
            0x21 => {
                if *bytes.get(at + 1)? == 0xf9 && *bytes.get(at + 3)? & 1 == 1 {
                    transparent = Some(usize::from(*bytes.get(at + 6)?));
                }
                at += 2;
                loop {
                    let n_bytes = usize::from(*bytes.get(at)?);
                    at += 1 + n_bytes;
                    if n_bytes == 0 {
                        break;
                    }
                }
            }
            0x2c => break,
            _ => return None,
        }
    }
    let (left, top, width, height) = (word(at + 1)?, word(at + 3)?, word(at + 5)?, word(at + 7)?);
    let local_flags = *bytes.get(at + 9)?;
    let palette_start = if local_flags & 0x80 != 0 { at + 10 } else { global_start };
    let has_palette = (local_flags | global_flags) & 0x80 != 0;
    let index = transparent.unwrap_or(0);
    let outside = if has_palette {
        let start = palette_start + 3 * index;
        bytes.get(start..start + 3)?.try_into().ok()?
    } else {
        [u8::try_from(index).ok()?; 3]
    };
    Some(FirstFrame { columns: left..left + width, rows: top..top + height, outside })
}

fn palette_len(flags: u8) -> usize {
    if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 }
}
