//! LLaVA-NeXT and LLaVA-OneVision: the whole image in one square, followed by the image padded to the best-fitting size
//! and cut into squares.

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::config::{self, Scale};
use super::levels::Levels;
use super::resize::{Filter, resized};
use super::{ImageInput, ImageProcessor, Target};
use crate::domain::RgbImage;
use crate::model::checkpoint::weights::Checkpoint;

/// The parameters of the processor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "scheme", rename = "anyres")]
pub struct AnyresParameters {
    /// The sizes to choose from, (height, width), multiples of `side`.
    pub pinpoints: Vec<(u32, u32)>,
    /// The side of a tile.
    pub side: u32,
    /// The filter of the resize.
    pub filter: Filter,
    /// The conversion of grey levels to numbers.
    #[serde(flatten)]
    pub scale: Scale,
}

/// Prepares images as transformers' LlavaOnevisionImageProcessor and LlavaNextImageProcessor with Pillow do.
#[derive(Clone, Debug)]
pub struct AnyresProcessor {
    parameters: AnyresParameters,
    levels: Levels,
}

impl AnyresProcessor {
    /// Reads the image processor of `checkpoint`.
    ///
    /// # Errors
    /// There is none, it is of another class, or it describes an unknown step.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        config::read_with(checkpoint, |config| {
            config::expect_class(config, &["LlavaOnevision", "LlavaNext"])?;
            let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(true);
            ensure!(flag("do_resize"), "`do_resize` is false: tiles of any size are not read");
            let side = match (square(config, "crop_size")?, square(config, "size")?) {
                (Some(crop), Some(size)) if crop != size => {
                    bail!("`crop_size` {crop} and `size` {size} differ: tiles that are cut again are not read")
                }
                (crop, size) => crop.or(size).unwrap_or(384),
            };
            let pinpoints = config.get("image_grid_pinpoints").context("`image_grid_pinpoints` is missing")?;
            Ok(Self::new(AnyresParameters {
                pinpoints: read_pinpoints(pinpoints, side)?,
                side,
                filter: config::filter(config, Filter::Bicubic)?,
                scale: Scale::from_config(config, config::CLIP_MEAN, config::CLIP_STD)?,
            }))
        })
    }

    /// Builds a processor with these parameters.
    pub fn new(parameters: AnyresParameters) -> Self {
        let levels = parameters.scale.levels();
        Self { parameters, levels }
    }

    /// The parameters.
    pub fn parameters(&self) -> &AnyresParameters {
        &self.parameters
    }
}

/// Returns the side of the square under `key`.
fn square(config: &Value, key: &str) -> anyhow::Result<Option<u32>> {
    let Some(size) = config.get(key).filter(|size| !size.is_null()) else { return Ok(None) };
    match config::read_size(size, true)? {
        Target::ShortestEdge(side) => Ok(Some(side)),
        Target::Exact { height, width } if height == width => Ok(Some(height)),
        Target::Exact { .. } => bail!("`{key}` {size} is not a square"),
    }
}

/// Reads a list of (height, width), each a multiple of `side`.
///
/// # Errors
/// It is not such a list, or it is empty.
pub fn read_pinpoints(list: &Value, side: u32) -> anyhow::Result<Vec<(u32, u32)>> {
    let of_pair = |pair: &Value| {
        let [height, width] = pair.as_array()?.as_slice() else { return None };
        let sides = (config::side(height).ok()?, config::side(width).ok()?);
        (sides.0.is_multiple_of(side) && sides.1.is_multiple_of(side)).then_some(sides)
    };
    let pairs: Option<Vec<_>> = list.as_array().and_then(|pairs| pairs.iter().map(of_pair).collect());
    pairs.filter(|pairs| !pairs.is_empty()).with_context(|| {
        format!("`image_grid_pinpoints` {list} is not a list of heights and widths that are multiples of {side}")
    })
}

impl ImageProcessor for AnyresProcessor {
    fn prepare(&self, image: &RgbImage) -> ImageInput {
        let AnyresParameters { pinpoints, side, filter, .. } = &self.parameters;
        let (side, original_size) = (*side, (image.height(), image.width()));
        let (height, width) = best_pinpoint(original_size, pinpoints);
        let (rows, columns) = (height / side, width / side);
        let n_tiles = 1 + (rows * columns) as usize;
        let mut values = Vec::with_capacity(n_tiles * 3 * (side * side) as usize);
        self.levels.extend_with_square(&resized(image, (side, side), *filter), (0, 0), side, &mut values);
        let padded = on_black(&resized(image, fitted(original_size, (height, width)), *filter), width, height);
        for row in 0..rows {
            for column in 0..columns {
                self.levels.extend_with_square(&padded, (row * side, column * side), side, &mut values);
            }
        }
        let shape = vec![n_tiles, 3, side as usize, side as usize];
        ImageInput { values, shape, grid: (rows as usize, columns as usize), original_size }
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(&self.parameters).expect("parameters are plain data")
    }
}

/// Returns the size of `pinpoints` (which is not empty) that keeps the most pixels of an image; among equals the
/// smallest, then the first. All sizes are (height, width).
pub fn best_pinpoint((height, width): (u32, u32), pinpoints: &[(u32, u32)]) -> (u32, u32) {
    let score = |&(to_height, to_width): &(u32, u32)| {
        let scale = (f64::from(to_width) / f64::from(width)).min(f64::from(to_height) / f64::from(height));
        let scaled = |side: u32| (f64::from(side) * scale) as u64;
        let effective = (scaled(width) * scaled(height)).min(u64::from(width) * u64::from(height));
        (effective, std::cmp::Reverse(u64::from(to_width) * u64::from(to_height) - effective))
    };
    let mut best = pinpoints[0];
    for pinpoint in &pinpoints[1..] {
        if score(pinpoint) > score(&best) {
            best = *pinpoint;
        }
    }
    best
}

/// Returns (width, height) of an image of (height, width) scaled in proportion to fit `target`, (height, width),
/// rounded up.
fn fitted((height, width): (u32, u32), (to_height, to_width): (u32, u32)) -> (u32, u32) {
    let across = f64::from(to_width) / f64::from(width);
    let down = f64::from(to_height) / f64::from(height);
    let scaled = |side: u32, scale: f64, most: u32| ((f64::from(side) * scale).ceil() as u32).min(most);
    if across < down {
        (to_width, scaled(height, across, to_height))
    } else {
        (scaled(width, down, to_width), to_height)
    }
}

/// Centres `image` on a black one; an odd pixel of margin is on the right and below.
fn on_black(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let mut pixels = vec![0; (width * height * 3) as usize];
    let (left, top) = ((width - image.width()) / 2, (height - image.height()) / 2);
    let n_row_bytes = (image.width() * 3) as usize;
    for (row, levels) in (top..).zip(image.pixels().chunks_exact(n_row_bytes)) {
        let start = ((row * width + left) * 3) as usize;
        pixels[start..start + n_row_bytes].copy_from_slice(levels);
    }
    RgbImage::new(width, height, pixels).expect("a canvas has its own size")
}
