//! What LLaVA-NeXT and LLaVA-OneVision share: a tower over the whole image and its tiles, LLaVA's projector, and
//! features without those of the padding, with a line end after each row.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use serde::Serialize;
use serde_json::{Value, json};

use super::llava::{
    Projector, ProjectorConfig, Strategy, config_of, load_tower, refuse_scaled, tower_of, tower_states,
};
use super::{DecoderOnly, ImageEmbedding, ImageReader, Mllm, MllmPlan, Seen, side_by_side};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::Checkpoint;
use crate::model::language::{Decoder, DecoderConfig, LanguageModel};
use crate::model::layers::{Loader, Watched};
use crate::model::vision::preprocess::{AnyresProcessor, ImageInput, read_pinpoints};
use crate::model::vision::square_tower::{VisionConfig, VisionTower};

/// What differs between the families.
pub(super) struct Variant {
    /// Possible values of `model_type` in `vision_config`, the default first.
    pub(super) towers: &'static [&'static str],
    /// The default of `vision_feature_layer`.
    pub(super) layer: i64,
    /// The default of `vision_feature_select_strategy`.
    pub(super) strategy: &'static str,
    /// Returns the number of tiles whose features are kept, if it is limited.
    pub(super) n_tiles_kept: fn(&Config) -> Result<Option<usize>>,
}

/// Everything that the checkpoint's configuration decides.
#[derive(Serialize)]
pub(super) struct Plan {
    #[serde(rename = "vision_config")]
    vision: VisionConfig,
    #[serde(rename = "text_config")]
    text: DecoderConfig,
    /// The hidden states that the projector reads, concatenated.
    #[serde(rename = "vision_feature_layer")]
    tower_states: Vec<usize>,
    #[serde(rename = "vision_feature_select_strategy")]
    strategy: Strategy,
    #[serde(flatten)]
    projector: ProjectorConfig,
    packing: Packing,
    /// The possible rows and columns of tiles.
    #[serde(rename = "image_grid_pinpoints")]
    grids: Vec<(usize, usize)>,
}

impl Plan {
    pub(super) fn of(checkpoint: &Checkpoint, variant: &Variant) -> Result<Self> {
        let config = config_of(checkpoint);
        let place = config.place();
        let vision = config.section("vision_config").with_context(|| format!("{place} has no vision_config"))?;
        let kind = vision.str_or("model_type", variant.towers[0])?;
        ensure!(
            variant.towers.contains(&kind),
            "{}: the vision tower `{kind}` is not supported in this family; hint: {} is",
            vision.place(),
            variant.towers.join(" or ")
        );
        let vision = tower_of(&vision, kind)?;
        let text = config.section("text_config").with_context(|| format!("{place} has no text_config"))?;
        let text = DecoderConfig::from_config(&text, config.bool_or("tie_word_embeddings", false)?)?;
        refuse_scaled(&text, place)?;
        let n_tiles_kept = (variant.n_tiles_kept)(&config)?;
        Ok(Self {
            tower_states: tower_states(&config, &vision, variant.layer)?,
            strategy: strategy(&config, &vision, variant.strategy)?,
            projector: ProjectorConfig::from_config(&config)?,
            packing: Packing { n_side: vision.n_patches_per_side(), n_tiles_kept },
            grids: grids(checkpoint, &config, vision.image_size() as u32)?,
            vision,
            text,
        })
    }

    pub(super) fn read(&self, loader: &mut Loader) -> Result<DecoderOnly<Anyres, Decoder>> {
        let (n_in, n_out) = (self.vision.size() * self.tower_states.len(), self.text.size());
        let reader = Anyres {
            tower: load_tower(loader, &self.vision)?,
            tower_states: self.tower_states.clone(),
            n_dropped: usize::from(self.strategy == Strategy::Default),
            projector: Projector::load(loader, &self.projector, n_in, n_out)?,
            line_end: loader.tensor("image_newline", &[n_out])?,
            packing: self.packing,
        };
        DecoderOnly::load(reader, self.text.clone(), loader)
    }

    fn n_tiles_max(&self) -> usize {
        self.grids.iter().map(|(rows, columns)| 1 + rows * columns).max().unwrap_or(1)
    }
}

/// Reads `vision_feature_select_strategy`. What it leaves must be one feature for each patch, because features are
/// packed by their rows and columns.
fn strategy(config: &Config, vision: &VisionConfig, default: &str) -> Result<Strategy> {
    let (place, name) = (config.place(), config.str_or("vision_feature_select_strategy", default)?);
    match (name, vision.has_class_token()) {
        ("default", true) => Ok(Strategy::Default),
        ("full", false) => Ok(Strategy::Full),
        ("default", false) => bail!(
            "{place}: vision_feature_select_strategy `default` drops a patch, because the tower has no class token; \
             hint: `full`"
        ),
        ("full", true) => bail!(
            "{place}: vision_feature_select_strategy `full` keeps the tower's class token, which has no place among \
             rows of patches; hint: `default`"
        ),
        _ => bail!("{place}: vision_feature_select_strategy `{name}` is not known; hint: default, full"),
    }
}

