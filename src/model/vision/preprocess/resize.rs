//! Pillow's `Image.resize`, bit for bit, for the required part of the output.
//!
//! It makes two passes, each rounded and clipped to 8 bits. Weights are normalised in f64 and then fixed to 22 bits (as
//! in Pillow 13's `Resample.c`).

use std::ops::Range;

use serde::Serialize;

use super::canvas::Canvas;
use crate::domain::RgbImage;

/// Bits of a fixed-point weight: 32, less 8 for the level and 2 for overshoot.
const N_WEIGHT_BITS: u32 = 32 - 8 - 2;

/// A reconstruction filter of Pillow's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The mean of the pixels that an output pixel covers.
    Box,
    /// Triangle.
    Bilinear,
    /// Hamming-windowed sinc of support 1.
    Hamming,
    /// Cubic with a = -0.5.
    Bicubic,
    /// Windowed sinc of support 3.
    Lanczos,
}

impl Filter {
    /// Returns the filter of Pillow's `resample` number; `None` for nearest (0) and unknown numbers.
    pub fn of_pillow(resample: u64) -> Option<Self> {
        Some(match resample {
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            _ => return None,
        })
    }

    /// Returns half the width, in pixels of the coarser image.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
        match self {
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming => match x.abs() {
                0.0 => 1.0,
                x if x >= 1.0 => 0.0,
                // Pillow writes these two constants in single precision.
                x => sinc(x) * (f64::from(0.54f32) + f64::from(0.46f32) * (x * std::f64::consts::PI).cos()),
            },
            Self::Bicubic => {
                const A: f64 = -0.5;
                match x.abs() {
                    x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                    x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                    _ => 0.0,
                }
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

/// The part of a window within the image, along one side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The window's first output pixel within the image.
    start: usize,
    len: usize,
    /// Pixels of the window before the image begins.
    offset: usize,
}

impl Span {
    /// Returns the span of a window of `window` pixels from `start` (which may be negative) on a side of `side` pixels.
    pub(super) fn of(start: i64, window: u32, side: u32) -> Self {
        let end = (start + i64::from(window)).clamp(0, i64::from(side));
        let first = start.clamp(0, end);
        Self { start: first as usize, len: (end - first) as usize, offset: (first - start) as usize }
    }

    pub(super) fn len(self) -> usize {
        self.len
    }

    pub(super) fn offset(self) -> usize {
        self.offset
    }

    fn range(self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

/// Resizes `canvas` to (width, height) and returns the levels of the window (columns, rows), as RGB rows.
pub(super) fn resize(canvas: &Canvas, (width, height): (u32, u32), window: (Span, Span), filter: Filter) -> Vec<u8> {
    let (columns, rows) = window;
    let (in_width, in_height) = canvas.size();
    let across = Axis::new(in_width, width as usize, columns, filter);
    let down = Axis::new(in_height, height as usize, rows, filter);
    let n_rows = down.source.len();
    if is_vertical_first((in_width, in_height), (width, height)) {
        let mut source = Vec::with_capacity(n_rows * across.source.len() * 3);
        for row in down.source.clone() {
            canvas.extend_with_row(row, across.source.clone(), &mut source);
        }
        let flattened = pass_rows(source, across.source.len(), &down);
        let mut out = Vec::with_capacity(rows.len * columns.len * 3);
        for row in flattened.chunks_exact((across.source.len() * 3).max(1)) {
            pass_columns(row, &across, &mut out);
        }
        out
    } else {
        let mut narrowed = Vec::with_capacity(n_rows * columns.len * 3);
        let mut source = Vec::with_capacity(across.source.len() * 3);
        // Rows above and below a padded image are identical.
        let mut ground_start = None;
        for row in down.source.clone() {
            let row_start = narrowed.len();
            if let Some(start) = ground_start.filter(|_| canvas.is_ground(row)) {
                narrowed.extend_from_within(start..start + columns.len * 3);
                continue;
            }
            source.clear();
            canvas.extend_with_row(row, across.source.clone(), &mut source);
            pass_columns(&source, &across, &mut narrowed);
            ground_start = ground_start.or(canvas.is_ground(row).then_some(row_start));
        }
        pass_rows(narrowed, columns.len, &down)
    }
}

/// Resizes the whole `image` to (width, height), neither of which is 0.
pub(super) fn resized(image: &RgbImage, (width, height): (u32, u32), filter: Filter) -> RgbImage {
    let whole = (Span::of(0, width, width), Span::of(0, height, height));
    let levels = resize(&Canvas::new(image, None), (width, height), whole, filter);
    RgbImage::new(width, height, levels).expect("a resize fills its size")
}

/// Whether the vertical pass comes first, which changes the last bit because each pass rounds. Pillow 13 begins with
/// the rows if it shrinks them more than twice as much as the columns; earlier versions always began with the columns.
fn is_vertical_first((in_width, in_height): (usize, usize), (width, height): (u32, u32)) -> bool {
    let n_rows_less = in_height as i64 - i64::from(height);
    let n_columns_less = in_width as i64 - i64::from(width);
    n_rows_less > 0 && n_rows_less > 2 * n_columns_less
}

/// The resize along one side.
struct Axis {
    /// The input pixels that are read.
    source: Range<usize>,
    /// One tap per output pixel of the window, counted from `source.start`; `None` if nothing changes.
    taps: Option<Vec<Tap>>,
}

impl Axis {
    fn new(n_in: usize, n_out: usize, window: Span, filter: Filter) -> Self {
        if n_in == n_out {
            return Self { source: window.range(), taps: None };
        }
        let mut taps = weights(n_in, n_out, window.range(), filter);
        let first = taps.iter().map(|tap| tap.first).min().unwrap_or(0);
        let end = taps.iter().map(|tap| tap.first + tap.weights.len()).max().unwrap_or(first);
        taps.iter_mut().for_each(|tap| tap.first -= first);
        Self { source: first..end, taps: Some(taps) }
    }
}

/// The weights of the input pixels from `first` on for one output pixel.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

fn weights(n_in: usize, n_out: usize, wanted: Range<usize>, filter: Filter) -> Vec<Tap> {
    let scale = n_in as f64 / n_out as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let inverse_scale = 1.0 / filter_scale;
    wanted
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            // Casts to integers saturate at 0; the C code clips there.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(n_in);
            let mut exact: Vec<f64> =
                (first..end).map(|x| filter.weight((x as f64 - centre + 0.5) * inverse_scale)).collect();
            let sum: f64 = exact.iter().sum();
            if sum != 0.0 {
                exact.iter_mut().for_each(|weight| *weight /= sum);
            }
            // Rounds half away from zero.
            let fixed = |weight: &f64| (weight * f64::from(1 << N_WEIGHT_BITS) + 0.5f64.copysign(*weight)) as i32;
            Tap { first, weights: exact.iter().map(fixed).collect() }
        })
        .collect()
}

fn clip(sum: i32) -> u8 {
    (sum >> N_WEIGHT_BITS).clamp(0, 255) as u8
}

/// Resizes one row of `axis.source` pixels, appending to `out`.
fn pass_columns(row: &[u8], axis: &Axis, out: &mut Vec<u8>) {
    let Some(taps) = &axis.taps else { return out.extend_from_slice(row) };
    for tap in taps {
        let mut sums = [1i32 << (N_WEIGHT_BITS - 1); 3];
        for (pixel, &weight) in row[tap.first * 3..].chunks_exact(3).zip(&tap.weights) {
            for (sum, &level) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(level) * weight;
            }
        }
        out.extend(sums.map(clip));
    }
}

/// Resizes the columns of rows of `width` pixels.
fn pass_rows(source: Vec<u8>, width: usize, axis: &Axis) -> Vec<u8> {
    let Some(taps) = &axis.taps else { return source };
    let n_row_bytes = width * 3;
    let mut out = Vec::with_capacity(n_row_bytes * taps.len());
    let mut sums = vec![0i32; n_row_bytes];
    for tap in taps {
        sums.fill(1 << (N_WEIGHT_BITS - 1));
        let rows = source[tap.first * n_row_bytes..].chunks_exact(n_row_bytes.max(1));
        for (row, &weight) in rows.zip(&tap.weights) {
            for (sum, &level) in sums.iter_mut().zip(row) {
                *sum += i32::from(level) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| clip(sum)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (width, height), new (width, height), Pillow's filter number, seed, and the checksum of Pillow 13.0.0's result
    /// for the pattern below: the sum of level times (position mod 251) plus one.
    #[rustfmt::skip]
    const PILLOW: [(u32, u32, u32, u32, u64, u64, u64); 60] = [
        (81, 34, 47, 90, 5, 0, 202267243),
        (5, 61, 33, 85, 1, 1, 133616382),
        (22, 16, 49, 62, 2, 2, 145329931),
        (50, 71, 15, 75, 2, 3, 53237380),
        (3, 29, 54, 37, 2, 4, 95200080),
        (51, 22, 11, 19, 5, 5, 9064444),
        (81, 58, 18, 18, 1, 6, 15165767),
        (2, 28, 29, 23, 2, 7, 31565587),
        (39, 42, 27, 71, 2, 8, 92021121),
        (25, 90, 27, 51, 3, 9, 65484539),
        (4, 48, 55, 23, 2, 10, 60667815),
        (35, 10, 44, 40, 5, 11, 84439411),
        (77, 2, 78, 88, 3, 12, 330427938),
        (10, 41, 47, 41, 4, 13, 92125547),
        (42, 25, 63, 62, 2, 14, 187488668),
        (9, 34, 4, 47, 4, 15, 8365660),
        (4, 72, 55, 48, 4, 16, 126185536),
        (76, 3, 59, 7, 2, 17, 19680327),
        (81, 27, 17, 33, 4, 18, 26239536),
        (46, 67, 47, 69, 3, 19, 155774890),
        (61, 15, 77, 49, 3, 20, 182048660),
        (6, 57, 13, 28, 3, 21, 16808207),
        (67, 80, 48, 20, 3, 22, 45256555),
        (37, 71, 13, 41, 3, 23, 24746547),
        (41, 24, 12, 82, 2, 24, 46728171),
        (90, 41, 63, 22, 1, 25, 65797676),
        (12, 78, 70, 53, 1, 26, 177794869),
        (32, 78, 46, 34, 4, 27, 74618607),
        (85, 55, 20, 9, 1, 28, 8141840),
        (65, 44, 28, 18, 5, 29, 24198746),
        (18, 82, 54, 15, 2, 30, 38134854),
        (57, 49, 21, 9, 4, 31, 8344033),
        (39, 20, 60, 81, 2, 32, 233916266),
        (68, 60, 64, 90, 3, 33, 277192771),
        (63, 37, 39, 62, 4, 34, 116276105),
        (20, 16, 50, 70, 2, 35, 168740650),
        (82, 65, 45, 25, 1, 36, 53270077),
        (64, 36, 67, 72, 5, 37, 231411006),
        (48, 10, 47, 90, 5, 38, 203217012),
        (86, 6, 41, 48, 5, 39, 93740886),
        (87, 37, 64, 35, 3, 40, 107308946),
        (45, 85, 24, 76, 1, 41, 87238834),
        (62, 72, 34, 43, 3, 42, 69510168),
        (61, 38, 66, 84, 3, 43, 266405746),
        (46, 37, 84, 46, 4, 44, 184885129),
        (46, 24, 90, 59, 3, 45, 255002223),
        (44, 68, 20, 69, 2, 46, 65521186),
        (27, 48, 63, 38, 1, 47, 114688170),
        (87, 55, 23, 80, 5, 48, 88653147),
        (68, 87, 55, 40, 5, 49, 105188111),
        (72, 83, 36, 5, 2, 50, 8164959),
        (22, 77, 58, 81, 2, 51, 226198362),
        (30, 89, 25, 82, 1, 52, 97876381),
        (62, 30, 23, 8, 2, 53, 8232169),
        (16, 42, 25, 63, 2, 54, 75361794),
        (72, 6, 55, 61, 3, 55, 161576636),
        (50, 86, 80, 11, 5, 56, 41428739),
        (28, 32, 49, 2, 3, 57, 4137946),
        (53, 37, 54, 16, 5, 58, 40712594),
        (49, 6, 72, 80, 3, 59, 278553948),
    ];

    #[test]
    fn every_filter_and_shape_gives_pillows_levels() {
        for (width, height, new_width, new_height, filter, seed, expected) in PILLOW {
            let level = |i: u64| ((i * 2_654_435_761 + seed * 977) >> 13) as u8;
            let pixels = (0..u64::from(width * height * 3)).map(level).collect();
            let image = RgbImage::new(width, height, pixels).unwrap();
            let whole = (Span::of(0, new_width, new_width), Span::of(0, new_height, new_height));
            let canvas = Canvas::new(&image, None);
            let resized = resize(&canvas, (new_width, new_height), whole, Filter::of_pillow(filter).unwrap());
            let checksum: u64 =
                resized.iter().enumerate().map(|(i, &level)| u64::from(level) * (i as u64 % 251 + 1)).sum();
            assert_eq!(checksum, expected, "{width}x{height} to {new_width}x{new_height}, filter {filter}");
        }
    }

    #[test]
    fn filters_that_are_not_weighted_sums_have_no_number() {
        assert_eq!(Filter::of_pillow(0), None);
        assert_eq!(Filter::of_pillow(6), None);
    }
}
