//! Reads the preprocessing of checkpoints in all its formats.

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::levels::Levels;
use super::{Crop, Filter, Parameters, Resize, Rounding, Target};
use crate::model::checkpoint::weights::Checkpoint;

/// Statistics of CLIP's training images (OpenAI).
pub(super) const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
pub(super) const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// Larger sides are a mistake in the file.
const SIDE_MAX: u32 = 1 << 14;

/// The defaults of a transformers class.
struct Defaults {
    /// Whether a bare number as `size` sets both sides.
    is_size_exact: bool,
    side: u32,
    has_crop: bool,
    filter: Filter,
    mean: [f64; 3],
    std: [f64; 3],
}

/// Reads the preprocessing of `checkpoint`.
pub(super) fn read(checkpoint: &Checkpoint) -> anyhow::Result<Parameters> {
    if checkpoint.is_open_clip() {
        let place = checkpoint.dir.join(checkpoint.config_file());
        return read_open_clip(checkpoint.config()).with_context(|| format!("failed to read `{}`", place.display()));
    }
    read_with(checkpoint, read_processor)
}

/// Applies `read` to the image processor's configuration: a part of `processor_config.json` if present, otherwise
/// `preprocessor_config.json`, as in transformers (5.24).
pub(super) fn read_with<T>(
    checkpoint: &Checkpoint,
    read: impl FnOnce(&Value) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let part = |file: &str, key: Option<&str>| -> anyhow::Result<Option<Value>> {
        let Some(config) = checkpoint.read_json(file)? else { return Ok(None) };
        Ok(match key {
            Some(key) => config.get(key).cloned(),
            None => Some(config),
        })
    };
    for (file, key) in [("processor_config.json", Some("image_processor")), ("preprocessor_config.json", None)] {
        if let Some(config) = part(file, key)? {
            let place = || format!("failed to read `{}`", checkpoint.dir.join(file).display());
            return read(&config).with_context(place);
        }
    }
    bail!(
        "failed to open `{}`: it does not say how images are prepared; hint: copy `preprocessor_config.json` (or \
         `processor_config.json`) of the base model into the folder",
        checkpoint.dir.display()
    )
}

/// The conversion of grey levels to numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scale {
    /// The factor of a grey level 0..=255.
    pub rescale: f64,
    /// Subtracted from each channel.
    pub mean: [f32; 3],
    /// Divides each channel.
    pub std: [f32; 3],
}

impl Scale {
    /// Reads `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean` and `image_std`.
    pub(super) fn from_config(config: &Value, mean: [f64; 3], std: [f64; 3]) -> anyhow::Result<Self> {
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(true);
        let factor = config.get("rescale_factor").and_then(Value::as_f64).unwrap_or(1.0 / 255.0);
        let (mean, std) = (channels(config, "image_mean", mean)?, channels(config, "image_std", std)?);
        let is_normalised = flag("do_normalize");
        Ok(Self {
            rescale: if flag("do_rescale") { factor } else { 1.0 },
            mean: if is_normalised { mean.map(|value| value as f32) } else { [0.0; 3] },
            std: if is_normalised { std.map(|value| value as f32) } else { [1.0; 3] },
        })
    }

    /// Returns the value of each grey level.
    pub(super) fn levels(&self) -> Levels {
        Levels::new(self.rescale, self.mean, self.std)
    }
}

/// Returns the transformers class that wrote `config`, without the common suffix.
fn class_of(config: &Value) -> &str {
    let class =
        ["image_processor_type", "feature_extractor_type"].into_iter().find_map(|key| config.get(key)?.as_str());
    let class = class.unwrap_or_default().trim_end_matches("Pil").trim_end_matches("Fast");
    class.trim_end_matches("ImageProcessor").trim_end_matches("FeatureExtractor")
}

