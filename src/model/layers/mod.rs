//! The parts of which every family is built. A layer decides by itself how it computes; no family file knows.

mod activation;
mod attention;
mod block;
mod kv_cache;
mod linear;
mod loader;
mod mlp;
mod norm;
mod rotary;

pub use activation::Activation;
pub use attention::{Attention, AttentionNames, AttentionShape, causal_mask, left_padded_mask};
pub use block::{Block, BlockConfig};
pub use kv_cache::KvCache;
pub use linear::Linear;
pub use loader::Loader;
pub use mlp::{GatedMlp, Mlp};
pub use norm::{LayerNorm, RmsNorm};
pub use rotary::{Rotary, RotaryConfig};
