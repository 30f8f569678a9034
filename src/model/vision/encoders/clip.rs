//! CLIP (Radford et al. 2021) in the transformers layout.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::{DualEncoder, EncoderFamily, rows_at, unit_length};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Checkpoint, Weights, canonical_dual_encoder};
use crate::model::layers::{Activation, Block, BlockConfig, LayerNorm, LayerWatch, Linear, Loader, causal_mask};
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::square_tower::{TowerKind, VisionConfig, VisionTower};

/// The entry in the list of families.
pub const FAMILY: EncoderFamily = EncoderFamily {
    name: "clip",
    about: "CLIP in the transformers layout (CLIPModel)",
    verified: "transformers 5.23: hidden states, embeddings and labels, with either rule of pooling; labels of a small \
               trained checkpoint on four test sets",
    recognises: |checkpoint| checkpoint.config().get("model_type").is_some_and(|t| t == "clip"),
    weights: |checkpoint| Weights::new(checkpoint, canonical_dual_encoder),
    vision_config: |checkpoint| {
        let config = config_of(checkpoint);
        let vision = config.section("vision_config").context("config.json of a CLIP has no vision_config")?;
        VisionConfig::from_config(TowerKind::Clip, &vision)
    },
    load: |checkpoint, weights, placement, tower| {
        let config = config_of(checkpoint);
        let text = config.section("text_config").context("config.json of a CLIP has no text_config")?;
        let text = TextConfig::from_config(&text)?;
        let dimension = config.positive_or("projection_dim", 512)?;
        load_canonical(&mut Loader::new(weights, placement), tower, text, dimension)
    },
};

fn config_of(checkpoint: &Checkpoint) -> Config<'_> {
    Config::new(checkpoint.config(), checkpoint.dir.join("config.json").display().to_string())
}

/// The token at which the text tower's output is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// At the first end-of-text token.
    FirstEos(u32),
    /// At the highest token id: OpenAI's files have `eos_token_id: 2`, which is not the end-of-text token.
    HighestId,
}

/// Sizes of the text tower.
#[derive(Clone, Debug)]
pub struct TextConfig {
    /// The sizes of the blocks.
    pub block: BlockConfig,
    /// Number of blocks.
    pub n_layers: usize,
    /// Rows of the embedding.
    pub vocabulary_size: usize,
    /// Positions.
    pub n_positions: usize,
    /// The token at which the output is read.
    pub pooling: Pooling,
}

impl TextConfig {
    fn from_config(config: &Config) -> Result<Self> {
        let eos = config.usize_or("eos_token_id", 49407)? as u32;
        Ok(Self {
            block: BlockConfig {
                size: config.positive_or("hidden_size", 512)?,
                n_hidden: config.positive_or("intermediate_size", 2048)?,
                n_heads: config.positive_or("num_attention_heads", 8)?,
                activation: Activation::from_name(config.str_or("hidden_act", "quick_gelu")?)?,
                epsilon: config.f64_or("layer_norm_eps", 1e-5)?,
            },
            n_layers: config.positive_or("num_hidden_layers", 12)?,
            vocabulary_size: config.positive_or("vocab_size", 49408)?,
            n_positions: config.positive_or("max_position_embeddings", 77)?,
            pooling: if eos == 2 { Pooling::HighestId } else { Pooling::FirstEos(eos) },
        })
    }
}

/// Both towers with their projections.
pub struct Clip {
    tower: Arc<VisionTower>,
    image_norm: LayerNorm,
    image_projection: Linear,
    token_embedding: Tensor,
    positions: Tensor, // (positions, hidden)
    text_blocks: Vec<Block>,
    text_norm: LayerNorm,
    text_projection: Linear,
    text: TextConfig,
}

