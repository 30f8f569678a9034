//! Virtual tokens: what an adapter of prompt learning puts before every prompt.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;

use super::{Loader, PromptEncoder};
use crate::model::checkpoint::overlay::{VIRTUAL_KEYS, VIRTUAL_TOKENS};

/// What comes before every prompt.
pub enum VirtualTokens {
    /// Embedded tokens `(tokens, hidden)` (prompt tuning; Lester et al. 2021).
    Plain(Tensor),
    /// Embedded tokens that are computed anew for each pass (P-tuning while it trains; Liu et al. 2021).
    Encoded(PromptEncoder),
    /// Only keys and values, which the decoder's attention holds (prefix tuning; Li and Liang 2021). The number is that of
    /// their positions.
    Keys(usize),
}

impl VirtualTokens {
    /// Takes the adapter's virtual tokens for a language model of width `size`, if it has some. Keys and values stay for
    /// the decoder to take.
    ///
    /// # Errors
    /// They are of another width.
    pub fn load(loader: &mut Loader, size: usize) -> Result<Option<Self>> {
        let encoder = loader.take_encoder();
        let plain = loader.take_of_any_length(VIRTUAL_TOKENS, size)?;
        let keys = loader.n_rows_replaced(VIRTUAL_KEYS);
        match (encoder, plain, keys) {
            (None, None, None) => Ok(None),
            (Some(encoder), None, None) => Ok(Some(Self::Encoded(encoder))),
            (None, Some(rows), None) => Ok(Some(Self::Plain(rows))),
            (None, None, Some(n_positions)) => Ok(Some(Self::Keys(n_positions))),
            _ => bail!("an adapter has virtual tokens of one kind, and this one has several"),
        }
    }

    /// Returns the embedded tokens `(tokens, hidden)`, if there are some. Gradients flow.
    ///
    /// # Errors
    /// A device failure.
    pub fn rows(&self) -> candle_core::Result<Option<Tensor>> {
        match self {
            Self::Plain(rows) => Ok(Some(rows.clone())),
            Self::Encoded(encoder) => encoder.rows().map(Some),
            Self::Keys(_) => Ok(None),
        }
    }

    /// The number of positions before the prompt.
    ///
    /// # Errors
    /// A device failure.
    pub fn n_positions(&self) -> candle_core::Result<usize> {
        match self {
            Self::Plain(rows) => rows.dim(0),
            Self::Encoded(encoder) => encoder.n_tokens(),
            Self::Keys(n_positions) => Ok(*n_positions),
        }
    }
}

/// Keys and values of one layer that come before those of the tokens. Their keys are not rotated.
#[derive(Clone)]
pub struct VirtualKeys {
    /// `(positions, layers * 2 * key heads * head size)`: by layer the keys, then the values.
    all: Tensor,
    layer: usize,
    n_heads: usize,
    head_size: usize,
}

impl VirtualKeys {
    /// Takes the adapter's keys and values for `n_layers` layers, one for each, if it has some.
    ///
    /// # Errors
    /// They are of another width.
    pub fn load(loader: &mut Loader, n_layers: usize, [n_heads, head_size]: [usize; 2]) -> Result<Option<Vec<Self>>> {
        let width = n_layers * 2 * n_heads * head_size;
        let Some(all) = loader.take_of_any_length(VIRTUAL_KEYS, width)? else { return Ok(None) };
        Ok(Some((0..n_layers).map(|layer| Self { all: all.clone(), layer, n_heads, head_size }).collect()))
    }

    /// The number of positions.
    ///
    /// # Errors
    /// A device failure.
    pub fn n_positions(&self) -> candle_core::Result<usize> {
        self.all.dim(0)
    }

    /// Returns keys and values, each `(1, heads, positions, head size)`, before `keys` and `values` `(batch, heads, tokens,
    /// head size)`.
    ///
    /// # Errors
    /// A device failure.
    pub fn before(&self, keys: &Tensor, values: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (batch, ..) = keys.dims4()?;
        let (n_positions, width) = (self.n_positions()?, self.n_heads * self.head_size);
        let joined = |which: usize, rest: &Tensor| {
            let own = self.all.narrow(1, (2 * self.layer + which) * width, width)?;
            let own = own.reshape((1, n_positions, self.n_heads, self.head_size))?.transpose(1, 2)?;
            let own = own.to_dtype(rest.dtype())?.repeat((batch, 1, 1, 1))?;
            Tensor::cat(&[&own, rest], 2)?.contiguous()
        };
        Ok((joined(0, keys)?, joined(1, values)?))
    }
}

/// Fails if `rows` are not a matrix of this width.
pub(super) fn checked_width(rows: &Tensor, width: usize, name: &str) -> Result<()> {
    let dims = rows.dims();
    let found = dims.last().context("virtual tokens have a width")?;
    ensure!(
        dims.len() == 2 && dims[0] > 0 && *found == width,
        "the adapter's `{name}` has shape {dims:?}, and the model needs rows of {width}; hint: it is an adapter of another base"
    );
    Ok(())
}
