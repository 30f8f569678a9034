//! DINOv2 (Oquab et al. 2023): a vision transformer whose halves are scaled before they are added.

use anyhow::{Result, bail, ensure};
use candle_core::{Device, Tensor};
use serde::Serialize;

use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{SECOND_TOWER, Weights};
use crate::model::layers::{
    Activation, Attention, AttentionContext, AttentionNames, AttentionShape, GatedMlp, LayerNorm, LayerWatch, Linear,
    Loader, Mlp,
};

/// The epsilon of all norms.
const EPSILON: f64 = 1e-6;
/// The width of a head in all published sizes.
const HEAD_SIZE: usize = 64;
/// What its authors' code adds to the side of the wanted grid before it computes the distance of positions.
const OFFSET_OF_AUTHORS: f64 = 0.1;

/// Sizes of a tower.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dinov2Config {
    #[serde(rename = "hidden_size")]
    size: usize,
    #[serde(rename = "num_hidden_layers")]
    n_layers: usize,
    #[serde(rename = "num_attention_heads")]
    n_heads: usize,
    #[serde(rename = "hidden_act")]
    activation: Activation,
    patch_size: usize,
    /// Patches per side of the grid for which positions are stored.
    grid: usize,
    #[serde(flatten)]
    half: FeedForward,
    /// What is added to the side of a grid when positions are interpolated: something in its authors' code, nothing in
    /// transformers.
    #[serde(rename = "interpolate_offset")]
    offset: f64,
}

/// The feed-forward half.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct FeedForward {
    #[serde(rename = "use_swiglu_ffn")]
    is_gated: bool,
    #[serde(rename = "intermediate_size")]
    n_hidden: usize,
}

impl Dinov2Config {
    /// Reads the `config.json` of a Dinov2Model of transformers.
    ///
    /// # Errors
    /// A size does not fit the others.
    pub fn from_config(config: &Config) -> Result<Self> {
        let size = config.positive_or("hidden_size", 768)?;
        let patch_size = config.positive_or("patch_size", 14)?;
        let image_size = config.positive_or("image_size", 518)?;
        let n_heads = config.positive_or("num_attention_heads", 12)?;
        let n_hidden = config.positive_or("mlp_ratio", 4)? * size;
        let is_gated = config.bool_or("use_swiglu_ffn", false)?;
        ensure!(
            size.is_multiple_of(n_heads) && image_size >= patch_size && config.usize_or("num_channels", 3)? == 3,
            "{}: hidden_size must be a multiple of num_attention_heads, image_size hold a patch of patch_size, and num_channels be 3",
            config.place()
        );
        ensure!(config.bool_or("qkv_bias", true)?, "{}: qkv_bias false is not supported", config.place());
        // Two maps of two thirds of the width, rounded up to a multiple of 8.
        let half = match is_gated {
            true => FeedForward { is_gated, n_hidden: (n_hidden * 2 / 3).div_ceil(8) * 8 },
            false => FeedForward { is_gated, n_hidden },
        };
        Ok(Self {
            size,
            n_layers: config.positive_or("num_hidden_layers", 12)?,
            n_heads,
            activation: Activation::from_name(config.str_or("hidden_act", "gelu")?)?,
            patch_size,
            grid: image_size / patch_size,
            half,
            offset: 0.0,
        })
    }

    /// Derives the sizes from the tensors of a tower that a checkpoint holds without a configuration, as its authors' code does.
    ///
    /// # Errors
    /// A tensor is missing, or of another size than those of a published tower.
    pub fn from_weights(weights: &Weights) -> Result<Self> {
        let shape = |name: &str| weights.shape(&format!("{SECOND_TOWER}{name}")).unwrap_or_default();
        let (positions, patch) = (shape("embeddings.position_embedding"), shape("embeddings.patch_embedding.weight"));
        let ([_, n_positions, size], [_, 3, patch_size, _]) = (&positions[..], &patch[..]) else {
            bail!("the second tower has no positions or no patch embedding; hint: its weights are incomplete")
        };
        let has = |layer: usize| !shape(&format!("encoder.layers.{layer}.layer_scale1")).is_empty();
        let n_layers = (0..).take_while(|&layer| has(layer)).count();
        let [gated, plain] = ["gate_up_proj", "fc1"].map(|name| shape(&format!("encoder.layers.0.mlp.{name}.weight")));
        let half = match gated.first() {
            Some(both) => FeedForward { is_gated: true, n_hidden: both / 2 },
            None => FeedForward { is_gated: false, n_hidden: plain.first().copied().unwrap_or_default() },
        };
        let grid = (n_positions - 1).isqrt();
        ensure!(
            n_layers > 0 && size.is_multiple_of(HEAD_SIZE) && grid * grid + 1 == *n_positions,
            "the second tower has {n_layers} layers of width {size} and {n_positions} positions, which no published DINOv2 has; \
             hint: towers with register tokens are not supported"
        );
        Ok(Self {
            size: *size,
            n_layers,
            n_heads: size / HEAD_SIZE,
            activation: Activation::Gelu,
            patch_size: *patch_size,
            grid,
            half,
            offset: OFFSET_OF_AUTHORS,
        })
    }

