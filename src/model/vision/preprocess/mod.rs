//! Converts a decoded image to the numbers that a vision tower reads.
//!
//! An image processor, as libraries call it, is five optional steps in a fixed order: pad to a square, resize, crop,
//! rescale, normalise. Each matches Pillow and numpy bit for bit.

mod anyres;
mod canvas;
mod config;
mod idefics3;
mod internvl;
mod levels;
mod mllama;
mod pan_and_scan;
mod patches;
mod resize;

use serde::Serialize;

use crate::domain::RgbImage;
use crate::model::checkpoint::weights::Checkpoint;
pub use anyres::{AnyresParameters, AnyresProcessor, best_pinpoint, read_pinpoints};
use canvas::Canvas;
pub use config::Scale;
pub use idefics3::{Idefics3Parameters, Idefics3Processor};
pub use internvl::{InternVlParameters, InternVlProcessor};
use levels::Levels;
pub use mllama::{MllamaParameters, MllamaProcessor, arrangements};
pub use pan_and_scan::{PanAndScan, PanAndScanProcessor};
pub use patches::{PatchParameters, PatchProcessor, merged_order};
pub use resize::Filter;
use resize::Span;

/// An image in the form that a family's tower takes.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageInput {
    /// Row-major numbers of `shape`.
    pub values: Vec<f32>,
    /// (3, height, width) for one picture, (tiles, 3, side, side), or (patches, numbers of a patch).
    pub shape: Vec<usize>,
    /// Rows and columns of tiles or patches; (1, 1) for one picture.
    pub grid: (usize, usize),
    /// Height and width of the decoded image.
    pub original_size: (u32, u32),
}

impl ImageInput {
    /// Returns an input of the same form whose numbers are all zero, which is the mean colour after normalisation.
    pub fn blank(&self) -> Self {
        Self { values: vec![0.0; self.values.len()], ..self.clone() }
    }
}

/// How a family prepares images.
pub trait ImageProcessor: Send + Sync {
    /// Converts the image to the form that the family's tower takes.
    fn prepare(&self, image: &RgbImage) -> ImageInput;

    /// Returns the parameters that decide the pixels. They are recorded with a run and compared between runs.
    fn parameters(&self) -> serde_json::Value;

    /// Returns the most positions of the language model that an image takes, if the preparation bounds it.
    fn n_positions_max(&self) -> Option<usize> {
        None
    }

    /// Whether [`prepare`](Self::prepare) returns the same pixels as `encoder` for an image of this size.
    fn agrees_with(&self, _encoder: &Preprocessor, _width: u32, _height: u32) -> bool {
        false
    }
}

/// The user's limits on the pixels of a resized image, for families that keep its aspect ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PixelLimits {
    /// The fewest pixels (height × width).
    pub min_pixels: Option<u64>,
    /// The most pixels.
    pub max_pixels: Option<u64>,
}

/// The parameters of a preprocessor. Two preprocessors with equal parameters return equal pixels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Parameters {
    /// The colour of the square in which the image is centred; `None` keeps its shape.
    pub pad_to_square: Option<[u8; 3]>,
    /// How the image is resized.
    pub resize: Option<Resize>,
    /// The centre crop.
    pub crop: Option<Crop>,
    /// The factor of a grey level 0..=255.
    pub rescale: f64,
    /// Subtracted from each channel.
    pub mean: [f32; 3],
    /// Divides each channel.
    pub std: [f32; 3],
}

/// A resize with its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resize {
    /// The size to reach.
    pub to: Target,
    /// The filter, which antialiases as Pillow's do when shrinking.
    pub filter: Filter,
}

/// The target size of a resize, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The shorter side becomes this long; the other follows in proportion, rounded down.
    ShortestEdge(u32),
    /// Both sides, regardless of the aspect ratio.
    Exact {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
    },
}

/// A centre crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Crop {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// The rounding of a margin with half a pixel.
    pub rounding: Rounding,
}

