//! Gemma 3: the whole image in the tower's size and, if it is long and the configuration says so, crops of it.

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;

use super::{ImageInput, ImageProcessor, Parameters, Preprocessor, config};
use crate::domain::RgbImage;
use crate::model::checkpoint::weights::Checkpoint;

/// The most crops of an image; more are a mistake in the file.
const N_CROPS_MAX: u32 = 64;

/// When and how an image is cropped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PanAndScan {
    /// The fewest pixels of a crop's side.
    #[serde(rename = "pan_and_scan_min_crop_size")]
    pub min_side: u32,
    /// The most crops of an image.
    #[serde(rename = "pan_and_scan_max_num_crops")]
    pub n_max: u32,
    /// The least ratio of the longer side to the shorter one.
    #[serde(rename = "pan_and_scan_min_ratio_to_activate")]
    pub min_ratio: f64,
}

impl PanAndScan {
    /// Reads the keys of transformers' Gemma3ImageProcessor, with the defaults of its processor. `None` if it is off.
    fn from_config(config: &Value) -> anyhow::Result<Option<Self>> {
        if !config.get("do_pan_and_scan").and_then(Value::as_bool).unwrap_or(false) {
            return Ok(None);
        }
        let count = |key: &str, default: u32| match config.get(key).filter(|value| !value.is_null()) {
            None => Ok(default),
            Some(value) => {
                let count = value.as_u64().and_then(|count| u32::try_from(count).ok()).filter(|&count| count > 0);
                count.with_context(|| format!("`{key}` {value} is not a positive whole number"))
            }
        };
        let n_max = count("pan_and_scan_max_num_crops", 4)?;
        ensure!(
            n_max <= N_CROPS_MAX,
            "`pan_and_scan_max_num_crops` {n_max} is more than {N_CROPS_MAX}; hint: 4 is usual"
        );
        let min_ratio = config.get("pan_and_scan_min_ratio_to_activate").and_then(Value::as_f64).unwrap_or(1.2);
        Ok(Some(Self { min_side: count("pan_and_scan_min_crop_size", 256)?, n_max, min_ratio }))
    }

    /// Returns the crops of an image of this size, each as left, top, width and height. The last one may be shorter.
    fn crops(&self, width: u32, height: u32) -> Vec<[u32; 4]> {
        let is_wide = width >= height;
        let (long, short) = if is_wide { (width, height) } else { (height, width) };
        let ratio = f64::from(long) / f64::from(short.max(1));
        if ratio < self.min_ratio {
            return Vec::new();
        }
        // Half is rounded up.
        let n = ((ratio + 0.5).floor() as u32).min(long / self.min_side).max(2).min(self.n_max);
        let length = long.div_ceil(n);
        if length.min(short) < self.min_side {
            return Vec::new();
        }
        let crop = |start: u32| {
            let length = length.min(long - start);
            if is_wide { [start, 0, length, height] } else { [0, start, width, length] }
        };
        (0..n).map(|index| index * length).filter(|start| *start < long).map(crop).collect()
    }
}

/// Prepares images as transformers' Gemma3ImageProcessor with Pillow does.
#[derive(Clone, Debug)]
pub struct PanAndScanProcessor {
    whole: Preprocessor,
    pan_and_scan: Option<PanAndScan>,
}

impl PanAndScanProcessor {
    /// Reads the image processor of `checkpoint`.
    ///
    /// # Errors
    /// There is none, it is of another class, or it describes an unknown step.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let pan_and_scan = config::read_with(checkpoint, |config| {
            config::expect_class(config, &["Gemma3"])?;
            PanAndScan::from_config(config)
        })?;
        Ok(Self { whole: Preprocessor::from_checkpoint(checkpoint)?, pan_and_scan })
    }

    /// Refuses a tower that takes other sizes than `side`.
    ///
    /// # Errors
    /// The sizes differ.
    pub fn check_side(&self, side: usize) -> anyhow::Result<()> {
        self.whole.check_side(side, "model")
    }

    /// The most tiles of an image: the whole and its crops.
    pub fn n_tiles_max(&self) -> usize {
        1 + self.pan_and_scan.map_or(0, |pan_and_scan| pan_and_scan.n_max as usize)
    }
}

impl ImageProcessor for PanAndScanProcessor {
    fn prepare(&self, image: &RgbImage) -> ImageInput {
        let whole = self.whole.prepare(image);
        let (width, height) = (image.width(), image.height());
        let crops = self.pan_and_scan.map_or_else(Vec::new, |pan_and_scan| pan_and_scan.crops(width, height));
        let mut values = whole.values;
        values.extend(crops.iter().flat_map(|crop| self.whole.pixels(&cropped(image, *crop))));
        let shape = [vec![1 + crops.len()], whole.shape].concat();
        let n_crops = crops.len().max(1);
        let grid = if width >= height { (1, n_crops) } else { (n_crops, 1) };
        ImageInput { values, shape, grid, original_size: (height, width) }
    }

    fn parameters(&self) -> Value {
        #[derive(Serialize)]
        struct All<'a> {
            #[serde(flatten)]
            whole: &'a Parameters,
            pan_and_scan: Option<PanAndScan>,
        }
        // Numbers and names can always be represented.
        serde_json::to_value(All { whole: self.whole.parameters(), pan_and_scan: self.pan_and_scan })
            .unwrap_or_default()
    }
}

/// Returns a part of `image` by left, top, width and height.
fn cropped(image: &RgbImage, [left, top, width, height]: [u32; 4]) -> RgbImage {
    let row = |row: u32| {
        let start = 3 * (row * image.width() + left) as usize;
        &image.pixels()[start..start + 3 * width as usize]
    };
    let pixels: Vec<u8> = (top..top + height).flat_map(row).copied().collect();
    RgbImage::new(width, height, pixels).expect("a crop has the pixels of its rows")
}