/// Returns the rows and columns of tiles that the image processor may make. They must be those that the model unpacks.
fn grids(checkpoint: &Checkpoint, config: &Config, side: u32) -> Result<Vec<(usize, usize)>> {
    let processor = AnyresProcessor::from_checkpoint(checkpoint)?;
    let parameters = processor.parameters();
    let mut differing = (parameters.side != side).then_some("the side of a tile");
    if let Some(pinpoints) = config.get("image_grid_pinpoints")
        && read_pinpoints(pinpoints, side).with_context(|| config.place().to_owned())? != parameters.pinpoints
    {
        differing = differing.or(Some("`image_grid_pinpoints`"));
    }
    if let Some(what) = differing {
        bail!(
            "{what} differs between {} and the image processor's file; hint: they belong to different checkpoints",
            config.place()
        );
    }
    let grid = |&(height, width): &(u32, u32)| ((height / side) as usize, (width / side) as usize);
    Ok(parameters.pinpoints.iter().map(grid).collect())
}

impl MllmPlan for Plan {
    fn n_image_positions_max(&self) -> usize {
        self.grids.iter().map(|&grid| self.packing.n_positions_max(grid)).max().unwrap_or(0)
    }

    fn n_positions(&self) -> usize {
        self.text.n_positions
    }

    fn n_layers(&self) -> usize {
        self.text.n_layers()
    }

    fn n_heads(&self) -> [usize; 2] {
        self.text.n_heads()
    }

    fn limit(&self) -> Option<&str> {
        self.text.limit()
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn tower_settings(&self) -> Value {
        json!({"vision_config": self.vision, "vision_feature_layer": self.tower_states, "strategy": self.strategy})
    }

    fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        let activations = self.text.n_numbers_per_row(n_tokens).max(self.vision.n_activations_of_tiles());
        self.vision.n_numbers_of_tiles(self.n_tiles_max()).saturating_add(activations)
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>> {
        Ok(Box::new(self.read(loader)?))
    }
}

/// How the features of tiles become one run of positions.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Packing {
    /// Patches along a side of a tile.
    pub(super) n_side: usize,
    /// More features than those of this many tiles are reduced, if the number is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) n_tiles_kept: Option<usize>,
}

/// The features that are kept of an image's tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    /// The part that the image covers: first row and column, rows, columns.
    top: usize,
    left: usize,
    height: usize,
    width: usize,
    /// The rows and columns to which they are reduced.
    resized: Option<(usize, usize)>,
}

impl Packing {
    /// Returns what is kept of a map of `grid` tiles of an image of size `original` (height, width): the part without
    /// padding, as computed by transformers' `unpad_image`.
    fn kept(&self, (rows, columns): (usize, usize), original: (u32, u32)) -> Kept {
        let (height, width) = (rows * self.n_side, columns * self.n_side);
        let (original_height, original_width) = (f64::from(original.0), f64::from(original.1));
        // Python's `int(round(x, 7))`.
        let whole = |x: f64| ((x * 1e7).round() / 1e7) as usize;
        let is_wider = original_width / original_height > width as f64 / height as f64;
        let (mut top, mut left) = (0, 0);
        if is_wider {
            top = (height - whole(original_height * (width as f64 / original_width)).min(height)) / 2;
        } else {
            left = (width - whole(original_width * (height as f64 / original_height)).min(width)) / 2;
        }
        let (height, width) = (height - 2 * top, width - 2 * left);
        let ratio_to = |n_tiles: usize| (height as f64 * width as f64 / (n_tiles * self.n_side.pow(2)) as f64).sqrt();
        let ratio = self.n_tiles_kept.map(ratio_to).filter(|&ratio| ratio > MAP_RATIO_MAX);
        let fewer = |n: usize, ratio: f64| ((n as f64 / ratio) as usize).max(1);
        let resized = ratio.map(|ratio| (fewer(height, ratio), fewer(width, ratio)));
        Kept { top, left, height, width, resized }
    }

    /// The number of positions of such an image: the whole image, then the rows of its tiles, each with a line end.
    #[cfg(test)]
    pub(super) fn n_positions(&self, grid: (usize, usize), original: (u32, u32)) -> usize {
        let kept = self.kept(grid, original);
        let (height, width) = kept.resized.unwrap_or((kept.height, kept.width));
        self.n_side.pow(2) + height * (width + 1)
    }

    /// The maximum number of positions of an image of `grid` tiles.
    pub(super) fn n_positions_max(&self, (rows, columns): (usize, usize)) -> usize {
        let of_tile = self.n_side.pow(2);
        let unresized = |n_tiles: usize| (MAP_RATIO_MAX.powi(2) * (n_tiles * of_tile) as f64) as usize;
        let of_tiles = rows * columns * of_tile;
        let kept = self.n_tiles_kept.map_or(of_tiles, |n_tiles| of_tiles.min(unresized(n_tiles)));
        of_tile + kept + rows * self.n_side
    }

