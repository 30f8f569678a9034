//! Qwen's image processor. An image keeps its aspect ratio. Its sides become multiples of a merged patch within pixel
//! limits, and the tower reads a list of flattened patches.

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::canvas::Canvas;
use super::resize::{self, Span};
use super::{Filter, ImageInput, ImageProcessor, Levels, PixelLimits, Scale, config};
use crate::domain::RgbImage;
use crate::model::checkpoint::weights::Checkpoint;

/// The default minimum of merged patches per image. At the limits of published checkpoints an image of 32 x 32 pixels
/// would be 4 tokens, from which no model can name its content.
const N_MERGED_MIN: u64 = 256;

/// The default maximum of merged patches per image. Published checkpoints allow 16384, whose attention alone would take
/// gibibytes per image.
const N_MERGED_MAX: u64 = 1280;

/// An image with more pixels is a mistake.
const N_PIXELS_MAX: u64 = 1 << 31;

/// The largest ratio of an image's sides; transformers refuses longer images.
const RATIO_MAX: f64 = 200.0;

/// The parameters of the processor. Two processors with equal parameters return equal patches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PatchParameters {
    /// The fewest pixels of the resized image.
    pub min_pixels: u64,
    /// The most pixels of the resized image.
    pub max_pixels: u64,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Patches along a side of a merged patch, which is one position of the language model.
    pub merge_size: usize,
    /// Frames of a patch; the image is repeated for each.
    pub n_frames: usize,
    /// The filter of the resize.
    pub filter: Filter,
    /// The conversion of grey levels to numbers.
    #[serde(flatten)]
    pub scale: Scale,
}

/// The image processor of one checkpoint.
#[derive(Clone, Debug)]
pub struct PatchProcessor {
    parameters: PatchParameters,
    levels: Levels,
}

impl PatchProcessor {
    /// Reads `preprocessor_config.json`, or the `image_processor` of `processor_config.json`. Given pixel limits
    /// override the checkpoint's. By default an image has at least 256 merged patches, or the checkpoint's minimum if
    /// that is larger, and at most 1280, or the checkpoint's maximum if that is smaller.
    ///
    /// # Errors
    /// There is no such file, it describes another processor, or the limits contradict each other.
    pub fn open(checkpoint: &Checkpoint, limits: &PixelLimits) -> Result<Self> {
        Ok(Self::new(config::read_with(checkpoint, |config| read(config, limits))?))
    }

    /// Builds a processor with these parameters.
    pub fn new(parameters: PatchParameters) -> Self {
        let levels = parameters.scale.levels();
        Self { parameters, levels }
    }

    /// The parameters.
    pub fn parameters(&self) -> &PatchParameters {
        &self.parameters
    }
}

impl ImageProcessor for PatchProcessor {
    /// Returns `(patches, 3 * frames * patch size * patch size)`, with the patches of a merged patch consecutive.
    fn prepare(&self, image: &RgbImage) -> ImageInput {
        let PatchParameters { patch_size, merge_size, n_frames, filter, .. } = self.parameters;
        let (height, width) = self.parameters.size(image.height(), image.width());
        let canvas = Canvas::new(image, None);
        let window = (Span::of(0, width, width), Span::of(0, height, height));
        let pixels = resize::resize(&canvas, (width, height), window, filter);
        let width = width as usize;
        let grid = (height as usize / patch_size, width / patch_size);
        let mut values = Vec::with_capacity(pixels.len() * n_frames);
        for (row, column) in merged_order(grid, merge_size) {
            for (channel, levels) in self.levels.channels().iter().enumerate() {
                for _ in 0..n_frames {
                    for y in row * patch_size..(row + 1) * patch_size {
                        let start = (y * width + column * patch_size) * 3;
                        let line = &pixels[start..start + patch_size * 3];
                        values.extend(line.iter().skip(channel).step_by(3).map(|&level| levels[usize::from(level)]));
                    }
                }
            }
        }
        let shape = vec![grid.0 * grid.1, 3 * n_frames * patch_size * patch_size];
        ImageInput { values, shape, grid, original_size: (image.height(), image.width()) }
    }

    fn parameters(&self) -> Value {
        // Numbers and names can always be represented.
        serde_json::to_value(&self.parameters).unwrap_or_default()
    }

    fn n_positions_max(&self) -> Option<usize> {
        Some(self.parameters.n_merged_max())
    }
}

impl PatchParameters {
    /// Returns the (height, width), in pixels, to which an image of these sides is resized.
    pub fn size(&self, height: u32, width: u32) -> (u32, u32) {
        let factor = self.merged_side() as f64;
        let (height, width) = within_ratio(f64::from(height), f64::from(width));
        let (min, max) = (self.min_pixels as f64, self.max_pixels as f64);
        // Rounds as Python does.
        let rounded = |side: f64| (side / factor).round_ties_even() * factor;
        let (mut high, mut wide) = (rounded(height), rounded(width));
        if high * wide > max {
            let beta = (height * width / max).sqrt();
            let shrunk = |side: f64| (side / beta / factor).floor() * factor;
            (high, wide) = (shrunk(height), shrunk(width));
        } else if high * wide < min {
            let beta = (min / (height * width)).sqrt();
            let grown = |side: f64| (side * beta / factor).ceil() * factor;
            (high, wide) = (grown(height), grown(width));
        }
        (high.max(factor) as u32, wide.max(factor) as u32)
    }

