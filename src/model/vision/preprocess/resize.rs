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
mod tests;