/// Refuses a configuration of a class not in `known`; one without a class is accepted.
pub(super) fn expect_class(config: &Value, known: &[&str]) -> anyhow::Result<()> {
    let class = class_of(config);
    ensure!(
        class.is_empty() || known.contains(&class),
        "the image processor is of class {class}, and this family's are {}; hint: copy the base model's own file",
        known.join(" and ")
    );
    Ok(())
}

/// Returns the filter for `resample`, Pillow's number.
pub(super) fn filter(config: &Value, default: Filter) -> anyhow::Result<Filter> {
    match config.get("resample") {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value
            .as_u64()
            .and_then(Filter::of_pillow)
            .with_context(|| format!("`resample` {value} is not one of Pillow's filters that are read (1 to 5)")),
    }
}

/// Adds the padding for an original LLaVA's `image_aspect_ratio`.
pub(super) fn apply_aspect_ratio(parameters: &mut Parameters, model: &Checkpoint) -> anyhow::Result<()> {
    match model.config().get("image_aspect_ratio").and_then(Value::as_str) {
        Some("pad") => parameters.pad_to_square = Some(mean_colour(&parameters.mean.map(f64::from))),
        None | Some("square") => parameters.pad_to_square = None,
        Some(other) => bail!(
            "`{}` has `image_aspect_ratio` \"{other}\"; only `pad` and `square` (LLaVA-1.5) are read",
            model.dir.join(model.config_file()).display()
        ),
    }
    Ok(())
}

fn defaults_of(class: &str) -> anyhow::Result<Defaults> {
    let clip = Defaults {
        is_size_exact: false,
        side: 224,
        has_crop: true,
        filter: Filter::Bicubic,
        mean: CLIP_MEAN,
        std: CLIP_STD,
    };
    Ok(match class {
        "" | "CLIP" | "Llava" | "ChineseCLIP" => clip,
        "Blip" => Defaults { is_size_exact: true, side: 384, has_crop: false, ..clip },
        "Siglip" => Defaults { is_size_exact: true, has_crop: false, mean: [0.5; 3], std: [0.5; 3], ..clip },
        "Gemma3" => Defaults {
            is_size_exact: true,
            has_crop: false,
            filter: Filter::Bilinear,
            mean: [0.5; 3],
            std: [0.5; 3],
            ..clip
        },
        other => bail!(
            "the image processor is of class {other}; those of CLIP, LLaVA-1.5, SigLIP and BLIP are read; hint: this \
             model family is not supported yet"
        ),
    })
}

fn read_processor(config: &Value) -> anyhow::Result<Parameters> {
    let class = class_of(config);
    let defaults = defaults_of(class)?;
    let flag = |key: &str, default: bool| config.get(key).and_then(Value::as_bool).unwrap_or(default);
    let filter = filter(config, defaults.filter)?;
    let to = match config.get("size") {
        None | Some(Value::Null) if defaults.is_size_exact => exact(defaults.side, defaults.side),
        None | Some(Value::Null) => Target::ShortestEdge(defaults.side),
        Some(size) => read_size(size, defaults.is_size_exact)?,
    };
    let crop = match config.get("crop_size") {
        None | Some(Value::Null) => exact(defaults.side, defaults.side),
        Some(size) => read_size(size, true)?,
    };
    let Target::Exact { height, width } = crop else { bail!("`crop_size` gives no height and width") };
    let Scale { rescale, mean, std } = Scale::from_config(config, defaults.mean, defaults.std)?;
    // Other classes also have `do_pad`, with another meaning.
    let has_padding = class == "Llava" && flag("do_pad", false);
    Ok(Parameters {
        pad_to_square: has_padding
            .then(|| channels(config, "image_mean", defaults.mean))
            .transpose()?
            .map(|mean| mean_colour(&mean)),
        resize: flag("do_resize", true).then_some(Resize { to, filter }),
        crop: flag("do_center_crop", defaults.has_crop).then_some(Crop { height, width, rounding: Rounding::Down }),
        rescale,
        mean,
        std,
    })
}

