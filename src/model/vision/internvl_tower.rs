//! The vision transformer of InternVL (Chen et al. 2023): CLIP's, with a factor for each number that a block adds to the
//! residual stream, and in its largest form with root-mean-square norms and normalised queries and keys.

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use serde::Serialize;
use serde_json::Value;

use super::patch_tower::{Norm, NormKind};
use super::preprocess::ImageInput;
use super::square_tower::tile_groups;
use crate::model::checkpoint::config::Config;
use crate::model::layers::{
    Activation, Attention, AttentionContext, AttentionNames, AttentionShape, BlockConfig, LayerNorm, LayerWatch,
    Linear, Loader, Mlp, PassShape, PatchEmbedding, PatchEmbeddingShape, RmsNorm, Site, Watched,
};

/// Sizes and variants of a tower.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InternVlTowerConfig {
    #[serde(flatten)]
    block: BlockConfig,
    #[serde(rename = "num_hidden_layers")]
    n_layers: usize,
    image_size: usize,
    patch_size: usize,
    #[serde(rename = "norm_type")]
    norm: NormKind,
    #[serde(rename = "attention_bias")]
    has_attention_bias: bool,
    #[serde(rename = "use_qk_norm")]
    has_query_norms: bool,
    /// Whether a norm follows the last block.
    has_last_norm: bool,
}

/// The epsilon of the norms of queries and keys, whatever the configuration says.
const QUERY_NORM_EPSILON: f64 = 1e-6;

impl InternVlTowerConfig {
    /// Reads a `vision_config`, with the defaults of InternVLVisionConfig.
    ///
    /// # Errors
    /// A field has a value that is not known.
    pub fn from_config(config: &Config) -> Result<Self> {
        let place = config.place();
        let norm = match config.str_or("norm_type", "layer_norm")? {
            "layer_norm" => NormKind::Layer,
            "rms_norm" => NormKind::Rms,
            other => bail!("{place}: norm_type `{other}` is not known; hint: layer_norm, rms_norm"),
        };
        ensure!(
            config.bool_or("use_absolute_position_embeddings", true)?,
            "{place}: use_absolute_position_embeddings false is not supported"
        );
        let n_channels = config.positive_or("num_channels", 3)?;
        ensure!(n_channels == 3, "{place}: num_channels is {n_channels}; only RGB towers (3) are supported");
        let this = Self {
            block: BlockConfig {
                size: config.positive_or("hidden_size", 1024)?,
                n_hidden: config.positive_or("intermediate_size", 4096)?,
                n_heads: config.positive_or("num_attention_heads", 16)?,
                activation: Activation::from_name(config.str_or("hidden_act", "gelu")?)?,
                epsilon: config.f64_or("layer_norm_eps", 1e-6)?,
            },
            n_layers: config.positive_or("num_hidden_layers", 24)?,
            image_size: square(config, "image_size", 448)?,
            patch_size: square(config, "patch_size", 14)?,
            norm,
            has_attention_bias: config.bool_or("attention_bias", false)?,
            has_query_norms: config.bool_or("use_qk_norm", false)?,
            has_last_norm: !config.bool_or("use_mean_pooling", true)?,
        };
        let BlockConfig { size, n_heads, .. } = this.block;
        ensure!(
            this.image_size >= this.patch_size && size.is_multiple_of(n_heads),
            "{place}: image_size {} must hold a patch of patch_size {}, and hidden_size {size} be a multiple of \
             num_attention_heads {n_heads}",
            this.image_size,
            this.patch_size
        );
        Ok(this)
    }

    /// The side of the square tile that the tower takes, in pixels.
    pub fn image_size(&self) -> usize {
        self.image_size
    }

    /// Width of the hidden states.
    pub fn size(&self) -> usize {
        self.block.size
    }

    /// Returns the patches along a side of a tile.
    pub fn n_patches_per_side(&self) -> usize {
        self.image_size / self.patch_size
    }

    fn n_tokens(&self) -> usize {
        self.n_patches_per_side().pow(2) + 1
    }

    /// Returns the index of the hidden state `layer`: 0 is the embedding, negative from the end.
    ///
    /// # Errors
    /// There is no such state.
    pub fn hidden_state_index(&self, layer: i64) -> Result<usize> {
        let n_states = self.n_layers as i64 + 1;
        let index = if layer < 0 { n_states + layer } else { layer };
        ensure!(
            (0..n_states).contains(&index),
            "vision_feature_layer {layer} does not exist: the tower has {} layers",
            self.n_layers
        );
        Ok(index as usize)
    }

    /// Returns roughly how many numbers an image of `n_tiles` tiles holds: pixels, activations and the tower's output.
    pub fn n_numbers_of_tiles(&self, n_tiles: usize) -> usize {
        let n_tokens = self.n_tokens();
        let of_tile = 9 * self.image_size.pow(2) + n_tokens * self.block.size;
        let of_pass = n_tokens * (6 * self.block.size + self.block.n_hidden) + self.block.n_heads * n_tokens.pow(2);
        n_tiles.saturating_mul(of_tile).saturating_add(4 * of_pass)
    }
}

/// Reads a side of a square: a number, or two equal ones.
fn square(config: &Config, key: &str, default: usize) -> Result<usize> {
    let Some(Value::Array(sides)) = config.get(key) else { return config.positive_or(key, default) };
    match sides.as_slice() {
        [height, width] if height == width => {
            let side = height.as_u64().and_then(|side| usize::try_from(side).ok()).filter(|&side| side > 0);
            match side {
                Some(side) => Ok(side),
                None => bail!("{}: `{key}` {height} is not a number of pixels", config.place()),
            }
        }
        _ => bail!("{}: `{key}` must be one number or two equal ones; only squares are supported", config.place()),
    }
}

