//! The pre-norm transformer block that CLIP and SigLIP share, for images and for text.

use std::ops::Range;

use anyhow::Result;
use candle_core::Tensor;

use super::{
    Activation, Attention, AttentionContext, AttentionNames, AttentionShape, LayerNorm, LayerWatch, Loader, Mask, Mlp,
    Site, tokens_at,
};

/// Sizes of a block.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct BlockConfig {
    /// Width of the residual stream.
    #[serde(rename = "hidden_size")]
    pub size: usize,
    /// Width inside the feed-forward half.
    #[serde(rename = "intermediate_size")]
    pub n_hidden: usize,
    /// Attention heads; divides `size`.
    #[serde(rename = "num_attention_heads")]
    pub n_heads: usize,
    /// The activation of the feed-forward half.
    #[serde(rename = "hidden_act")]
    pub activation: Activation,
    /// The epsilon of the norms.
    #[serde(rename = "layer_norm_eps")]
    pub epsilon: f64,
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
pub struct Block {
    attention_norm: LayerNorm,
    attention: Attention,
    mlp_norm: LayerNorm,
    mlp: Mlp,
}

impl Block {
    /// Reads `layer_norm1`, `self_attn`, `layer_norm2` and `mlp`.
    pub fn load(loader: &mut Loader, config: &BlockConfig) -> Result<Self> {
        let shape = AttentionShape {
            size: config.size,
            n_heads: config.n_heads,
            n_kv_heads: config.n_heads,
            head_size: config.size / config.n_heads,
        };
        let names = AttentionNames { output: "out_proj", qkv_bias: true, output_bias: true, is_joined: false };
        Ok(Self {
            attention_norm: LayerNorm::load(loader, "layer_norm1", config.size, config.epsilon)?,
            attention: Attention::load(&mut loader.at("self_attn"), shape, names)?,
            mlp_norm: LayerNorm::load(loader, "layer_norm2", config.size, config.epsilon)?,
            mlp: Mlp::load(&mut loader.at("mlp"), config.size, config.n_hidden, config.activation)?,
        })
    }

    /// Maps `(batch, tokens, size)` to the same shape.
    pub fn forward(&self, x: &Tensor, mask: Option<&Mask>, watch: &mut LayerWatch<'_>) -> candle_core::Result<Tensor> {
        self.forward_at(x, 0..x.dim(1)?, mask, watch)
    }

    /// Computes only the tokens `wanted`, which attend to all tokens: `(batch, wanted, size)`.
    pub fn forward_at(
        &self,
        x: &Tensor,
        wanted: Range<usize>,
        mask: Option<&Mask>,
        watch: &mut LayerWatch<'_>,
    ) -> candle_core::Result<Tensor> {
        let residual = tokens_at(x, &wanted)?;
        let normed = watch.at(Site::AttentionInput, self.attention_norm.forward(x)?)?;
        let context = AttentionContext { mask, ..AttentionContext::default() };
        let x = self.attention.forward_added(&residual, &normed, wanted, context, watch)?;
        let normed = watch.at(Site::MlpInput, self.mlp_norm.forward(&x)?)?;
        let x = watch.added(Site::MlpOutput, &x, |residual| self.mlp.forward_added(residual, &normed))?;
        watch.at(Site::Residual, x)
    }
}