    /// Packs the features `(tiles, patches, hidden)` of an image, the whole image's first, into `(positions, hidden)`.
    pub(super) fn pack(&self, features: &Tensor, seen: &Seen, line_end: &Tensor) -> candle_core::Result<Tensor> {
        let (rows, columns) = seen.grid;
        let (whole, size, n) = (features.get(0)?, features.dim(2)?, self.n_side);
        let kept = self.kept(seen.grid, seen.original_size);
        if kept.height == 0 {
            return Ok(whole);
        }
        let line_ends = |n_rows: usize| line_end.reshape((1, 1, size))?.broadcast_as((n_rows, 1, size))?.contiguous();
        if kept.width == 0 {
            return Tensor::cat(&[&whole, &line_ends(kept.height)?.squeeze(1)?], 0);
        }
        let mut map = features
            .narrow(0, 1, rows * columns)?
            .reshape((rows, columns, n, n, size))?
            .permute([0, 2, 1, 3, 4])?
            .reshape((rows * n, columns * n, size))?
            .narrow(0, kept.top, kept.height)?
            .narrow(1, kept.left, kept.width)?;
        if let Some((height, width)) = kept.resized {
            map = interpolated(&interpolated(&map, 0, height)?, 1, width)?;
        }
        let lines = Tensor::cat(&[&map.contiguous()?, &line_ends(map.dim(0)?)?], 1)?; // (rows, columns + 1, hidden)
        Tensor::cat(&[&whole, &lines.flatten_to(1)?], 0)
    }
}

/// A map is not resized up to this ratio of its side to the side of the kept features.
const MAP_RATIO_MAX: f64 = 1.1;

/// Resizes `(rows, columns, hidden)` to `n` places along `axis`. Linear between the centres of neighbours, without
/// antialiasing: one axis of torch's bilinear interpolation.
fn interpolated(x: &Tensor, axis: usize, n: usize) -> candle_core::Result<Tensor> {
    let n_in = x.dim(axis)?;
    let scale = n_in as f32 / n as f32;
    let sources: Vec<f32> = (0..n).map(|place| (scale * (place as f32 + 0.5) - 0.5).max(0.0)).collect();
    let before: Vec<u32> = sources.iter().map(|&source| (source as u32).min(n_in as u32 - 1)).collect();
    let after: Vec<u32> = before.iter().map(|&place| (place + 1).min(n_in as u32 - 1)).collect();
    let shares: Vec<f32> = sources.iter().zip(&before).map(|(source, &place)| source - place as f32).collect();
    let mut shape = [1, 1, 1];
    shape[axis] = n;
    let shares = Tensor::from_vec(shares, &shape[..], x.device())?.to_dtype(DType::F32)?;
    let x = x.contiguous()?;
    let rows = |places: Vec<u32>| x.index_select(&Tensor::new(places, x.device())?, axis);
    let (before, after) = (rows(before)?, rows(after)?);
    let shares = shares.to_dtype(x.dtype())?;
    &before + (&after - &before)?.broadcast_mul(&shares)?
}

/// The image reader of both families.
pub(super) struct Anyres {
    tower: VisionTower,
    /// The states that the projector reads, concatenated.
    tower_states: Vec<usize>,
    n_dropped: usize,
    pub(super) projector: Projector,
    line_end: Tensor, // (hidden)
    pub(super) packing: Packing,
}

#[cfg(test)]
impl Anyres {
    /// The tower's last state of an image.
    pub(super) fn last_state(&self, image: &ImageInput) -> Tensor {
        self.tower.tile_states(image, &[self.tower.last_state()], Watched::by_none()).unwrap().remove(0)
    }
}

impl ImageReader for Anyres {
    fn see_watched(&self, images: &[&ImageInput], mut watch: Watched<'_>) -> Result<Vec<Seen>> {
        let mut see = |image: &&ImageInput| -> Result<Seen> {
            let (rows, columns) = image.grid;
            ensure!(
                image.shape.first() == Some(&(1 + rows * columns)),
                "tiles of {:?} numbers do not fill the rows and columns {:?}",
                image.shape,
                image.grid
            );
            let state = side_by_side(self.tower.tile_states(image, &self.tower_states, watch.again())?)?;
            let n_kept = state.dim(1)? - self.n_dropped; // of (tiles, tokens, hidden)
            Ok(Seen::plain(state.narrow(1, self.n_dropped, n_kept)?.contiguous()?, image))
        };
        images.iter().map(&mut see).collect()
    }

    fn embed_images(&self, seen: &[Seen], _: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        let embed = |seen: &Seen| -> Result<ImageEmbedding> {
            let features = self.projector.forward(seen.states.first().context("a tower gives a state")?)?;
            Ok(ImageEmbedding::plain(self.packing.pack(&features, seen, &self.line_end)?))
        };
        seen.iter().map(embed).collect()
    }
}
