//! The vision transformer of CLIP and SigLIP (Radford et al. 2021; Zhai et al. 2023, "Sigmoid loss").

use std::ops::Range;

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use serde::Serialize;

use super::preprocess::ImageInput;
use crate::model::checkpoint::config::Config;
use crate::model::layers::{
    Activation, Block, BlockConfig, LayerNorm, LayerWatch, Loader, PassShape, PatchEmbedding, PatchEmbeddingShape,
    Site, Watched,
};

/// The kind of tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TowerKind {
    /// Class token, norm before the blocks, patches without bias.
    Clip,
    /// No class token, no norm before the blocks, patches with bias.
    Siglip,
    /// EVA-CLIP as BLIP-2 uses it (Fang et al. 2023): class token, no norm before the blocks, patches with bias.
    Eva,
}

/// Tiles per pass of the tower.
const N_TILES_PER_PASS: usize = 4;

/// Splits the tiles of `image` into groups `(tiles, 3, side, side)` that pass a tower together.
///
/// # Errors
/// A tile is not `side` pixels wide and high.
pub fn tile_groups(
    image: &ImageInput,
    side: usize,
    device: &Device,
) -> Result<impl Iterator<Item = candle_core::Result<Tensor>>> {
    if !matches!(image.shape[..], [n_tiles, 3, height, width] if n_tiles > 0 && (height, width) == (side, side)) {
        bail!("tiles of {:?} numbers do not fit a tower that takes 3 x {side} x {side}", image.shape);
    }
    let n_values = 3 * side * side;
    let groups = image.values.chunks(N_TILES_PER_PASS * n_values);
    Ok(groups.map(move |values| Tensor::from_slice(values, (values.len() / n_values, 3, side, side), device)))
}

/// Sizes of a tower.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VisionConfig {
    kind: TowerKind,
    #[serde(flatten)]
    block: BlockConfig,
    #[serde(rename = "num_hidden_layers")]
    n_layers: usize,
    #[serde(rename = "num_channels")]
    n_channels: usize,
    image_size: usize,
    patch_size: usize,
}

impl VisionConfig {
    /// Reads a `vision_config`, with the defaults of CLIPVisionConfig or SiglipVisionConfig.
    pub fn from_config(kind: TowerKind, config: &Config) -> Result<Self> {
        let (patch_size, activation, epsilon) = match kind {
            TowerKind::Clip => (32, "quick_gelu", 1e-5),
            TowerKind::Siglip => (16, "gelu_pytorch_tanh", 1e-6),
            TowerKind::Eva => (14, "gelu", 1e-6),
        };
        let this = Self {
            kind,
            block: BlockConfig {
                size: config.positive_or("hidden_size", 768)?,
                n_hidden: config.positive_or("intermediate_size", 3072)?,
                n_heads: config.positive_or("num_attention_heads", 12)?,
                activation: Activation::from_name(config.str_or("hidden_act", activation)?)?,
                epsilon: config.f64_or("layer_norm_eps", epsilon)?,
            },
            n_layers: config.positive_or("num_hidden_layers", 12)?,
            n_channels: config.positive_or("num_channels", 3)?,
            image_size: config.positive_or("image_size", 224)?,
            patch_size: config.positive_or("patch_size", patch_size)?,
        };
        if this.n_channels != 3 {
            bail!("`num_channels` in {} is {}; only RGB towers (3) are supported", config.place(), this.n_channels);
        }
        if this.image_size < this.patch_size || !this.block.size.is_multiple_of(this.block.n_heads) {
            bail!(
                "{}: image_size {} must hold a patch of patch_size {}, and hidden_size {} be a multiple of \
                 num_attention_heads {}",
                config.place(),
                this.image_size,
                this.patch_size,
                this.block.size,
                this.block.n_heads
            );
        }
        Ok(this)
    }

