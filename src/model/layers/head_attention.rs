//! Multi-head attention over any states: those of the queries themselves, or those of another input. Scores may have
//! numbers added to them.

use anyhow::Result;
use candle_core::{D, Tensor};

use super::attention::mix;
use super::{Linear, Loader, needs_gradient};

/// The names of the four maps in the checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct HeadAttentionNames {
    /// The maps to queries, keys and values.
    pub inputs: [&'static str; 3],
    /// The output map.
    pub output: &'static str,
    /// Whether the maps have biases.
    pub has_bias: bool,
}

/// Sizes of an attention over states.
#[derive(Clone, Copy, Debug)]
pub struct HeadAttentionShape {
    /// Width of the queries' states, and of the result.
    pub size: usize,
    /// Width of the states that are attended to.
    pub context_size: usize,
    /// Heads.
    pub n_heads: usize,
    /// Width of a head.
    pub head_size: usize,
}

/// Attention whose keys and values are computed apart from its queries, so that they may be kept.
pub struct HeadAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    shape: HeadAttentionShape,
}

impl HeadAttention {
    /// Reads the four maps below `loader`.
    pub fn load(loader: &mut Loader, shape: HeadAttentionShape, names: HeadAttentionNames) -> Result<Self> {
        let HeadAttentionShape { size, context_size, n_heads, head_size } = shape;
        let HeadAttentionNames { inputs: [query, key, value], output, has_bias } = names;
        let inner = n_heads * head_size;
        Ok(Self {
            query: Linear::load(loader, query, size, inner, has_bias)?,
            key: Linear::load(loader, key, context_size, inner, has_bias)?,
            value: Linear::load(loader, value, context_size, inner, has_bias)?,
            output: Linear::load(loader, output, inner, size, has_bias)?,
            shape,
        })
    }

    /// Returns keys and values `(batch, heads, positions, head size)` of states `(batch, positions, width)`.
    pub fn keys_and_values(&self, context: &Tensor) -> candle_core::Result<[Tensor; 2]> {
        Ok([self.heads(&self.key.forward(context)?)?, self.heads(&self.value.forward(context)?)?])
    }

    /// Lets `x` `(batch, tokens, size)` attend to `keys` and `values`. Scores are divided by the root of a head's width.
    pub fn forward(&self, x: &Tensor, [keys, values]: [&Tensor; 2]) -> candle_core::Result<Tensor> {
        self.joined(&mix(&self.heads(&self.query.forward(x)?)?, keys, values, None)?)
    }

    /// Like [`forward`](Self::forward), without the division, and with numbers `added` to the scores `(batch, heads,
    /// tokens, positions)`, each dimension of which may be 1.
    pub fn forward_unscaled(
        &self,
        x: &Tensor,
        [keys, values]: [&Tensor; 2],
        added: Option<&Tensor>,
    ) -> candle_core::Result<Tensor> {
        let query = self.heads(&self.query.forward(x)?)?;
        let scores = query.matmul(&keys.t()?.contiguous()?)?; // (batch, heads, tokens, positions)
        let scores = match added {
            Some(added) => scores.broadcast_add(added)?,
            None => scores,
        };
        let weights = match needs_gradient(&[&scores]) {
            true => candle_nn::ops::softmax(&scores, D::Minus1)?,
            false => candle_nn::ops::softmax_last_dim(&scores)?,
        };
        self.joined(&weights.matmul(&values.contiguous()?)?)
    }

    /// Splits `(batch, tokens, heads * head size)` into `(batch, heads, tokens, head size)`.
    fn heads(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, n_tokens, _) = x.dims3()?;
        x.reshape((batch, n_tokens, self.shape.n_heads, self.shape.head_size))?.transpose(1, 2)?.contiguous()
    }

    /// Applies the output map to `(batch, heads, tokens, head size)`.
    fn joined(&self, mixed: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, _, n_tokens, _) = mixed.dims4()?;
        let rows = mixed.transpose(1, 2)?.contiguous()?;
        self.output.forward(&rows.reshape((batch, n_tokens, self.shape.n_heads * self.shape.head_size))?)
    }
}