/// Reads a number, or one of the dictionaries that replaced it.
pub(super) fn read_size(size: &Value, is_number_exact: bool) -> anyhow::Result<Target> {
    if size.is_number() {
        let side = side(size)?;
        return Ok(if is_number_exact { exact(side, side) } else { Target::ShortestEdge(side) });
    }
    match (size.get("shortest_edge"), size.get("height"), size.get("width"), size.get("longest_edge")) {
        (Some(edge), None, None, None) => Ok(Target::ShortestEdge(side(edge)?)),
        (None, Some(height), Some(width), None) => Ok(exact(side(height)?, side(width)?)),
        _ => bail!("the size {size} is neither a `shortest_edge` nor `height` and `width`"),
    }
}

/// Reads the length of a side.
pub(super) fn side(value: &Value) -> anyhow::Result<u32> {
    let side = value.as_u64().and_then(|side| u32::try_from(side).ok()).filter(|side| (1..=SIDE_MAX).contains(side));
    side.with_context(|| format!("{value} is not a number of pixels"))
}

/// Reads open_clip's `preprocess_cfg`, on top of the image size of its `model_cfg`.
fn read_open_clip(config: &Value) -> anyhow::Result<Parameters> {
    let preprocess = config.get("preprocess_cfg").unwrap_or(&Value::Null);
    let size = preprocess
        .get("size")
        .or_else(|| config.pointer("/model_cfg/vision_cfg/image_size"))
        .context("`preprocess_cfg.size` and `model_cfg.vision_cfg.image_size` are both missing")?;
    let Target::Exact { height, width } = (match size {
        Value::Array(sides) => {
            let [height, width] = sides.as_slice() else { bail!("the image size {size} does not have two sides") };
            read_size(&serde_json::json!({"height": height, "width": width}), true)?
        }
        size => read_size(size, true)?,
    }) else {
        bail!("the image size {size} does not have two sides");
    };
    let text = |key: &str, default: &'static str| match preprocess.get(key) {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(value) => value.as_str().map(str::to_owned).with_context(|| format!("`{key}` is not text")),
    };
    let filter = match text("interpolation", "bicubic")?.as_str() {
        "bicubic" => Filter::Bicubic,
        "bilinear" => Filter::Bilinear,
        other => bail!("`interpolation` \"{other}\" is not read; `bicubic` and `bilinear` are"),
    };
    let crop = Crop { height, width, rounding: Rounding::HalfToEven };
    let (to, crop) = match text("resize_mode", "shortest")?.as_str() {
        "shortest" if height == width => (Target::ShortestEdge(height), Some(crop)),
        "squash" => (exact(height, width), None),
        other => bail!("`resize_mode` \"{other}\" for {height} x {width} pixels is not read"),
    };
    Ok(Parameters {
        pad_to_square: None,
        resize: Some(Resize { to, filter }),
        crop,
        rescale: 1.0 / 255.0,
        mean: channels(preprocess, "mean", CLIP_MEAN)?.map(|value| value as f32),
        std: channels(preprocess, "std", CLIP_STD)?.map(|value| value as f32),
    })
}

fn channels(config: &Value, key: &str, default: [f64; 3]) -> anyhow::Result<[f64; 3]> {
    let Some(value) = config.get(key).filter(|value| !value.is_null()) else { return Ok(default) };
    let values: Vec<f64> = value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let values: [f64; 3] = values.try_into().ok().with_context(|| format!("`{key}` is not three numbers"))?;
    ensure!(
        !key.ends_with("std") || values.iter().all(|&value| value > 0.0),
        "`{key}` has a value that is not positive"
    );
    Ok(values)
}

/// Returns the mean colour as LLaVA computes it: `int(255 * mean)`.
fn mean_colour(mean: &[f64; 3]) -> [u8; 3] {
    mean.map(|value| (value * 255.0) as u8)
}

fn exact(height: u32, width: u32) -> Target {
    Target::Exact { height, width }
}