/// A tower's embeddings and blocks.
pub struct InternVlTower {
    config: InternVlTowerConfig,
    embedding: PatchEmbedding,
    blocks: Vec<Block>,
    last_norm: Option<LayerNorm>,
}

impl InternVlTower {
    /// Reads a tower below `loader`.
    ///
    /// # Errors
    /// A tensor is missing or of another shape.
    pub fn load(loader: &mut Loader, config: InternVlTowerConfig) -> Result<Self> {
        let (size, n_tokens, patch_size) = (config.size(), config.n_tokens(), config.patch_size);
        let mut here = loader.at("embeddings");
        // Only training by masked images has read it.
        here.optional("mask_token", &[1, 1, size])?;
        let kernel = [size, 3, patch_size, patch_size];
        let patches = Linear::load_shaped(&mut here.at("patch_embeddings"), "projection", &kernel, true)?;
        let class_token = here.tensor("cls_token", &[1, 1, size])?;
        let positions = here.tensor("position_embeddings", &[1, n_tokens, size])?;
        let shape =
            PatchEmbeddingShape { size, n_channels: 3, patch_size, n_tokens, has_class_token: true, has_bias: true };
        let blocks = (0..config.n_layers)
            .map(|i| Block::load(&mut loader.at(&format!("encoder.layer.{i}")), &config))
            .collect::<Result<_>>()?;
        let epsilon = config.block.epsilon;
        let last_norm =
            if config.has_last_norm { Some(LayerNorm::load(loader, "layernorm", size, epsilon)?) } else { None };
        let embedding = PatchEmbedding::from_parts(patches, class_token, positions, shape);
        Ok(Self { config, embedding, blocks, last_norm })
    }

    /// Returns the hidden state `wanted` (0 is the embedding) of every tile of `image`, `(tiles, tokens, hidden)`, class
    /// token first.
    ///
    /// # Errors
    /// A tile does not have the tower's size.
    pub fn tile_states(&self, image: &ImageInput, wanted: usize, mut watch: Watched<'_>) -> Result<Tensor> {
        let groups = tile_groups(image, self.config.image_size, self.embedding.device())?;
        let states = groups.map(|tiles| self.state(&tiles?, wanted, watch.again()));
        Ok(Tensor::cat(&states.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
    }

    /// Computes one state of `pixels` `(tiles, 3, side, side)`. Blocks after it are not run.
    fn state(&self, pixels: &Tensor, wanted: usize, mut watch: Watched<'_>) -> candle_core::Result<Tensor> {
        let x = self.embedding.forward(pixels)?;
        let (n_rows, n_tokens, _) = x.dims3()?;
        watch.begins(PassShape { n_rows, n_tokens, n_positions: n_tokens });
        let mut x = watch.layer(0).at(Site::Embeddings, x)?;
        for (index, block) in self.blocks.iter().enumerate().take(wanted) {
            x = block.forward(&x, &mut watch.layer(index))?;
        }
        match &self.last_norm {
            Some(norm) if wanted == self.blocks.len() => watch.layer(wanted).at(Site::FinalNorm, norm.forward(&x)?),
            _ => Ok(x),
        }
    }
}

/// `x + f * attention(norm(x))`, then `x + g * mlp(norm(x))`, with factors `f` and `g` per number.
struct Block {
    attention_norm: Norm,
    attention: Attention,
    mlp_norm: Norm,
    mlp: Mlp,
}

impl Block {
    fn load(loader: &mut Loader, config: &InternVlTowerConfig) -> Result<Self> {
        let BlockConfig { size, n_hidden, n_heads, activation, epsilon } = config.block;
        let norm = (config.norm, epsilon);
        let shape = AttentionShape { size, n_heads, n_kv_heads: n_heads, head_size: size / n_heads };
        let names = AttentionNames {
            output: "projection_layer",
            qkv_bias: config.has_attention_bias,
            output_bias: true,
            is_joined: false,
        };
        let mut here = loader.at("attention");
        let mut attention = Attention::load(&mut here, shape, names)?;
        if config.has_query_norms {
            let mut norm = |name| RmsNorm::load(&mut here, name, size, QUERY_NORM_EPSILON);
            attention = attention.with_width_norms(norm("q_norm")?, norm("k_norm")?);
        }
        Ok(Self {
            attention_norm: Norm::load_within(loader, "layernorm_before", size, norm)?,
            attention: attention.times(loader.tensor("lambda_1", &[size])?),
            mlp_norm: Norm::load_within(loader, "layernorm_after", size, norm)?,
            mlp: Mlp::load(&mut loader.at("mlp"), size, n_hidden, activation)?
                .times(loader.tensor("lambda_2", &[size])?),
        })
    }

    /// Maps `(batch, tokens, size)` to the same shape.
    fn forward(&self, x: &Tensor, watch: &mut LayerWatch<'_>) -> candle_core::Result<Tensor> {
        let normed = watch.at(Site::AttentionInput, self.attention_norm.forward(x)?)?;
        let x = self.attention.forward_added(x, &normed, 0..x.dim(1)?, AttentionContext::default(), watch)?;
        let normed = watch.at(Site::MlpInput, self.mlp_norm.forward(&x)?)?;
        let x = watch.added(Site::MlpOutput, &x, |residual| self.mlp.forward_added(residual, &normed))?;
        watch.at(Site::Residual, x)
    }
}