    /// Returns the merged patches of an image of these sides (in pixels), which are positions of the language model.
    pub fn n_merged(&self, height: u32, width: u32) -> usize {
        let (height, width) = self.size(height, width);
        let side = self.merged_side() as u32;
        (height / side) as usize * (width / side) as usize
    }

    /// Returns the most merged patches of any image. A side is rounded up if an image is enlarged, and no image is less
    /// than one merged patch high, however long it is.
    pub fn n_merged_max(&self) -> usize {
        let area = (self.merged_side() as f64).powi(2);
        let (min, max) = (self.min_pixels as f64 / area, self.max_pixels as f64 / area);
        let rounded_up = min + min.sqrt() * (RATIO_MAX.sqrt() + RATIO_MAX.sqrt().recip()) + 1.0;
        let strip = (RATIO_MAX * max).sqrt();
        max.max(strip).max(rounded_up).ceil() as usize
    }

    fn merged_side(&self) -> usize {
        self.patch_size * self.merge_size
    }
}

/// Returns the places (row, column) of a grid's patches in the order of the list: merged patches by row, and the
/// patches of each by row.
pub fn merged_order((rows, columns): (usize, usize), merge_size: usize) -> impl Iterator<Item = (usize, usize)> {
    let merged = (0..rows / merge_size).flat_map(move |row| (0..columns / merge_size).map(move |column| (row, column)));
    merged.flat_map(move |(row, column)| {
        (0..merge_size * merge_size)
            .map(move |inner| (row * merge_size + inner / merge_size, column * merge_size + inner % merge_size))
    })
}

/// Returns the sides, with the longer one cut to the largest allowed ratio.
fn within_ratio(height: f64, width: f64) -> (f64, f64) {
    (height.min(width * RATIO_MAX), width.min(height * RATIO_MAX))
}

fn read(config: &Value, given: &PixelLimits) -> Result<PatchParameters> {
    let class = config.get("image_processor_type").and_then(Value::as_str).unwrap_or("Qwen2VLImageProcessor");
    ensure!(
        class.starts_with("Qwen"),
        "the image processor is of class {class}, and this model family's is Qwen2VLImageProcessor; hint: copy the \
         file of the base model"
    );
    let resizes = config.get("do_resize").and_then(Value::as_bool).unwrap_or(true);
    ensure!(resizes, "`do_resize` is false, and the tower reads whole patches only; hint: set it to true");
    let count = |key: &str, default: u64| match config.get(key).filter(|value| !value.is_null()) {
        None => Ok(default),
        Some(value) => {
            let count = value.as_u64().filter(|count| (1..=1 << 10).contains(count));
            count.with_context(|| format!("`{key}` must be a number from 1 to 1024, but is {value}"))
        }
    };
    let (patch_size, merge_size) = (count("patch_size", 14)?, count("merge_size", 2)?);
    let area = (patch_size * merge_size).pow(2);
    let own = (
        own_limit(config, ["min_pixels", "shortest_edge"], 56 * 56)?,
        own_limit(config, ["max_pixels", "longest_edge"], 28 * 28 * 1280)?,
    );
    let (min_pixels, max_pixels) = limits(own, given, area)?;
    Ok(PatchParameters {
        min_pixels,
        max_pixels,
        patch_size: patch_size as usize,
        merge_size: merge_size as usize,
        n_frames: count("temporal_patch_size", 2)? as usize,
        filter: config::filter(config, Filter::Bicubic)?,
        scale: Scale::from_config(config, config::CLIP_MEAN, config::CLIP_STD)?,
    })
}

/// Reads a limit of the checkpoint: the first of `names` at the top level, otherwise either name within `size`.
fn own_limit(config: &Value, names: [&str; 2], default: u64) -> Result<u64> {
    let within = |name: &str| config.get("size").and_then(|size| size.get(name));
    let found = [config.get(names[0]), within(names[1]), within(names[0])].into_iter().flatten();
    match found.into_iter().find(|value| !value.is_null()) {
        None => Ok(default),
        Some(value) => {
            let limit = value.as_u64().filter(|limit| (1..=N_PIXELS_MAX).contains(limit));
            limit.with_context(|| format!("`{}` must be a number of pixels, but is {value}", names[0]))
        }
    }
}

/// Returns the effective limits: the given ones, or the defaults clamped to the checkpoint's own. `area` is the number
/// of pixels of a merged patch. If only one limit is given, the other moves with it if necessary.
fn limits(own: (u64, u64), given: &PixelLimits, area: u64) -> Result<(u64, u64)> {
    let (min, max) = match (given.min_pixels, given.max_pixels) {
        (Some(min), Some(max)) => (min, max),
        (Some(min), None) => (min, own.1.min(N_MERGED_MAX * area).max(min)),
        (None, given) => {
            let max = given.unwrap_or(own.1.min(N_MERGED_MAX * area));
            (own.0.max(N_MERGED_MIN * area).min(max), max)
        }
    };
    ensure!(
        max <= N_PIXELS_MAX,
        "{max} pixels exceed the limit of {N_PIXELS_MAX}; hint: a smaller --max-pixels or --min-pixels"
    );
    ensure!(
        min <= max && max >= area,
        "an image cannot have at least {min} and at most {max} pixels; hint: --min-pixels must not exceed --max-pixels, \
         and {area} pixels are one position of the language model"
    );
    Ok((min, max))
}

#[cfg(test)]
mod tests;
