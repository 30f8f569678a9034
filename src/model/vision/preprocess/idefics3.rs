//! Idefics3 and SmolVLM: an image is enlarged and cut into squares of the tower's size, followed by the whole image in
//! one such square.

use anyhow::{Context, ensure};
use serde::Serialize;

use super::config::{self, Scale};
use super::levels::Levels;
use super::resize::{Filter, resized};
use super::{ImageInput, ImageProcessor};
use crate::domain::RgbImage;
use crate::model::checkpoint::weights::Checkpoint;

/// The longest possible side of an image, whatever the configuration says.
const EDGE_MAX: u32 = 4096;

/// The most tiles along a side, in addition to the whole image; more are a mistake in the file.
const N_TILES_MAX: u32 = 64;

/// The parameters of the processor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "scheme", rename = "idefics3")]
pub struct Idefics3Parameters {
    /// The length of the longer side after the first resize, in pixels.
    pub longest_edge: u32,
    /// The side of a tile.
    pub side: u32,
    /// Whether the image is cut into tiles; otherwise it is a single tile.
    pub is_split: bool,
    /// The filter of the resize.
    pub filter: Filter,
    /// The conversion of grey levels to numbers.
    #[serde(flatten)]
    pub scale: Scale,
}

/// Prepares images as transformers' Idefics3ImageProcessor and SmolVLMImageProcessor with Pillow do.
#[derive(Clone, Debug)]
pub struct Idefics3Processor {
    parameters: Idefics3Parameters,
    levels: Levels,
}

impl Idefics3Processor {
    /// Reads the image processor of `checkpoint`.
    ///
    /// # Errors
    /// There is none, it is of another class, or it describes an unknown step.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        config::read_with(checkpoint, |config| {
            config::expect_class(config, &["Idefics3", "SmolVLM"])?;
            let flag = |key: &str| config.get(key).and_then(serde_json::Value::as_bool).unwrap_or(true);
            ensure!(flag("do_resize"), "`do_resize` is false: an image of any size is not read");
            let edge = |key: &str, default: u32| match config.get(key).filter(|value| !value.is_null()) {
                None => Ok(default),
                Some(size) => size
                    .get("longest_edge")
                    .and_then(|edge| config::side(edge).ok())
                    .with_context(|| format!("`{key}` {size} gives no `longest_edge` in pixels")),
            };
            let parameters = Idefics3Parameters {
                longest_edge: edge("size", 4 * 364)?.min(EDGE_MAX),
                side: edge("max_image_size", 364)?,
                is_split: flag("do_image_splitting"),
                filter: config::filter(config, Filter::Lanczos)?,
                scale: Scale::from_config(config, [0.5; 3], [0.5; 3])?,
            };
            let Idefics3Parameters { longest_edge, side, .. } = parameters;
            ensure!(
                longest_edge.div_ceil(side) <= N_TILES_MAX,
                "images of {longest_edge} pixels would be cut into tiles of {side}; hint: check `max_image_size` for a \
                 slip"
            );
            Ok(Self::new(parameters))
        })
    }

    /// Builds a processor with these parameters.
    pub fn new(parameters: Idefics3Parameters) -> Self {
        let levels = parameters.scale.levels();
        Self { parameters, levels }
    }

    /// The parameters.
    pub fn parameters(&self) -> &Idefics3Parameters {
        &self.parameters
    }

    /// Returns the largest number of rows, and of columns, of tiles of an image.
    pub fn n_tiles_per_side_max(&self) -> usize {
        let Idefics3Parameters { longest_edge, side, is_split, .. } = self.parameters;
        if is_split { longest_edge.div_ceil(side) as usize } else { 1 }
    }

    /// Returns `image` in a size that tiles fill, and their rows and columns.
    fn enlarged(&self, image: &RgbImage) -> (RgbImage, (u32, u32)) {
        let Idefics3Parameters { longest_edge, side, is_split, filter, .. } = self.parameters;
        let (width, height) = to_longest_edge(image.width(), image.height(), longest_edge);
        let image = resized(image, (width, height), filter);
        let (width, height) = if is_split { to_multiples(width, height, side) } else { (side, side) };
        (resized(&image, (width, height), filter), (height / side, width / side))
    }
}

impl ImageProcessor for Idefics3Processor {
    fn prepare(&self, image: &RgbImage) -> ImageInput {
        let (original_size, side) = ((image.height(), image.width()), self.parameters.side);
        let (image, (rows, columns)) = self.enlarged(image);
        let mut values = Vec::new();
        let mut n_tiles = 1;
        let mut whole = image;
        if (rows, columns) != (1, 1) {
            n_tiles += (rows * columns) as usize;
            values.reserve_exact(n_tiles * 3 * (side * side) as usize);
            for row in 0..rows {
                for column in 0..columns {
                    self.levels.extend_with_square(&whole, (row * side, column * side), side, &mut values);
                }
            }
            whole = resized(&whole, (side, side), self.parameters.filter);
        }
        self.levels.extend_with_square(&whole, (0, 0), side, &mut values);
        let shape = vec![n_tiles, 3, side as usize, side as usize];
        ImageInput { values, shape, grid: (rows as usize, columns as usize), original_size }
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::to_value(&self.parameters).expect("parameters are plain data")
    }
}

/// Returns (width, height) with the longer side `edge`, at most [`EDGE_MAX`], and the other in proportion and even, by
/// Python's arithmetic step by step.
fn to_longest_edge(width: u32, height: u32, edge: u32) -> (u32, u32) {
    let aspect = f64::from(width) / f64::from(height);
    let even = |side: u32| (side + side % 2).max(1);
    if width >= height {
        (edge, even((f64::from(edge) / aspect) as u32))
    } else {
        (even((f64::from(edge) * aspect) as u32), edge)
    }
}

/// Returns (width, height), both multiples of `side`.
fn to_multiples(width: u32, height: u32, side: u32) -> (u32, u32) {
    let aspect = f64::from(width) / f64::from(height);
    let up = |length: u32| length.max(1).div_ceil(side) * side;
    if width >= height {
        let width = up(width);
        (width, up((f64::from(width) / aspect) as u32))
    } else {
        let height = up(height);
        (up((f64::from(height) * aspect) as u32), height)
    }
}