    /// The width of its hidden states.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The patches of a square image of `side` pixels.
    pub fn n_patches(&self, side: usize) -> usize {
        (side / self.patch_size).pow(2)
    }

    /// Returns roughly how many numbers the activations of one image of `side` pixels take, for memory planning.
    pub fn n_activations(&self, side: usize) -> usize {
        let n_tokens = self.n_patches(side) + 1;
        n_tokens * (6 * self.size + 2 * self.half.n_hidden) + self.n_heads * n_tokens * n_tokens
    }
}

/// A tower for square images of one side.
pub struct Dinov2Tower {
    patches: Linear,
    class_token: Tensor, // (1, 1, hidden)
    positions: Tensor,   // (1, tokens, hidden)
    blocks: Vec<Block>,
    patch_size: usize,
}

impl Dinov2Tower {
    /// Reads a tower below `loader` for images of `side` pixels. The last norm is not read: what follows are the patches before it.
    ///
    /// # Errors
    /// A tensor is missing, or of another shape.
    pub fn load(loader: &mut Loader, config: &Dinov2Config, side: usize) -> Result<Self> {
        let Dinov2Config { size, patch_size, grid, .. } = *config;
        let mut here = loader.at("embeddings");
        let kernel = [size, 3, patch_size, patch_size];
        let patches = Linear::load_shaped(&mut here, "patch_embedding", &kernel, true)?;
        let class_token = here.tensor("class_embedding", &[1, 1, size])?;
        let positions = here.tensor("position_embedding", &[1, grid * grid + 1, size])?;
        let positions = resized(&positions, grid, side / patch_size, config.offset)?;
        let blocks = (0..config.n_layers)
            .map(|layer| Block::load(&mut loader.at(&format!("encoder.layers.{layer}")), config))
            .collect::<Result<_>>()?;
        Ok(Self { patches, class_token, positions, blocks, patch_size })
    }

    /// Maps `pixels` `(images, 3, side, side)` to the patches after the last block, `(images, patches, hidden)`.
    ///
    /// # Errors
    /// A device failure.
    pub fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        let (n_images, n_channels, side, _) = pixels.dims4()?;
        let (patch, per_side) = (self.patch_size, side / self.patch_size);
        let size = self.class_token.dim(2)?;
        let rows = pixels
            .to_dtype(self.positions.dtype())?
            .narrow(2, 0, per_side * patch)?
            .narrow(3, 0, per_side * patch)?
            .reshape(&[n_images, n_channels, per_side, patch, per_side, patch][..])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape((n_images, per_side * per_side, n_channels * patch * patch))?;
        let patches = self.patches.forward(&rows.contiguous()?)?;
        let class_token = self.class_token.broadcast_as((n_images, 1, size))?.contiguous()?;
        let mut x = Tensor::cat(&[&class_token, &patches], 1)?.broadcast_add(&self.positions)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        x.narrow(1, 1, per_side * per_side)?.contiguous()
    }
}

/// `x + scale1 * attention(norm(x))`, then `x + scale2 * mlp(norm(x))`.
struct Block {
    attention_norm: LayerNorm,
    attention: Attention,
    attention_scale: Tensor, // (hidden)
    mlp_norm: LayerNorm,
    mlp: Half,
    mlp_scale: Tensor, // (hidden)
}

enum Half {
    Plain(Mlp),
    Gated(GatedMlp),
}

