//! The vision transformers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size as lists of patches.

mod grid;
mod merger;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use serde::Serialize;

use super::preprocess::merged_order;
use crate::model::checkpoint::config::Config;
use crate::model::layers::{
    Activation, FusedAttention, GatedMlp, LayerNorm, LayerWatch, Linear, Loader, Mlp, PassShape, RmsNorm, Site,
    Watched, n_attention_numbers, patch_rotary,
};
pub use merger::{MergerConfig, PatchMerger};

/// The epsilon of all norms in these towers, whatever the configuration says.
const EPSILON: f64 = 1e-6;

/// The base of the rotary embedding of patches.
const THETA: f64 = 10_000.0;

/// The kind of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// With mean, scale and shift.
    Layer,
    /// Root mean square, with scale.
    Rms,
}

/// The part of a block after attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedForwardKind {
    /// Two maps of these names.
    Plain([&'static str; 2]),
    /// A gated part with biases.
    Gated,
}

/// Attention within windows.
#[derive(Clone, Debug, Serialize)]
pub struct Windows {
    /// Merged patches along a side of a window.
    pub side: usize,
    /// The indices of blocks whose tokens see the whole image.
    pub full: Vec<usize>,
}

/// The configuration of a tower.
#[derive(Clone, Debug, Serialize)]
pub struct PatchTowerConfig {
    /// Width of the hidden states.
    #[serde(rename = "hidden_size")]
    pub size: usize,
    /// Width inside the feed-forward half.
    #[serde(rename = "intermediate_size")]
    pub n_hidden: usize,
    /// Attention heads.
    #[serde(rename = "num_heads")]
    pub n_heads: usize,
    /// Blocks.
    #[serde(rename = "depth")]
    pub n_layers: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Frames of a patch.
    #[serde(rename = "temporal_patch_size")]
    pub n_frames: usize,
    /// Patches along a side of a merged patch.
    #[serde(rename = "spatial_merge_size")]
    pub merge_size: usize,
    /// The activation of the feed-forward half.
    #[serde(rename = "hidden_act")]
    pub activation: Activation,
    /// The kind of all norms.
    pub norm: NormKind,
    /// The feed-forward half.
    pub feed_forward: FeedForwardKind,
    /// Whether patches are embedded with a bias.
    pub has_patch_bias: bool,
    /// The side of the square grid of learned positions, if there are any.
    pub positions_side: Option<usize>,
    /// Windows, if most blocks attend within windows.
    pub windows: Option<Windows>,
    /// The indices of blocks after which the state is also returned (DeepStack).
    #[serde(rename = "deepstack_visual_indexes")]
    pub tapped: Vec<usize>,
}

impl PatchTowerConfig {
    /// Reads what the three families share from a `vision_config`. `size` is the tower's width; `n_layers`,
    /// `patch_size` and `activation` are the defaults of `depth`, `patch_size` and `hidden_act`. Norms are layer norms,
    /// the feed-forward half is plain, patches have no bias, and there are no learned positions, windows or taps.
    pub fn from_config(
        config: &Config,
        size: usize,
        n_hidden: usize,
        (n_layers, patch_size, activation): (usize, usize, &str),
    ) -> Result<Self> {
        let this = Self {
            size,
            n_hidden,
            n_heads: config.positive_or("num_heads", 16)?,
            n_layers: config.positive_or("depth", n_layers)?,
            patch_size: config.positive_or("patch_size", patch_size)?,
            n_frames: config.positive_or("temporal_patch_size", 2)?,
            merge_size: config.positive_or("spatial_merge_size", 2)?,
            activation: Activation::from_name(config.str_or("hidden_act", activation)?)?,
            norm: NormKind::Layer,
            feed_forward: FeedForwardKind::Plain(["fc1", "fc2"]),
            has_patch_bias: false,
            positions_side: None,
            windows: None,
            tapped: Vec::new(),
        };
        // Larger sizes are a mistake in the file, and their products would overflow.
        const SIDE_MAX: usize = 1 << 10;
        ensure!(
            [this.patch_size, this.merge_size, this.n_frames].iter().all(|&side| side <= SIDE_MAX),
            "{}: patch_size, spatial_merge_size and temporal_patch_size must be at most {SIDE_MAX}",
            config.place()
        );
        let channels = config.positive_or("in_channels", config.positive_or("in_chans", 3)?)?;
        ensure!(channels == 3, "`in_channels` in {} is {channels}; only RGB towers (3) are supported", config.place());
        ensure!(
            size.is_multiple_of(this.n_heads) && (size / this.n_heads).is_multiple_of(4),
            "{}: the width {size} must be a multiple of four times num_heads {}",
            config.place(),
            this.n_heads
        );
        if let Some(rotary) = config.section("rope_parameters") {
            let (kind, theta) = (rotary.str_or("rope_type", "axial")?, rotary.f64_or("rope_theta", THETA)?);
            if kind != "axial" || theta != THETA {
                bail!(
                    "the rotary positions of {} are `{kind}` of {theta}; only axial of {THETA} are supported",
                    rotary.place()
                );
            }
        }
        Ok(this)
    }

    /// Returns the indices of blocks listed under `key`.
    pub fn blocks(config: &Config, key: &str, default: &[usize]) -> Result<Vec<usize>> {
        let Some(value) = config.get(key) else { return Ok(default.to_vec()) };
        let listed = value.as_array().and_then(|blocks| {
            let numbers = blocks.iter().map(|block| block.as_u64().map(|block| block as usize));
            numbers.collect::<Option<Vec<_>>>()
        });
        listed.with_context(|| format!("`{key}` in {} must be a list of blocks, but is {value}", config.place()))
    }

    /// Returns the places in the list of tapped blocks, sorted by block: the order in which their states are computed.
    pub fn tapped_in_order(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.tapped.len()).collect();
        places.sort_by_key(|&place| self.tapped[place]);
        places
    }

    /// Returns roughly how many numbers the activations of an image of `n_patches` patches take, for memory planning.
    pub fn n_activations(&self, n_patches: usize) -> usize {
        let linear = n_patches.saturating_mul(8 * self.size + 3 * self.n_hidden + self.n_patch_numbers());
        linear.saturating_add(n_attention_numbers(self.n_heads, n_patches))
    }

    /// Returns the number of numbers in a flattened patch.
    pub fn n_patch_numbers(&self) -> usize {
        3 * self.n_frames * self.patch_size * self.patch_size
    }
}