impl Clip {
    /// Reads everything except the vision tower, by canonical names.
    fn load(loader: &mut Loader, tower: Arc<VisionTower>, text: TextConfig, dimension: usize) -> Result<Self> {
        let (vision_size, size) = (tower.config().size(), text.block.size);
        let epsilon = tower.config().block().epsilon;
        let image_norm = LayerNorm::load(&mut loader.at("vision_model"), "post_layernorm", vision_size, epsilon)?;
        let image_projection = Linear::load(loader, "visual_projection", vision_size, dimension, false)?;
        let text_projection = Linear::load(loader, "text_projection", size, dimension, false)?;
        loader.optional("logit_scale", &[])?;
        let mut here = loader.at("text_model");
        let token_embedding = here.tensor("embeddings.token_embedding.weight", &[text.vocabulary_size, size])?;
        let positions = here.tensor("embeddings.position_embedding.weight", &[text.n_positions, size])?;
        let text_norm = LayerNorm::load(&mut here, "final_layer_norm", size, text.block.epsilon)?;
        let text_blocks = (0..text.n_layers)
            .map(|i| Block::load(&mut here.at(&format!("encoder.layers.{i}")), &text.block))
            .collect::<Result<_>>()?;
        Ok(Self {
            tower,
            image_norm,
            image_projection,
            token_embedding,
            positions,
            text_blocks,
            text_norm,
            text_projection,
            text,
        })
    }

    /// Returns the hidden states after the last norm, `(texts, tokens, hidden)`.
    fn text_hidden(&self, ids: &[&[u32]]) -> Result<Tensor> {
        let (n_texts, n_tokens) = (ids.len(), ids.first().map_or(0, |row| row.len()));
        let device = self.token_embedding.device();
        let flat = Tensor::from_vec(ids.concat(), n_texts * n_tokens, device)?;
        let mut x = self.token_embedding.index_select(&flat, 0)?.reshape((n_texts, n_tokens, ()))?;
        x = x.broadcast_add(&self.positions.narrow(0, 0, n_tokens)?.unsqueeze(0)?)?;
        let mask = causal_mask(n_tokens, x.dtype(), device)?;
        for block in &self.text_blocks {
            x = block.forward(&x, Some(&mask), &mut LayerWatch::default())?;
        }
        Ok(self.text_norm.forward(&x)?)
    }
}

impl DualEncoder for Clip {
    fn tower(&self) -> &Arc<VisionTower> {
        &self.tower
    }

    fn image_embeddings(&self, before_last: &Tensor) -> candle_core::Result<Tensor> {
        let class_token = self.tower.last_block(before_last, 0..1)?.squeeze(1)?; // (batch, hidden)
        unit_length(&self.image_projection.forward(&self.image_norm.forward(&class_token)?)?)
    }

    fn text_embeddings(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        let ends: Vec<usize> = ids.iter().map(|row| end_of_text(row, self.text.pooling)).collect();
        // No token attends to a later one, so nothing after the longest text is computed.
        let n_tokens = ends.iter().max().map_or(0, |end| end + 1);
        let ids: Vec<&[u32]> = ids.iter().map(|row| &row[..n_tokens]).collect();
        let pooled = rows_at(&self.text_hidden(&ids)?, &ends)?;
        Ok(unit_length(&self.text_projection.forward(&pooled)?)?)
    }

    fn text_ids(&self, tokenizer: &TextTokenizer, text: &str) -> Result<Vec<u32>> {
        let mut ids = tokenizer.encode(text, true)?;
        if ids.len() > self.text.n_positions {
            // A caption that is too long keeps its end token, at which it is pooled.
            let end = ids[ids.len() - 1];
            ids.truncate(self.text.n_positions);
            ids[self.text.n_positions - 1] = end;
        }
        // Padding follows the end-of-text token, where the causal mask hides it, so any lower id works.
        ids.resize(self.text.n_positions, 0);
        Ok(ids)
    }
}

fn end_of_text(ids: &[u32], pooling: Pooling) -> usize {
    let first_of = |wanted: u32| ids.iter().position(|&id| id == wanted).unwrap_or(0);
    match pooling {
        Pooling::FirstEos(eos) => first_of(eos),
        Pooling::HighestId => first_of(ids.iter().copied().max().unwrap_or(0)),
    }
}

/// Loads a CLIP from a folder in another layout, under the same canonical names.
pub(super) fn load_canonical(
    loader: &mut Loader,
    tower: Arc<VisionTower>,
    text: TextConfig,
    dimension: usize,
) -> Result<Box<dyn DualEncoder>> {
    Ok(Box::new(Clip::load(loader, tower, text, dimension)?))
}