impl Block {
    fn load(loader: &mut Loader, config: &Dinov2Config) -> Result<Self> {
        let &Dinov2Config { size, n_heads, activation, half: FeedForward { is_gated, n_hidden }, .. } = config;
        let shape = AttentionShape { size, n_heads, n_kv_heads: n_heads, head_size: size / n_heads };
        let names = AttentionNames { output: "out_proj", qkv_bias: true, output_bias: true, is_joined: false };
        let mut of_mlp = loader.at("mlp");
        let mlp = match is_gated {
            true => Half::Gated(GatedMlp::load_joined(&mut of_mlp, size, n_hidden, Activation::Silu, true)?),
            false => Half::Plain(Mlp::load(&mut of_mlp, size, n_hidden, activation)?),
        };
        Ok(Self {
            attention_norm: LayerNorm::load(loader, "layer_norm1", size, EPSILON)?,
            attention: Attention::load(&mut loader.at("self_attn"), shape, names)?,
            attention_scale: loader.tensor("layer_scale1", &[size])?,
            mlp_norm: LayerNorm::load(loader, "layer_norm2", size, EPSILON)?,
            mlp,
            mlp_scale: loader.tensor("layer_scale2", &[size])?,
        })
    }

    /// Maps `(images, tokens, hidden)` to the same shape.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (nothing, normed) = (x.zeros_like()?, self.attention_norm.forward(x)?);
        let context = AttentionContext::default();
        let attended =
            self.attention.forward_added(&nothing, &normed, 0..x.dim(1)?, context, &mut LayerWatch::default())?;
        let x = (x + attended.broadcast_mul(&self.attention_scale)?)?;
        let normed = self.mlp_norm.forward(&x)?;
        let mapped = match &self.mlp {
            Half::Plain(mlp) => mlp.forward(&normed)?,
            Half::Gated(mlp) => mlp.forward(&normed)?,
        };
        x + mapped.broadcast_mul(&self.mlp_scale)?
    }
}

/// Interpolates the positions `(1, 1 + grid * grid, hidden)` of a class token and a square grid to a grid of `wanted` places per
/// side, as torch's bicubic `interpolate` does without `align_corners` and `antialias`.
fn resized(positions: &Tensor, grid: usize, wanted: usize, offset: f64) -> Result<Tensor> {
    if grid == wanted {
        return Ok(positions.clone());
    }
    let size = positions.dim(2)?;
    let device = positions.device();
    let scale = grid as f64 / (wanted as f64 + offset);
    let weights = Tensor::from_vec(bicubic(grid, wanted, scale), (wanted, grid), &Device::Cpu)?.to_device(device)?;
    let weights = weights.to_dtype(positions.dtype())?;
    let places = positions.narrow(1, 1, grid * grid)?.contiguous()?;
    // (wanted rows, grid columns * hidden), and then by columns.
    let rows = weights.matmul(&places.reshape((grid, grid * size))?)?;
    let by_column = rows.reshape((wanted, grid, size))?.transpose(0, 1)?.contiguous()?;
    let both = weights.matmul(&by_column.reshape((grid, wanted * size))?)?;
    let places = both.reshape((wanted, wanted, size))?.transpose(0, 1)?.contiguous()?;
    Ok(Tensor::cat(&[&positions.narrow(1, 0, 1)?.contiguous()?, &places.reshape((1, wanted * wanted, size))?], 1)?)
}

/// Returns the weights `(wanted, n)` of `n` values in each interpolated one (Keys 1981, with a of -0.75). Places beyond the ends are
/// the last ones.
fn bicubic(n: usize, wanted: usize, scale: f64) -> Vec<f32> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let mut weights = vec![0f32; wanted * n];
    for (place, row) in weights.chunks_exact_mut(n).enumerate() {
        let exact = (place as f64 + 0.5) * scale - 0.5;
        let (first, rest) = (exact.floor() as i64, exact - exact.floor());
        let shares = [far(rest + 1.0), near(rest), near(1.0 - rest), far(2.0 - rest)];
        for (index, share) in (first - 1..).zip(shares) {
            row[index.clamp(0, n as i64 - 1) as usize] += share as f32;
        }
    }
    weights
}

#[cfg(test)]
mod tests;