/// Where a crop begins if its margin is odd: libraries differ by one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// transformers.
    Down,
    /// torchvision, and therefore open_clip.
    HalfToEven,
}

/// The preprocessing of one checkpoint.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    parameters: Parameters,
    levels: Levels,
}

impl Preprocessor {
    /// Reads `preprocessor_config.json`, the `image_processor` of `processor_config.json`, or open_clip's
    /// `preprocess_cfg`. An original LLaVA has none of them; see [`for_llava_original`](Self::for_llava_original).
    ///
    /// # Errors
    /// There is no such file, or it describes an unknown step.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        Ok(Self::new(config::read(checkpoint)?))
    }

    /// Reads the preprocessing of an original LLaVA: its tower's, with the model's own `image_aspect_ratio`.
    ///
    /// # Errors
    /// Fails as [`from_checkpoint`](Self::from_checkpoint) of the tower does, or if the aspect ratio belongs to an
    /// unsupported family.
    pub fn for_llava_original(model: &Checkpoint, tower: &Checkpoint) -> anyhow::Result<Self> {
        let mut parameters = config::read(tower)?;
        config::apply_aspect_ratio(&mut parameters, model)?;
        Ok(Self::new(parameters))
    }

    /// CLIP's preprocessing of squares of `side` pixels, as transformers has it by default.
    pub fn clip(side: u32) -> Self {
        Self::new(Parameters {
            pad_to_square: None,
            resize: Some(Resize { to: Target::ShortestEdge(side), filter: Filter::Bicubic }),
            crop: Some(Crop { height: side, width: side, rounding: Rounding::Down }),
            rescale: 1.0 / 255.0,
            mean: config::CLIP_MEAN.map(|value| value as f32),
            std: config::CLIP_STD.map(|value| value as f32),
        })
    }

    /// Builds a preprocessor with these parameters.
    pub fn new(parameters: Parameters) -> Self {
        let Parameters { rescale, mean, std, .. } = parameters;
        Self { parameters, levels: Levels::new(rescale, mean, std) }
    }

    /// The parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns (height, width) of every output; `None` if it depends on the image, which no tower here can read.
    pub fn size(&self) -> Option<(usize, usize)> {
        let side = |side: u32| side as usize;
        match (self.parameters.crop, self.parameters.resize) {
            (Some(crop), _) => Some((side(crop.height), side(crop.width))),
            (None, Some(Resize { to: Target::Exact { height, width }, .. })) => Some((side(height), side(width))),
            _ => None,
        }
    }

    /// Refuses a preprocessor whose output is not a square of `side` pixels; `who` names its owner.
    ///
    /// # Errors
    /// The sizes differ, or depend on the image.
    pub fn check_side(&self, side: usize, who: &str) -> anyhow::Result<()> {
        match self.size() {
            Some((height, width)) if (height, width) == (side, side) => Ok(()),
            Some((height, width)) => anyhow::bail!(
                "the {who}'s image processor makes images of {width}x{height} pixels, but its tower takes \
                 {side}x{side}; hint: config.json and preprocessor_config.json belong to different checkpoints"
            ),
            None => {
                anyhow::bail!(
                    "the {who}'s image processor leaves images at any size, but its tower takes {side}x{side}"
                )
            }
        }
    }

    /// Returns the image as (3, height, width), row-major.
    pub fn pixels(&self, image: &RgbImage) -> Vec<f32> {
        let plan = self.plan(image.width(), image.height());
        let canvas = Canvas::new(image, plan.pad_to_square);
        let rows = Span::of(plan.top, plan.window_height, plan.height);
        let columns = Span::of(plan.left, plan.window_width, plan.width);
        let filter = plan.filter.unwrap_or(Filter::Bicubic);
        let inside = resize::resize(&canvas, (plan.width, plan.height), (columns, rows), filter);
        let (window_height, window_width) = (plan.window_height as usize, plan.window_width as usize);
        let n_pixels = window_height * window_width;
        let mut pixels = Vec::with_capacity(3 * n_pixels);
        for (channel, values) in self.levels.channels().iter().enumerate() {
            // Outside the image a crop is black.
            pixels.resize((channel + 1) * n_pixels, values[0]);
            let plane = &mut pixels[channel * n_pixels..];
            for (row, levels) in inside.chunks_exact((columns.len() * 3).max(1)).enumerate() {
                let start = (row + rows.offset()) * window_width + columns.offset();
                let levels = levels.iter().skip(channel).step_by(3);
                for (pixel, &level) in plane[start..start + columns.len()].iter_mut().zip(levels) {
                    *pixel = values[usize::from(level)];
                }
            }
        }
        pixels
    }

    /// Resolves the parameters for an image of this size.
    fn plan(&self, width: u32, height: u32) -> Plan {
        let pad_to_square = self.parameters.pad_to_square.filter(|_| width != height);
        let side = width.max(height);
        let (width, height) = if pad_to_square.is_some() { (side, side) } else { (width, height) };
        let resized = self.parameters.resize.map(|resize| resize.to.of(width, height));
        let filter = self.parameters.resize.map(|resize| resize.filter).filter(|_| resized != Some((width, height)));
        let (width, height) = resized.unwrap_or((width, height));
        let (window_height, window_width, top, left) = match self.parameters.crop {
            Some(crop) => (crop.height, crop.width, crop.start(height, crop.height), crop.start(width, crop.width)),
            None => (height, width, 0, 0),
        };
        Plan { pad_to_square, filter, width, height, top, left, window_height, window_width }
    }
}

