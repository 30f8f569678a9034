//! Keys and values of earlier positions, in a buffer of fixed capacity.

use candle_core::Tensor;

/// The cache of one attention layer. The buffer is allocated once; appending never copies what is there.
pub struct KvCache {
    buffers: Option<(Tensor, Tensor)>, // each (batch, kv heads, capacity, head size)
    n_positions: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for at most `capacity` positions.
    pub fn new(capacity: usize) -> Self {
        Self { buffers: None, n_positions: 0, capacity }
    }

    /// Positions held.
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// Appends keys and values `(batch, kv heads, tokens, head size)` and returns all so far.
    pub fn append(&mut self, keys: &Tensor, values: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (batch, n_heads, n_tokens, head_size) = keys.dims4()?;
        let (key_buffer, value_buffer) = match self.buffers.take() {
            Some(buffers) => buffers,
            None => {
                let shape = (batch, n_heads, self.capacity, head_size);
                let new = || Tensor::zeros(shape, keys.dtype(), keys.device());
                (new()?, new()?)
            }
        };
        key_buffer.slice_set(&keys.contiguous()?, 2, self.n_positions)?;
        value_buffer.slice_set(&values.contiguous()?, 2, self.n_positions)?;
        self.n_positions += n_tokens;
        let all = (key_buffer.narrow(2, 0, self.n_positions)?, value_buffer.narrow(2, 0, self.n_positions)?);
        self.buffers = Some((key_buffer, value_buffer));
        Ok(all)
    }

    /// Forgets all but the first `n_positions`; what is appended next takes their place.
    pub fn truncate(&mut self, n_positions: usize) {
        self.n_positions = self.n_positions.min(n_positions);
    }

    /// Keeps only the rows of the batch named by `rows` (u32), in that order.
    pub fn keep_rows(&mut self, rows: &Tensor) -> candle_core::Result<()> {
        if let Some((keys, values)) = &mut self.buffers {
            *keys = keys.index_select(rows, 0)?;
            *values = values.index_select(rows, 0)?;
        }
        Ok(())
    }
}
