//! Llama-3.2-Vision: an image is scaled to fit a few tiles in rows and columns, and put at the top left of them on
//! black.

use anyhow::{bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::config::{self, Scale};
use super::levels::Levels;
use super::resize::{Filter, resized};
use super::{ImageInput, ImageProcessor, Target};
use crate::domain::RgbImage;
use crate::model::checkpoint::weights::Checkpoint;

/// More tiles are a mistake in the file.
const N_TILES_MAX: u64 = 64;

/// The parameters of the processor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "scheme", rename = "mllama")]
pub struct MllamaParameters {
    /// The side of a tile.
    pub side: u32,
    /// The most tiles of an image.
    pub n_tiles_max: u32,
    /// The filter of the resize.
    pub filter: Filter,
    /// The conversion of grey levels to numbers.
    #[serde(flatten)]
    pub scale: Scale,
}

/// Prepares images as transformers' MllamaImageProcessor with Pillow does.
#[derive(Clone, Debug)]
pub struct MllamaProcessor {
    parameters: MllamaParameters,
    levels: Levels,
}

impl MllamaProcessor {
    /// Reads the image processor of `checkpoint`.
    ///
    /// # Errors
    /// There is none, it is of another class, or it describes an unknown step.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        config::read_with(checkpoint, |config| {
            config::expect_class(config, &["Mllama"])?;
            for step in ["do_resize", "do_pad"] {
                let is_done = config.get(step).and_then(Value::as_bool).unwrap_or(true);
                ensure!(is_done, "`{step}` is false: an image that does not fill its tiles is not read");
            }
            let side = match config.get("size").filter(|size| !size.is_null()) {
                None => 224,
                Some(size) => match config::read_size(size, true)? {
                    Target::Exact { height, width } if height == width => height,
                    _ => bail!("`size` {size} is not a square"),
                },
            };
            let n_tiles_max = match config.get("max_image_tiles").filter(|n| !n.is_null()) {
                None => 4,
                Some(n) => match n.as_u64().filter(|n| (1..=N_TILES_MAX).contains(n)) {
                    Some(n) => n as u32,
                    None => bail!("`max_image_tiles` {n} is not a number of tiles from 1 to {N_TILES_MAX}"),
                },
            };
            let filter = config::filter(config, Filter::Bilinear)?;
            let scale = Scale::from_config(config, [0.5; 3], [0.5; 3])?;
            Ok(Self::new(MllamaParameters { side, n_tiles_max, filter, scale }))
        })
    }

    /// Builds a processor with these parameters.
    pub fn new(parameters: MllamaParameters) -> Self {
        let levels = parameters.scale.levels();
        Self { parameters, levels }
    }

    /// The parameters.
    pub fn parameters(&self) -> &MllamaParameters {
        &self.parameters
    }
}

/// Returns all rows and columns of at most `n_tiles_max` tiles, in the order in which towers number them from 1.
pub fn arrangements(n_tiles_max: usize) -> Vec<(usize, usize)> {
    let all = (1..=n_tiles_max).flat_map(|rows| (1..=n_tiles_max).map(move |columns| (rows, columns)));
    all.filter(|(rows, columns)| rows * columns <= n_tiles_max).collect()
}

/// Returns the rows and columns of tiles of `side` for an image of `(height, width)`: the least enlargement that fills
/// them, or else the least reduction; among equals the fewest tiles, then the first.
fn best_arrangement((height, width): (u32, u32), side: u32, n_tiles_max: u32) -> (u32, u32) {
    let scale = |&(rows, columns): &(usize, usize)| {
        let down = f64::from(rows as u32 * side) / f64::from(height);
        down.min(f64::from(columns as u32 * side) / f64::from(width))
    };
    let all = arrangements(n_tiles_max as usize);
    let enlarging = all.iter().map(scale).filter(|&scale| scale >= 1.0).reduce(f64::min);
    let chosen = enlarging.or_else(|| all.iter().map(scale).reduce(f64::max));
    let fitting = all.iter().filter(|arrangement| Some(scale(arrangement)) == chosen);
    // `min_by_key` returns the first of equals.
    let (rows, columns) = *fitting.min_by_key(|(rows, columns)| rows * columns).unwrap_or(&(1, 1));
    (rows as u32, columns as u32)
}

/// Returns (width, height) of an image of `(height, width)` scaled in proportion into `canvas`, (height, width). An
/// image that is smaller than a tile of `side` is enlarged to one, and no other image is enlarged.
fn fitted((height, width): (u32, u32), canvas: (u32, u32), side: u32) -> (u32, u32) {
    let (to_height, to_width) = (height.clamp(side, canvas.0), width.clamp(side, canvas.1));
    let (down, across) = (f64::from(to_height) / f64::from(height), f64::from(to_width) / f64::from(width));
    let scaled = |length: u32, scale: f64, most: u32| ((f64::from(length) * scale).floor() as u32).max(1).min(most);
    if across < down {
        (to_width, scaled(height, across, to_height))
    } else {
        (scaled(width, down, to_width), to_height)
    }
}

/// Puts `image` at the top left of a black one.
fn at_top_left(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let mut pixels = vec![0; (width * height * 3) as usize];
    let n_row_bytes = (image.width() * 3) as usize;
    let rows = pixels.chunks_exact_mut((width * 3) as usize);
    for (row, levels) in rows.zip(image.pixels().chunks_exact(n_row_bytes)) {
        row[..n_row_bytes].copy_from_slice(levels);
    }
    RgbImage::new(width, height, pixels).expect("a canvas has its own size")
}

impl ImageProcessor for MllamaProcessor {
    fn prepare(&self, image: &RgbImage) -> ImageInput {
        let &MllamaParameters { side, n_tiles_max, filter, .. } = &self.parameters;
        let original_size = (image.height(), image.width());
        let (rows, columns) = best_arrangement(original_size, side, n_tiles_max);
        let (height, width) = (rows * side, columns * side);
        let scaled = resized(image, fitted(original_size, (height, width), side), filter);
        let padded = at_top_left(&scaled, width, height);
        let n_tiles = (rows * columns) as usize;
        let mut values = Vec::with_capacity(n_tiles * 3 * (side * side) as usize);
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            self.levels.extend_with_square(&padded, (row * side, column * side), side, &mut values);
        }
        let shape = vec![n_tiles, 3, side as usize, side as usize];
        ImageInput { values, shape, grid: (rows as usize, columns as usize), original_size }
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(&self.parameters).expect("parameters are plain data")
    }
}