impl ImageProcessor for Preprocessor {
    fn prepare(&self, image: &RgbImage) -> ImageInput {
        let plan = self.plan(image.width(), image.height());
        ImageInput {
            values: self.pixels(image),
            shape: vec![3, plan.window_height as usize, plan.window_width as usize],
            grid: (1, 1),
            original_size: (image.height(), image.width()),
        }
    }

    fn parameters(&self) -> serde_json::Value {
        // Numbers and names can always be represented.
        serde_json::to_value(&self.parameters).unwrap_or_default()
    }

    fn agrees_with(&self, encoder: &Preprocessor, width: u32, height: u32) -> bool {
        self.plan(width, height) == encoder.plan(width, height) && self.levels == encoder.levels
    }
}

/// The steps for one image size. Equal plans have equal results.
#[derive(Debug, PartialEq)]
struct Plan {
    pad_to_square: Option<[u8; 3]>,
    /// `None` if the size does not change.
    filter: Option<Filter>,
    /// The size after the resize.
    width: u32,
    height: u32,
    /// The window that is kept; it may begin outside the image.
    top: i64,
    left: i64,
    window_height: u32,
    window_width: u32,
}

impl Target {
    /// Returns the (width, height) to which an image of this size is resized.
    fn of(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Self::Exact { height, width } => (width, height),
            Self::ShortestEdge(short) => {
                // Computed as in Python, `int(short * long_side / short_side)`.
                let long = |long_side: u32, short_side: u32| {
                    (f64::from(short) * f64::from(long_side) / f64::from(short_side)) as u32
                };
                if width <= height { (short, long(height, width)) } else { (long(width, height), short) }
            }
        }
    }
}

impl Crop {
    /// Returns the first pixel of the window along a side; negative if the window is longer than the side.
    fn start(self, side: u32, window: u32) -> i64 {
        let margin = i64::from(side) - i64::from(window);
        match self.rounding {
            Rounding::Down => margin.div_euclid(2),
            // torchvision first pads a short side, by `-margin / 2` before it; no half remains to round.
            Rounding::HalfToEven if margin < 0 => -(-margin / 2),
            Rounding::HalfToEven => (margin as f64 / 2.0).round_ties_even() as i64,
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tiled_tests;