/// A norm of either kind.
pub(super) enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

impl Norm {
    fn load(loader: &mut Loader, name: &str, size: usize, kind: NormKind) -> Result<Self> {
        Self::load_within(loader, name, size, (kind, EPSILON))
    }

    /// Reads the norm `name` of a kind, with an epsilon.
    pub(super) fn load_within(
        loader: &mut Loader,
        name: &str,
        size: usize,
        (kind, epsilon): (NormKind, f64),
    ) -> Result<Self> {
        Ok(match kind {
            NormKind::Layer => Self::Layer(LayerNorm::load(loader, name, size, epsilon)?),
            NormKind::Rms => Self::Rms(RmsNorm::load(loader, name, size, epsilon)?),
        })
    }

    /// Maps `(…, size)` to the same shape.
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }
}

enum FeedForward {
    Plain(Mlp),
    Gated(GatedMlp),
}

struct Block {
    attention_norm: Norm,
    attention: FusedAttention,
    mlp_norm: Norm,
    mlp: FeedForward,
}

impl Block {
    fn load(loader: &mut Loader, config: &PatchTowerConfig) -> Result<Self> {
        let PatchTowerConfig { size, n_hidden, activation, .. } = *config;
        Ok(Self {
            attention_norm: Norm::load(loader, "norm1", size, config.norm)?,
            attention: FusedAttention::load(&mut loader.at("attn"), size, config.n_heads)?,
            mlp_norm: Norm::load(loader, "norm2", size, config.norm)?,
            mlp: match config.feed_forward {
                FeedForwardKind::Plain(names) => FeedForward::Plain(Mlp::load_named(
                    &mut loader.at("mlp"),
                    names,
                    [size, n_hidden, size],
                    activation,
                )?),
                FeedForwardKind::Gated => {
                    FeedForward::Gated(GatedMlp::load(&mut loader.at("mlp"), size, n_hidden, activation, true)?)
                }
            },
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &(Tensor, Tensor),
        segments: &[usize],
        watch: &mut LayerWatch<'_>,
    ) -> candle_core::Result<Tensor> {
        let normed = watch.at(Site::AttentionInput, self.attention_norm.forward(x)?)?;
        let attended = self.attention.forward(&normed, rotary, segments, watch)?;
        let x = (x + watch.at(Site::AttentionOutput, attended)?)?;
        let normed = watch.at(Site::MlpInput, self.mlp_norm.forward(&x)?)?;
        let added = match &self.mlp {
            FeedForward::Plain(mlp) => mlp.forward(&normed)?,
            FeedForward::Gated(mlp) => mlp.forward(&normed)?,
        };
        let x = (&x + watch.at(Site::MlpOutput, added)?)?;
        watch.at(Site::Residual, x)
    }
}

/// A tower without its merger.
pub struct PatchTower {
    config: PatchTowerConfig,
    patches: Linear,
    positions: Option<Tensor>, // (side * side, size)
    blocks: Vec<Block>,
}

impl PatchTower {
    /// Reads a tower below `loader`.
    pub fn load(loader: &mut Loader, config: PatchTowerConfig) -> Result<Self> {
        let PatchTowerConfig { size, patch_size, n_frames, .. } = config;
        let mut embedding = loader.at("patch_embed.proj");
        // A convolution whose stride equals its kernel size is one product over flattened patches.
        let kernel = embedding.tensor("weight", &[size, 3, n_frames, patch_size, patch_size])?.flatten_from(1)?;
        let bias = if config.has_patch_bias { Some(embedding.tensor("bias", &[size])?) } else { None };
        let positions = match config.positions_side {
            Some(side) => Some(loader.at("pos_embed").tensor("weight", &[side * side, size])?),
            None => None,
        };
        let blocks = (0..config.n_layers)
            .map(|i| Block::load(&mut loader.at(&format!("blocks.{i}")), &config))
            .collect::<Result<_>>()?;
        Ok(Self { config, patches: Linear::from_tensors(kernel, bias), positions, blocks })
    }

    /// Returns the last hidden state of an image and those after the tapped blocks, in order: each `(patches, size)`,
    /// with the patches of a merged patch consecutive. `patches` is `(patches, numbers)` of a `(rows, columns)` grid.
    /// If the tower has windows, a watch sees patches in the order of windows.
    pub fn forward(&self, patches: &Tensor, grid: (usize, usize), mut watch: Watched<'_>) -> Result<Vec<Tensor>> {
        let (n_patches, device) = (patches.dim(0)?, patches.device());
        let merge_size = self.config.merge_size;
        ensure!(
            n_patches == grid.0 * grid.1 && grid.0.is_multiple_of(merge_size) && grid.1.is_multiple_of(merge_size),
            "{n_patches} patches do not fill a grid of {} x {}",
            grid.0,
            grid.1
        );
        let mut places: Vec<(usize, usize)> = merged_order(grid, merge_size).collect();
        let mut x = self.patches.forward(patches)?;
        if let (Some(table), Some(side)) = (&self.positions, self.config.positions_side) {
            let (indices, weights) = grid::interpolation(&places, grid, side);
            let indices = Tensor::new(indices, device)?;
            let weights = Tensor::from_vec(weights, (n_patches, 4, 1), device)?;
            let taps = table.index_select(&indices, 0)?.to_dtype(DType::F32)?.reshape((n_patches, 4, ()))?;
            x = (&x + taps.broadcast_mul(&weights)?.sum(1)?.to_dtype(x.dtype())?)?;
        }
        let windowed = self.config.windows.as_ref().map(|windows| {
            let (order, lengths) = grid::windows((grid.0 / merge_size, grid.1 / merge_size), windows.side);
            (order, lengths.into_iter().map(|n| n * merge_size * merge_size).collect::<Vec<_>>(), &windows.full)
        });
        if let Some((order, ..)) = &windowed {
            x = self.permuted(&x, order)?;
            let n_inner = merge_size * merge_size;
            let inner = |&merged: &u32| places[merged as usize * n_inner..][..n_inner].to_vec();
            places = order.iter().flat_map(inner).collect();
        }
        watch.begins(PassShape { n_rows: 1, n_tokens: n_patches, n_positions: n_patches });
        x = watch.layer(0).at(Site::Embeddings, x)?;
        let rotary = patch_rotary(&places, self.config.size / self.config.n_heads, THETA, device)?;
        let whole = [n_patches];
        let mut tapped = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            let segments = match &windowed {
                Some((_, lengths, full)) if !full.contains(&index) => lengths.as_slice(),
                _ => &whole,
            };
            x = block.forward(&x, &rotary, segments, &mut watch.layer(index))?;
            if self.config.tapped.contains(&index) {
                tapped.push(x.clone());
            }
        }
        let mut states = vec![x];
        states.extend(tapped);
        match &windowed {
            Some((order, ..)) => states.iter().map(|state| self.permuted(state, &grid::inverse(order))).collect(),
            None => Ok(states),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &PatchTowerConfig {
        &self.config
    }

    /// Reorders whole merged patches of `x` `(patches, size)`.
    fn permuted(&self, x: &Tensor, order: &[u32]) -> Result<Tensor> {
        let (n_patches, size) = x.dims2()?;
        let n_inner = self.config.merge_size.pow(2);
        let merged = x.reshape((n_patches / n_inner, n_inner * size))?;
        Ok(merged.index_select(&Tensor::new(order, x.device())?, 0)?.reshape((n_patches, size))?)
    }
}
