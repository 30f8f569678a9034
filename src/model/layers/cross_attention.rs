//! Attention of tokens to something other than themselves: to the features of images.

use anyhow::Result;
use candle_core::{D, Tensor};

use super::attention::mix;
use super::{Linear, Loader, Mask, RmsNorm};

/// Sizes of a layer that attends to something else.
#[derive(Clone, Copy, Debug)]
pub struct CrossShape {
    /// Width of what attends.
    pub size: usize,
    /// Width of what is attended to.
    pub n_attended: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
}

/// An attention layer whose keys and values come from another sequence than its queries. None of its maps has a bias.
pub struct CrossAttention {
    query: Linear,
    key_value: KeyValue,
    output: Linear,
    shape: CrossShape,
    /// The norms of each query and key head.
    norms: Option<[RmsNorm; 2]>,
}

/// The maps to keys and values.
enum KeyValue {
    Apart([Linear; 2]),
    /// One map with the two stacked.
    Joined(Linear),
}

impl CrossAttention {
    /// Reads `q_proj`, `k_proj`, `v_proj` and `o_proj`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(loader: &mut Loader, shape: CrossShape) -> Result<Self> {
        let CrossShape { size, n_attended, n_heads, n_kv_heads, head_size } = shape;
        let n_keys = n_kv_heads * head_size;
        let mut key_value = |name| Linear::load(loader, name, n_attended, n_keys, false);
        let key_value = KeyValue::Apart([key_value("k_proj")?, key_value("v_proj")?]);
        Ok(Self {
            query: Linear::load(loader, "q_proj", size, n_heads * head_size, false)?,
            key_value,
            output: Linear::load(loader, "o_proj", n_heads * head_size, size, false)?,
            shape,
            norms: None,
        })
    }

    /// Like [`load`](Self::load), with the norms of heads, `q_norm` and `k_norm`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_normed(loader: &mut Loader, shape: CrossShape, epsilon: f64) -> Result<Self> {
        let mut norm = |name| RmsNorm::load(loader, name, shape.head_size, epsilon);
        let norms = Some([norm("q_norm")?, norm("k_norm")?]);
        Ok(Self { norms, ..Self::load(loader, shape)? })
    }

    /// Reads `to_q`, `to_kv` (keys, then values) and `to_out`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_joined(loader: &mut Loader, shape: CrossShape) -> Result<Self> {
        let CrossShape { size, n_attended, n_heads, n_kv_heads, head_size } = shape;
        Ok(Self {
            query: Linear::load(loader, "to_q", size, n_heads * head_size, false)?,
            key_value: KeyValue::Joined(Linear::load(loader, "to_kv", n_attended, 2 * n_kv_heads * head_size, false)?),
            output: Linear::load(loader, "to_out", n_heads * head_size, size, false)?,
            shape,
            norms: None,
        })
    }

    /// Returns keys and values `(batch, kv heads, positions, head size)` of what is attended to, `(batch, positions,
    /// width)`.
    ///
    /// # Errors
    /// A device failure.
    pub fn keys_and_values(&self, attended: &Tensor) -> candle_core::Result<[Tensor; 2]> {
        let [keys, values] = match &self.key_value {
            KeyValue::Apart([key, value]) => [key.forward(attended)?, value.forward(attended)?],
            KeyValue::Joined(both) => {
                let both = both.forward(attended)?;
                let width = both.dim(D::Minus1)? / 2;
                let half = |start| both.narrow(D::Minus1, start, width)?.contiguous();
                [half(0)?, half(width)?]
            }
        };
        let keys = self.heads(&keys, self.shape.n_kv_heads)?;
        let keys = match &self.norms {
            Some([_, of_keys]) => of_keys.forward(&keys)?,
            None => keys,
        };
        Ok([keys, self.heads(&values, self.shape.n_kv_heads)?])
    }

    /// Returns what the tokens `x` `(batch, tokens, size)` take from `keys` and `values`, of the shape of `x`.
    ///
    /// # Errors
    /// The mask has another shape.
    pub fn forward(
        &self,
        x: &Tensor,
        [keys, values]: [&Tensor; 2],
        mask: Option<&Mask>,
    ) -> candle_core::Result<Tensor> {
        let (batch, n_tokens, _) = x.dims3()?;
        let queries = self.heads(&self.query.forward(x)?, self.shape.n_heads)?;
        let queries = match &self.norms {
            Some([of_queries, _]) => of_queries.forward(&queries)?,
            None => queries,
        };
        let mixed = mix(&queries, keys, values, mask)?;
        self.output.forward(&mixed.transpose(1, 2)?.reshape((batch, n_tokens, ()))?)
    }

    /// Maps `(batch, tokens, heads * head size)` to `(batch, heads, tokens, head size)`.
    fn heads(&self, x: &Tensor, n_heads: usize) -> candle_core::Result<Tensor> {
        let (batch, n_tokens, _) = x.dims3()?;
        x.reshape((batch, n_tokens, n_heads, self.shape.head_size))?.transpose(1, 2)?.contiguous()
    }
}
