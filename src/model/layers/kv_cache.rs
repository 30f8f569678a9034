//! Keys and values of earlier positions, in a buffer of fixed capacity.

use candle_core::{Tensor, bail};

use crate::model::kernels::{HeadShape, Kernels, KvBuffer, Number};

/// The cache of one attention layer. The buffer is allocated once; appending never copies its contents.
pub struct KvCache {
    buffers: Option<Buffers>,
    capacity: usize,
}

enum Buffers {
    /// Each `(batch, kv heads, capacity, head size)`.
    Tensors { keys: Tensor, values: Tensor, n_positions: usize },
    /// In the kernels' layout.
    Packed(KvBuffer),
}

impl KvCache {
    /// An empty cache for at most `capacity` positions.
    pub fn new(capacity: usize) -> Self {
        Self { buffers: None, capacity }
    }

    /// Returns a cache for `capacity` positions of `batch` rows, each of which begins with the positions of this
    /// cache's only row.
    pub fn begun(&self, batch: usize, capacity: usize) -> candle_core::Result<Self> {
        let buffers = match &self.buffers {
            None => None,
            Some(Buffers::Tensors { keys, values, n_positions }) => {
                let begun = |numbers: &Tensor| {
                    let (_, n_heads, _, head_size) = numbers.dims4()?;
                    let shape = (batch, n_heads, capacity, head_size);
                    let all = Tensor::zeros(shape, numbers.dtype(), numbers.device())?;
                    all.slice_set(&numbers.narrow(2, 0, *n_positions)?.repeat((batch, 1, 1, 1))?, 2, 0)?;
                    candle_core::Result::Ok(all)
                };
                Some(Buffers::Tensors { keys: begun(keys)?, values: begun(values)?, n_positions: *n_positions })
            }
            Some(Buffers::Packed(buffer)) => Some(Buffers::Packed(buffer.begun(batch, capacity))),
        };
        Ok(Self { buffers, capacity })
    }

    /// Positions held.
    pub fn n_positions(&self) -> usize {
        match &self.buffers {
            None => 0,
            Some(Buffers::Tensors { n_positions, .. }) => *n_positions,
            Some(Buffers::Packed(buffer)) => buffer.n_positions(),
        }
    }

    /// Appends keys and values `(batch, kv heads, tokens, head size)` and returns all of them so far.
    pub fn append(&mut self, keys: &Tensor, values: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (batch, n_heads, n_tokens, head_size) = keys.dims4()?;
        if self.buffers.is_none() {
            let shape = (batch, n_heads, self.capacity, head_size);
            let new = || Tensor::zeros(shape, keys.dtype(), keys.device());
            self.buffers = Some(Buffers::Tensors { keys: new()?, values: new()?, n_positions: 0 });
        }
        let Some(Buffers::Tensors { keys: all_keys, values: all_values, n_positions }) = &mut self.buffers else {
            bail!("a cache that the kernels filled cannot be gone on from with gradients or probabilities")
        };
        all_keys.slice_set(&keys.contiguous()?, 2, *n_positions)?;
        all_values.slice_set(&values.contiguous()?, 2, *n_positions)?;
        *n_positions += n_tokens;
        Ok((all_keys.narrow(2, 0, *n_positions)?, all_values.narrow(2, 0, *n_positions)?))
    }

    /// Returns the keys and values `(batch, kv heads, positions, head size)` that were appended as tensors.
    ///
    /// # Errors
    /// There are none.
    pub fn held(&self) -> candle_core::Result<(Tensor, Tensor)> {
        match &self.buffers {
            Some(Buffers::Tensors { keys, values, n_positions }) => {
                Ok((keys.narrow(2, 0, *n_positions)?, values.narrow(2, 0, *n_positions)?))
            }
            _ => bail!("a cache holds no tensors"),
        }
    }

    /// Returns the kernels' buffer with room for `n_tokens` more positions of `batch` rows, for a model that computes
    /// in `T`.
    pub(super) fn buffer<T: Number>(
        &mut self,
        batch: usize,
        shape: HeadShape,
        n_tokens: usize,
    ) -> candle_core::Result<&mut KvBuffer> {
        let capacity = self.capacity;
        let new = || Buffers::Packed(KvBuffer::new::<T>(Kernels::chosen(), batch, shape, capacity));
        match self.buffers.get_or_insert_with(new) {
            Buffers::Packed(buffer) if !buffer.fits(batch, shape) => bail!("a cache serves one batch and one layer"),
            Buffers::Packed(buffer) if buffer.n_positions() + n_tokens > capacity => {
                bail!("a cache of {capacity} positions has no room for {n_tokens} after {}", buffer.n_positions())
            }
            Buffers::Packed(buffer) => Ok(buffer),
            Buffers::Tensors { .. } => {
                bail!("a cache that was filled without the kernels cannot be gone on from with them")
            }
        }
    }

    /// Whether it holds keys and values in a form that the kernels cannot continue.
    pub(super) fn holds_tensors(&self) -> bool {
        matches!(self.buffers, Some(Buffers::Tensors { .. }))
    }

    /// Drops all but the first `n_positions`; appended positions replace the rest.
    pub fn truncate(&mut self, new_n_positions: usize) {
        match &mut self.buffers {
            None => {}
            Some(Buffers::Tensors { n_positions, .. }) => *n_positions = new_n_positions.min(*n_positions),
            Some(Buffers::Packed(buffer)) => buffer.truncate(new_n_positions),
        }
    }

    /// Keeps only the batch rows named by `rows` (u32), in that order.
    pub fn keep_rows(&mut self, rows: &Tensor) -> candle_core::Result<()> {
        match &mut self.buffers {
            None => {}
            Some(Buffers::Tensors { keys, values, .. }) => {
                *keys = keys.index_select(rows, 0)?;
                *values = values.index_select(rows, 0)?;
            }
            Some(Buffers::Packed(buffer)) => buffer.keep_rows(&rows.to_vec1::<u32>()?),
        }
        Ok(())
    }
}
