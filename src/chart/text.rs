//! Measures texts and breaks them into lines.

/// The advance of a character outside ASCII, in thousandths of the font size. It is about that of a wide letter, so
/// that a text gets too much room rather than too little.
const OTHER_ADVANCE: u16 = 680;

/// The advance of CJK and other full-width characters.
const WIDE_ADVANCE: u16 = 1000;

/// Advances of U+0020..U+007E in Inter Regular, in thousandths of the font size.
#[rustfmt::skip]
const REGULAR: [u16; 95] = [
    281, 278, 403, 631, 638, 812, 639, 222, 362, 362, 500, 659, 280, 460, 276, 357,
    625, 464, 605, 636, 642, 608, 624, 571, 616, 624, 276, 280, 659, 659, 659, 507,
    936, 676, 651, 727, 719, 598, 587, 743, 740, 264, 543, 652, 562, 889, 753, 761,
    635, 761, 639, 638, 642, 741, 676, 949, 642, 665, 625, 362, 357, 362, 469, 452,
    497, 564, 621, 558, 621, 582, 361, 609, 591, 237, 237, 544, 237, 869, 585, 597,
    609, 609, 372, 523, 364, 581, 557, 812, 540, 557, 541, 362, 327, 362, 659,
];

/// Advances of the same characters in Inter Bold.
#[rustfmt::skip]
const BOLD: [u16; 95] = [
    232, 325, 392, 650, 655, 859, 674, 209, 409, 409, 565, 680, 303, 469, 298, 390,
    688, 489, 630, 659, 678, 645, 660, 595, 661, 660, 298, 303, 680, 680, 680, 562,
    1031, 748, 661, 752, 727, 613, 585, 761, 746, 281, 570, 690, 567, 915, 735, 782,
    648, 783, 656, 655, 668, 729, 748, 1036, 714, 724, 667, 409, 390, 409, 488, 477,
    497, 580, 635, 587, 635, 598, 386, 633, 624, 272, 272, 582, 272, 912, 622, 614,
    632, 632, 409, 562, 388, 622, 586, 850, 574, 586, 572, 409, 374, 409, 680,
];

/// Returns the width of `text` in pixels at `size` pixels.
pub fn width(text: &str, size: f64, is_bold: bool) -> f64 {
    let table = if is_bold { &BOLD } else { &REGULAR };
    let thousandths: u32 = text.chars().map(|letter| u32::from(advance(letter, table))).sum();
    f64::from(thousandths) / 1000.0 * size
}

fn advance(letter: char, table: &[u16; 95]) -> u16 {
    match letter {
        ' '..='~' => table[letter as usize - ' ' as usize],
        '·' | '’' | '‘' => 298,
        '–' => 500,
        '\u{1100}'..='\u{11ff}' | '\u{2e80}'..='\u{ffef}' | '\u{1f000}'.. | '—' | '⚠' => WIDE_ADVANCE,
        _ => OTHER_ADVANCE,
    }
}

/// Breaks `text` into at most `n_lines_max` lines of at most `width_max` pixels. Text that does not fit ends in `…`.
///
/// Lines break at spaces and after `/`, `-` and `_`. A part wider than a line is cut between characters.
pub fn wrap(text: &str, width_max: f64, size: f64, is_bold: bool, n_lines_max: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for part in parts(text).into_iter().flat_map(|part| cut(part, width_max, size, is_bold)) {
        let joined = format!("{line}{part}");
        if line.is_empty() || width(joined.trim_end(), size, is_bold) <= width_max {
            line = joined;
        } else {
            lines.push(line.trim_end().to_owned());
            line = part;
        }
    }
    lines.push(line.trim_end().to_owned());
    if lines.len() > n_lines_max {
        lines.truncate(n_lines_max);
        if let Some(last) = lines.last_mut() {
            while !last.is_empty() && width(&format!("{last}…"), size, is_bold) > width_max {
                last.pop();
            }
            last.push('…');
        }
    }
    lines
}

/// Whether `text` breaks into lines of at most `width_max` pixels without a break inside a word.
pub fn fits(text: &str, width_max: f64, size: f64, is_bold: bool) -> bool {
    parts(text).into_iter().all(|part| width(part.trim_end(), size, is_bold) <= width_max)
}

/// Cuts `text` after each possible line break.
fn parts(text: &str) -> Vec<&str> {
    let text = text.trim();
    let mut parts = Vec::new();
    let mut start = 0;
    for (index, letter) in text.char_indices() {
        if matches!(letter, ' ' | '/' | '-' | '_') {
            let end = index + letter.len_utf8();
            parts.push(&text[start..end]);
            start = end;
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Cuts `part` into pieces that each fit into a line.
fn cut(part: &str, width_max: f64, size: f64, is_bold: bool) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut piece = String::new();
    for letter in part.chars() {
        piece.push(letter);
        if width(piece.trim_end(), size, is_bold) > width_max && piece.chars().count() > 1 {
            piece.pop();
            pieces.push(std::mem::take(&mut piece));
            piece.push(letter);
        }
    }
    pieces.push(piece);
    pieces
}

#[cfg(test)]
mod tests;
