//! Pillow's `Image.resize`, bit for bit, over the part of the output that is needed.
//!
//! Two passes, columns first, each rounded and clipped to 8 bits; weights are normalised in f64 and then fixed to 22
//! bits (Pillow's `Resample.c`).

use std::ops::Range;

use serde::Serialize;

use crate::domain::RgbImage;

/// Bits of a fixed-point weight: 32, less 8 for the level and 2 for overshoot.
const N_WEIGHT_BITS: u32 = 32 - 8 - 2;

/// A reconstruction filter of Pillow's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Mean of what an output pixel covers.
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
    /// The filter of Pillow's `resample` number; `None` for nearest (0) and numbers that it lacks.
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

    /// Half the width, in pixels of the coarser image.
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
                x => sinc(x) * (0.54 + 0.46 * (x * std::f64::consts::PI).cos()),
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

/// The part of a window that lies on the image, along one side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// First output pixel of the image.
    start: usize,
    len: usize,
    /// Pixels of the window before the image begins.
    offset: usize,
}

impl Span {
    /// A window of `window` pixels from `start` (which may be negative) on a side of `side` pixels.
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

/// Resizes `image` to (width, height) and returns the levels of the window (columns, rows), as RGB rows.
pub(super) fn resize(image: &RgbImage, (width, height): (u32, u32), window: (Span, Span), filter: Filter) -> Vec<u8> {
    let (columns, rows) = window;
    let (in_width, in_height) = (image.width() as usize, image.height() as usize);
    let vertical = (in_height != height as usize).then(|| weights(in_height, height as usize, rows.range(), filter));
    // The horizontal pass reads only the rows that the vertical one needs.
    let source_rows = vertical.as_ref().map_or(rows.range(), |taps| {
        let first = taps.iter().map(|tap| tap.first).min().unwrap_or(0);
        first..taps.iter().map(|tap| tap.first + tap.weights.len()).max().unwrap_or(first)
    });
    let source = &image.pixels()[source_rows.start * in_width * 3..source_rows.end * in_width * 3];
    let narrowed: Vec<u8> = if in_width == width as usize {
        let part = columns.start * 3..(columns.start + columns.len) * 3;
        source.chunks_exact(in_width * 3).flat_map(|row| &row[part.clone()]).copied().collect()
    } else {
        pass_columns(source, in_width, &weights(in_width, width as usize, columns.range(), filter))
    };
    match vertical {
        Some(taps) => pass_rows(&narrowed, columns.len * 3, source_rows.start, &taps),
        None => narrowed,
    }
}

/// What one output pixel takes from the input: weights from input pixel `first` on.
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
            // Casts to integers saturate at 0 where C's would be clipped to it.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(n_in);
            let mut exact: Vec<f64> =
                (first..end).map(|x| filter.weight((x as f64 - centre + 0.5) * inverse_scale)).collect();
            let sum: f64 = exact.iter().sum();
            if sum != 0.0 {
                exact.iter_mut().for_each(|weight| *weight /= sum);
            }
            // Rounded half away from zero.
            let fixed = |weight: &f64| (weight * f64::from(1 << N_WEIGHT_BITS) + 0.5f64.copysign(*weight)) as i32;
            Tap { first, weights: exact.iter().map(fixed).collect() }
        })
        .collect()
}

fn clip(sum: i32) -> u8 {
    (sum >> N_WEIGHT_BITS).clamp(0, 255) as u8
}

fn pass_columns(source: &[u8], in_width: usize, taps: &[Tap]) -> Vec<u8> {
    let mut out = Vec::with_capacity(source.len() / in_width * taps.len());
    for row in source.chunks_exact(in_width * 3) {
        for tap in taps {
            let mut sums = [1i32 << (N_WEIGHT_BITS - 1); 3];
            let pixels = row[tap.first * 3..].chunks_exact(3);
            for (pixel, &weight) in pixels.zip(&tap.weights) {
                for (sum, &level) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(level) * weight;
                }
            }
            out.extend(sums.map(clip));
        }
    }
    out
}

fn pass_rows(source: &[u8], n_row_bytes: usize, first_row: usize, taps: &[Tap]) -> Vec<u8> {
    let mut out = Vec::with_capacity(n_row_bytes * taps.len());
    let mut sums = vec![0i32; n_row_bytes];
    for tap in taps {
        sums.fill(1 << (N_WEIGHT_BITS - 1));
        let start = (tap.first - first_row) * n_row_bytes;
        for (row, &weight) in source[start..].chunks_exact(n_row_bytes.max(1)).zip(&tap.weights) {
            for (sum, &level) in sums.iter_mut().zip(row) {
                *sum += i32::from(level) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| clip(sum)));
    }
    out
}
