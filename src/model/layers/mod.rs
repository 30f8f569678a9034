//! The parts of which every family is built. A layer chooses how it computes; family files do not know.

mod activation;
mod alibi;
mod attention;
mod block;
mod cross_attention;
mod dropout;
mod embedding;
mod flash_attention;
mod fused;
mod fused_attention;
mod gradients;
mod head_attention;
mod kv_cache;
mod linear;
mod loader;
mod low_rank;
mod mask;
mod mlp;
mod modality_calibration;
mod multimodal_rotary;
mod norm;
mod patch_embedding;
mod prompt_encoder;
mod relative_bias;
mod rotary;
mod update;
mod virtual_tokens;
mod visible;
mod vocabulary;
mod watch;

pub use activation::Activation;
pub use alibi::Alibi;
pub use attention::{
    Angles, Attention, AttentionContext, AttentionNames, AttentionShape, ScoreRule, capped, tokens_at,
};
pub use block::{Block, BlockConfig};
pub use cross_attention::{CrossAttention, CrossShape};
pub use dropout::{Dropout, StepCounter};
pub use embedding::Embedding;
pub use fused_attention::{FusedAttention, n_attention_numbers};
pub use head_attention::{HeadAttention, HeadAttentionNames, HeadAttentionShape};
pub use kv_cache::KvCache;
pub use linear::Linear;
pub use loader::Loader;
pub use mask::{Mask, causal_mask, left_padded_mask, tree_mask};
pub use mlp::{FeedForward, GatedMlp, Mlp};
pub use modality_calibration::{CALIBRATION, ModalityCalibration};
pub use multimodal_rotary::{MultimodalRotary, MultimodalRotaryConfig, Sections, patch_rotary};
pub use norm::{LayerNorm, Norm, RmsNorm};
pub use patch_embedding::{PatchEmbedding, PatchEmbeddingShape};
pub use prompt_encoder::PromptEncoder;
pub use relative_bias::{RelativeBias, RelativeBiasShape};
pub use rotary::{Rotary, RotaryConfig};
pub use update::{AdamWStep, add, sum_of_squares};
pub use virtual_tokens::{VirtualKeys, VirtualTokens};
pub use vocabulary::load_vocabulary;
pub use watch::{LayerWatch, PassShape, Site, Watch, Watched};

/// Whether a layer must use its differentiable form. candle's fused operations drop gradients silently.
fn needs_gradient(tensors: &[&candle_core::Tensor]) -> bool {
    tensors.iter().any(|tensor| tensor.track_op())
}
