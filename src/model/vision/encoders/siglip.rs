//! SigLIP (Zhai et al. 2023) and SigLIP 2 of fixed resolution (Tschannen et al. 2025), which is the same network with
//! another tokenizer, in the transformers layout.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;

use super::{DualEncoder, EncoderFamily, unit_length};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Checkpoint, Weights, canonical_dual_encoder};
use crate::model::layers::{Activation, Block, BlockConfig, LayerNorm, LayerWatch, Linear, Loader, Mlp};
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::square_tower::{TowerKind, VisionConfig, VisionTower};

/// The entry in the list of families.
pub const FAMILY: EncoderFamily = EncoderFamily {
    name: "siglip",
    about: "SigLIP, and SigLIP 2 of fixed resolution, in the transformers layout (SiglipModel)",
    verified: "transformers 5.23 and 5.24 (SigLIP 2): hidden states, embeddings and labels",
    recognises: |checkpoint| checkpoint.config().get("model_type").is_some_and(|t| t == "siglip" || t == "siglip2"),
    weights: |checkpoint| {
        let weights = Weights::new(checkpoint, canonical_dual_encoder)?;
        let patches = weights.shape("vision_model.embeddings.patch_embedding.weight");
        ensure!(patches.is_none_or(|shape| shape.len() == 4), "{}", naflex(checkpoint));
        Ok(weights)
    },
    vision_config: |checkpoint| {
        let config = config_of(checkpoint);
        let vision = config.section("vision_config").context("config.json of a SigLIP has no vision_config")?;
        let is_second = config.get("model_type").is_some_and(|kind| kind == "siglip2");
        if is_second && vision.get("image_size").is_none() {
            bail!(naflex(checkpoint));
        }
        VisionConfig::from_config(TowerKind::Siglip, &vision)
    },
    load: |checkpoint, weights, placement, tower| {
        let config = config_of(checkpoint);
        let text = config.section("text_config").context("config.json of a SigLIP has no text_config")?;
        let tokenizer = checkpoint.read_json("tokenizer_config.json")?;
        let pads_left = tokenizer.is_some_and(|config| config.get("padding_side").is_some_and(|side| side == "left"));
        let text = TextConfig::from_config(&text, pads_left)?;
        Ok(Box::new(Siglip::load(&mut Loader::new(weights, placement), tower, text)?))
    },
};

/// Explains why a SigLIP 2 that takes images of any shape is refused.
fn naflex(checkpoint: &Checkpoint) -> String {
    format!(
        "`{}` is a SigLIP 2 NaFlex, whose images keep their proportions, which is not read; hint: give one of fixed \
         resolution, such as google/siglip2-base-patch16-224",
        checkpoint.dir.display()
    )
}

fn config_of(checkpoint: &Checkpoint) -> Config<'_> {
    Config::new(checkpoint.config(), checkpoint.dir.join("config.json").display().to_string())
}

struct TextConfig {
    block: BlockConfig,
    n_layers: usize,
    vocabulary_size: usize,
    n_positions: usize,
    dimension: usize,
    /// The padding token if the tokenizer has none.
    pad: u32,
    pads_left: bool,
}

impl TextConfig {
    fn from_config(config: &Config, pads_left: bool) -> Result<Self> {
        let size = config.positive_or("hidden_size", 768)?;
        Ok(Self {
            block: BlockConfig {
                size,
                n_hidden: config.positive_or("intermediate_size", 3072)?,
                n_heads: config.positive_or("num_attention_heads", 12)?,
                activation: Activation::from_name(config.str_or("hidden_act", "gelu_pytorch_tanh")?)?,
                epsilon: config.f64_or("layer_norm_eps", 1e-6)?,
            },
            n_layers: config.positive_or("num_hidden_layers", 12)?,
            vocabulary_size: config.positive_or("vocab_size", 32000)?,
            n_positions: config.positive_or("max_position_embeddings", 64)?,
            dimension: config.positive_or("projection_size", size)?,
            pad: config.usize_or("pad_token_id", 1)? as u32,
            pads_left,
        })
    }
}

/// Attention from one learned query to all patches, then a residual feed-forward half.
struct PoolingHead {
    probe: Tensor, // (1, 1, hidden)
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm: LayerNorm,
    mlp: Mlp,
    n_heads: usize,
}

impl PoolingHead {
    fn load(loader: &mut Loader, config: &BlockConfig) -> Result<Self> {
        let size = config.size;
        let weight = loader.tensor("attention.in_proj_weight", &[3 * size, size])?;
        let bias = loader.tensor("attention.in_proj_bias", &[3 * size])?;
        let part = |i: usize| -> candle_core::Result<Linear> {
            Ok(Linear::from_tensors(weight.narrow(0, i * size, size)?, Some(bias.narrow(0, i * size, size)?)))
        };
        Ok(Self {
            probe: loader.tensor("probe", &[1, 1, size])?,
            query: part(0)?,
            key: part(1)?,
            value: part(2)?,
            output: Linear::load(loader, "attention.out_proj", size, size, true)?,
            norm: LayerNorm::load(loader, "layernorm", size, config.epsilon)?,
            mlp: Mlp::load(&mut loader.at("mlp"), size, config.n_hidden, config.activation)?,
            n_heads: config.n_heads,
        })
    }