    /// The side of the square image that the tower takes, in pixels.
    pub fn image_size(&self) -> usize {
        self.image_size
    }

    /// Width of the tower's hidden states.
    pub fn size(&self) -> usize {
        self.block.size
    }

    /// Returns the patches along a side. Pixels on the right and below that fill no patch are ignored (6 of 384 with
    /// patches of 14).
    pub fn n_patches_per_side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Returns the patches of an image, without the class token.
    pub fn n_patches(&self) -> usize {
        self.n_patches_per_side().pow(2)
    }

    /// Whether the first token is a class token.
    pub fn has_class_token(&self) -> bool {
        matches!(self.kind, TowerKind::Clip | TowerKind::Eva)
    }

    /// Returns the tokens of an image, including the class token.
    pub fn n_tokens(&self) -> usize {
        self.n_patches() + usize::from(self.has_class_token())
    }

    /// The blocks' configuration.
    pub fn block(&self) -> &BlockConfig {
        &self.block
    }

    /// Returns the index of the hidden state `layer`, counted as in transformers: 0 is the embedding, negative from the
    /// end.
    pub fn hidden_state_index(&self, layer: i64) -> Result<usize> {
        let n_states = self.n_layers as i64 + 1;
        let index = if layer < 0 { n_states + layer } else { layer };
        if !(0..n_states).contains(&index) {
            bail!("vision_feature_layer {layer} does not exist: the tower has {} layers", self.n_layers);
        }
        Ok(index as usize)
    }

    /// Returns roughly how many numbers the activations of one image take, for memory planning.
    pub fn n_activations(&self) -> usize {
        let n_tokens = self.n_tokens();
        n_tokens * (6 * self.block.size + self.block.n_hidden) + self.block.n_heads * n_tokens * n_tokens
    }

    /// Returns how many numbers an image of `n_tiles` tiles holds: the pixels of three such images (one in preparation,
    /// one waiting, one in the tower), and the tower's output for one.
    pub fn n_numbers_of_tiles(&self, n_tiles: usize) -> usize {
        let n_pixels = 3 * self.image_size.pow(2);
        n_tiles.saturating_mul(3 * n_pixels + self.n_tokens() * self.block.size)
    }

    /// Returns roughly how many numbers the activations of one pass of tiles take.
    pub fn n_activations_of_tiles(&self) -> usize {
        N_TILES_PER_PASS.saturating_mul(self.n_activations())
    }
}

/// A tower's embeddings and blocks. What follows the last block belongs to the family.
pub struct VisionTower {
    config: VisionConfig,
    embedding: PatchEmbedding,
    norm_before: Option<LayerNorm>,
    blocks: Vec<Block>,
}

impl VisionTower {
    /// Reads a tower below `loader`.
    pub fn load(loader: &mut Loader, config: VisionConfig) -> Result<Self> {
        let size = config.block.size;
        let is_clip = config.kind == TowerKind::Clip;
        let shape = PatchEmbeddingShape {
            size,
            n_channels: config.n_channels,
            patch_size: config.patch_size,
            n_tokens: config.n_tokens(),
            has_class_token: config.has_class_token(),
            has_bias: !is_clip,
        };
        let embedding = PatchEmbedding::load(&mut loader.at("embeddings"), shape)?;
        let norm_before =
            if is_clip { Some(LayerNorm::load(loader, "pre_layrnorm", size, config.block.epsilon)?) } else { None };
        let blocks = (0..config.n_layers)
            .map(|i| Block::load(&mut loader.at(&format!("encoder.layers.{i}")), &config.block))
            .collect::<Result<_>>()?;
        Ok(Self { config, embedding, norm_before, blocks })
    }

    /// Counts the tensors that [`load`](Self::load) reads as taken, if the tower is already loaded.
    pub fn pass_over(loader: &mut Loader) {
        ["embeddings", "pre_layrnorm", "encoder"].iter().for_each(|part| loader.at(part).pass_over_all());
    }

