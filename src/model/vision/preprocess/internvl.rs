//! InternVL in transformers' layout: an image is stretched to the rows and columns of squares that fit its proportions
//! best and cut into them, followed by the whole image in one square.

use anyhow::{bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::config::{self, Scale};
use super::levels::Levels;
use super::resize::{Filter, resized};
use super::{ImageInput, ImageProcessor, Target};
use crate::domain::RgbImage;
use crate::model::checkpoint::weights::Checkpoint;

/// More tiles of an image are a mistake in the file.
const N_TILES_MAX: u32 = 256;

/// The parameters of the processor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "scheme", rename = "internvl")]
pub struct InternVlParameters {
    /// The side of a tile.
    pub side: u32,
    /// The fewest tiles of an image, without the whole image.
    #[serde(rename = "min_patches")]
    pub n_tiles_min: u32,
    /// The most tiles of an image, without the whole image.
    #[serde(rename = "max_patches")]
    pub n_tiles_max: u32,
    /// The filter of the resize.
    pub filter: Filter,
    /// The conversion of grey levels to numbers.
    #[serde(flatten)]
    pub scale: Scale,
}

/// Prepares images as transformers' InternVLProcessor does with its GotOcr2ImageProcessor and Pillow.
#[derive(Clone, Debug)]
pub struct InternVlProcessor {
    parameters: InternVlParameters,
    levels: Levels,
}

impl InternVlProcessor {
    /// Reads the image processor of `checkpoint`. Its `crop_to_patches` is not read: InternVLProcessor always asks for
    /// tiles, whatever the file says.
    ///
    /// # Errors
    /// There is none, it is of another class, or it describes an unknown step.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        config::read_with(checkpoint, |config| {
            config::expect_class(config, &["GotOcr2", "InternVL"])?;
            let side = match config.get("size").filter(|size| !size.is_null()) {
                None => 384,
                Some(size) => match config::read_size(size, true)? {
                    Target::Exact { height, width } if height == width => height,
                    _ => bail!("`size` {size} is not a square: tiles of another shape are not read"),
                },
            };
            let count = |key: &str, default: u32| match config.get(key).filter(|value| !value.is_null()) {
                None => Ok(default),
                Some(value) => match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
                    Some(count) if (1..=N_TILES_MAX).contains(&count) => Ok(count),
                    _ => bail!("`{key}` {value} is not a number of tiles from 1 to {N_TILES_MAX}"),
                },
            };
            let is_resized = config.get("do_resize").and_then(Value::as_bool).unwrap_or(true);
            let parameters = InternVlParameters {
                side,
                n_tiles_min: count("min_patches", 1)?,
                n_tiles_max: count("max_patches", 12)?,
                filter: config::filter(config, Filter::Bicubic)?,
                scale: Scale::from_config(config, config::CLIP_MEAN, config::CLIP_STD)?,
            };
            ensure!(
                is_resized || parameters.n_tiles_max > 1,
                "`do_resize` is false and `max_patches` is 1: an image of any size is not read"
            );
            Ok(Self::new(parameters))
        })
    }

    /// Builds a processor with these parameters.
    pub fn new(parameters: InternVlParameters) -> Self {
        let levels = parameters.scale.levels();
        Self { parameters, levels }
    }

    /// The parameters.
    pub fn parameters(&self) -> &InternVlParameters {
        &self.parameters
    }

    /// Returns the largest number of tiles of an image, including the whole image.
    pub fn n_tiles_max(&self) -> usize {
        let InternVlParameters { n_tiles_min, n_tiles_max, .. } = self.parameters;
        match n_tiles_max {
            most if most > 1 && most >= n_tiles_min => most as usize + 1,
            _ => 1,
        }
    }

    /// Returns the rows and columns of tiles whose proportions are nearest to those of an image. Among equals, more
    /// tiles are preferred as long as the image has more than half of their pixels.
    pub fn grid(&self, (height, width): (u32, u32)) -> (u32, u32) {
        let InternVlParameters { side, n_tiles_min, n_tiles_max, .. } = self.parameters;
        if n_tiles_max == 1 {
            return (1, 1);
        }
        let aspect = f64::from(width) / f64::from(height);
        let n_pixels = f64::from(width) * f64::from(height);
        let mut grids: Vec<(u32, u32)> = (1..=n_tiles_max)
            .flat_map(|columns| (1..=n_tiles_max / columns).map(move |rows| (rows, columns)))
            .filter(|(rows, columns)| rows * columns >= n_tiles_min)
            .collect();
        // A stable sort: among grids of as many tiles, those of fewer columns come first.
        grids.sort_by_key(|(rows, columns)| rows * columns);
        let (mut best, mut nearest) = ((1, 1), f64::INFINITY);
        for (rows, columns) in grids {
            let distance = (aspect - f64::from(columns) / f64::from(rows)).abs();
            let n_tile_pixels = f64::from(side) * f64::from(side) * f64::from(rows * columns);
            if distance < nearest || (distance == nearest && n_pixels > 0.5 * n_tile_pixels) {
                (best, nearest) = ((rows, columns), distance);
            }
        }
        best
    }
}

impl ImageProcessor for InternVlProcessor {
    fn prepare(&self, image: &RgbImage) -> ImageInput {
        let InternVlParameters { side, filter, .. } = self.parameters;
        let original_size = (image.height(), image.width());
        let (rows, columns) = self.grid(original_size);
        let n_tiles = (rows * columns) as usize + usize::from((rows, columns) != (1, 1));
        let mut values = Vec::with_capacity(n_tiles * 3 * (side * side) as usize);
        let stretched = resized(image, (columns * side, rows * side), filter);
        for row in 0..rows {
            for column in 0..columns {
                self.levels.extend_with_square(&stretched, (row * side, column * side), side, &mut values);
            }
        }
        if (rows, columns) != (1, 1) {
            self.levels.extend_with_square(&resized(image, (side, side), filter), (0, 0), side, &mut values);
        }
        let shape = vec![n_tiles, 3, side as usize, side as usize];
        ImageInput { values, shape, grid: (rows as usize, columns as usize), original_size }
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(&self.parameters).expect("parameters are plain data")
    }
}