    /// Maps `(batch, patches, hidden)` to `(batch, hidden)`.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, _, size) = x.dims3()?;
        let head_size = size / self.n_heads;
        let heads = |y: Tensor| y.reshape((batch, (), self.n_heads, head_size))?.transpose(1, 2)?.contiguous();
        let query = heads(self.query.forward(&self.probe.broadcast_as((batch, 1, size))?.contiguous()?)?)?;
        let (key, value) = (heads(self.key.forward(x)?)?, heads(self.value.forward(x)?)?);
        let scores = (query.matmul(&key.t()?)? * (head_size as f64).powf(-0.5))?; // (batch, heads, 1, patches)
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&value)?;
        let pooled = self.output.forward(&mixed.transpose(1, 2)?.reshape((batch, 1, size))?)?;
        (&pooled + self.mlp.forward(&self.norm.forward(&pooled)?)?)?.squeeze(1)
    }
}

struct Siglip {
    tower: Arc<VisionTower>,
    image_norm: LayerNorm,
    head: PoolingHead,
    token_embedding: Tensor,
    positions: Tensor, // (positions, hidden)
    text_blocks: Vec<Block>,
    text_norm: LayerNorm,
    text_head: Linear,
    text: TextConfig,
}

impl Siglip {
    fn load(loader: &mut Loader, tower: Arc<VisionTower>, text: TextConfig) -> Result<Self> {
        let block = *tower.config().block();
        let size = text.block.size;
        loader.optional("logit_scale", &[1])?;
        loader.optional("logit_bias", &[1])?;
        let mut here = loader.at("vision_model");
        let image_norm = LayerNorm::load(&mut here, "post_layernorm", block.size, block.epsilon)?;
        let head = PoolingHead::load(&mut here.at("head"), &block)?;
        let mut here = loader.at("text_model");
        let text_blocks = (0..text.n_layers)
            .map(|i| Block::load(&mut here.at(&format!("encoder.layers.{i}")), &text.block))
            .collect::<Result<_>>()?;
        Ok(Self {
            tower,
            image_norm,
            head,
            token_embedding: here.tensor("embeddings.token_embedding.weight", &[text.vocabulary_size, size])?,
            positions: here.tensor("embeddings.position_embedding.weight", &[text.n_positions, size])?,
            text_blocks,
            text_norm: LayerNorm::load(&mut here, "final_layer_norm", size, text.block.epsilon)?,
            text_head: Linear::load(&mut here, "head", size, text.dimension, true)?,
            text,
        })
    }
}

impl DualEncoder for Siglip {
    fn tower(&self) -> &Arc<VisionTower> {
        &self.tower
    }

    fn image_embeddings(&self, before_last: &Tensor) -> candle_core::Result<Tensor> {
        let last = self.tower.last_block(before_last, 0..before_last.dim(1)?)?;
        unit_length(&self.head.forward(&self.image_norm.forward(&last)?)?)
    }

    fn text_embeddings(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        let (n_texts, n_tokens) = (ids.len(), ids.first().map_or(0, Vec::len));
        let flat = Tensor::from_vec(ids.concat(), n_texts * n_tokens, self.token_embedding.device())?;
        let mut x = self.token_embedding.index_select(&flat, 0)?.reshape((n_texts, n_tokens, ()))?;
        x = x.broadcast_add(&self.positions.narrow(0, 0, n_tokens)?.unsqueeze(0)?)?;
        for (index, block) in self.text_blocks.iter().enumerate() {
            // SigLIP was trained without masking the padding. Only one token of the last block's output is read.
            let first = if index + 1 == self.text_blocks.len() { n_tokens - 1 } else { 0 };
            x = block.forward_at(&x, first..n_tokens, None, &mut LayerWatch::default())?;
        }
        let last = self.text_norm.forward(&x)?.squeeze(1)?;
        Ok(unit_length(&self.text_head.forward(&last)?)?)
    }

    fn text_ids(&self, tokenizer: &TextTokenizer, text: &str) -> Result<Vec<u32>> {
        // Both were trained on lower case. SigLIP's tokenizer files lower the case; those of SigLIP 2 leave it to the
        // caller.
        let mut ids = tokenizer.encode(&text.to_lowercase(), true)?;
        if ids.len() > self.text.n_positions {
            let end = ids[ids.len() - 1];
            ids.truncate(self.text.n_positions);
            ids[self.text.n_positions - 1] = end;
        }
        let n_text = ids.len();
        ids.resize(self.text.n_positions, tokenizer.pad_id().unwrap_or(self.text.pad));
        if self.text.pads_left {
            ids.rotate_left(n_text);
        }
        Ok(ids)
    }
}