    /// The configuration.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Returns the pictures of `images` as `(images, 3, side, side)` on the tower's device.
    ///
    /// # Errors
    /// A picture does not have the tower's size.
    pub fn pixels(&self, images: &[&ImageInput]) -> Result<Tensor> {
        let side = self.config.image_size;
        if let Some(other) = images.iter().find(|image| image.shape != [3, side, side]) {
            bail!("a picture of {:?} numbers does not fit a tower that takes 3 x {side} x {side}", other.shape);
        }
        let values = images.iter().map(|image| &image.values[..]).collect::<Vec<_>>().concat();
        Ok(Tensor::from_vec(values, (images.len(), 3, side, side), self.embedding.device())?)
    }

    /// Returns the hidden states `wanted` of every tile of `image`, each `(tiles, tokens, hidden)`.
    ///
    /// Tiles are processed a few at a time, because an image may have dozens and each pass needs memory for their
    /// attention.
    ///
    /// # Errors
    /// A tile does not have the tower's size.
    pub fn tile_states(&self, image: &ImageInput, wanted: &[usize], mut watch: Watched<'_>) -> Result<Vec<Tensor>> {
        let parts = tile_groups(image, self.config.image_size, self.embedding.device())?
            .map(|tiles| Ok(self.hidden_states_watched(&tiles?, wanted, watch.again())?))
            .collect::<Result<Vec<_>>>()?;
        let of_state = |state: usize| {
            let parts: Vec<&Tensor> = parts.iter().filter_map(|states| states.get(state)).collect();
            Ok(Tensor::cat(&parts, 0)?)
        };
        (0..wanted.len()).map(of_state).collect()
    }

    /// Returns the hidden states `wanted` (0 is the embedding) of `pixels` `(batch, 3, side, side)`, each `(batch,
    /// tokens, hidden)`. Blocks after the last wanted one are not run.
    pub fn hidden_states(&self, pixels: &Tensor, wanted: &[usize]) -> candle_core::Result<Vec<Tensor>> {
        self.hidden_states_watched(pixels, wanted, Watched::by_none())
    }

    /// Like [`hidden_states`](Self::hidden_states), with a watch.
    pub fn hidden_states_watched(
        &self,
        pixels: &Tensor,
        wanted: &[usize],
        mut watch: Watched<'_>,
    ) -> candle_core::Result<Vec<Tensor>> {
        let last = wanted.iter().copied().max().unwrap_or(0);
        let mut states = vec![None; wanted.len()];
        let mut x = self.embed(pixels)?;
        let (n_rows, n_tokens, _) = x.dims3()?;
        watch.begins(PassShape { n_rows, n_tokens, n_positions: n_tokens });
        x = watch.layer(0).at(Site::Embeddings, x)?;
        for index in 0..=last {
            if index > 0 {
                x = self.blocks[index - 1].forward(&x, None, &mut watch.layer(index - 1))?;
            }
            for (state, _) in states.iter_mut().zip(wanted).filter(|(_, wanted)| **wanted == index) {
                *state = Some(x.clone());
            }
        }
        Ok(states.into_iter().flatten().collect())
    }

    /// Returns the index of the state after the last block.
    pub fn last_state(&self) -> usize {
        self.blocks.len()
    }

    /// Returns the index of the state before the last block.
    pub fn state_before_last(&self) -> usize {
        self.blocks.len() - 1
    }

    /// Computes the tokens `wanted` of the last state, `(batch, wanted, hidden)`, from the state before it `(batch,
    /// tokens, hidden)`.
    pub fn last_block(&self, x: &Tensor, wanted: Range<usize>) -> candle_core::Result<Tensor> {
        self.blocks[self.state_before_last()].forward_at(x, wanted, None, &mut LayerWatch::default())
    }

    fn embed(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.embedding.forward(pixels)?;
        match &self.norm_before {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }
}
