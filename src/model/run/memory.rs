//! Memory estimates, made before any weight is read.

use anyhow::{Result, bail};

/// The memory that a run needs.
#[derive(Clone, Copy, Debug)]
pub struct MemoryNeed {
    /// Weight bytes of the models and the encoder.
    pub n_weight_bytes: u64,
    /// Numbers per row of a batch, for cache and activations.
    pub n_numbers_per_row: usize,
    /// Bytes per number of a row.
    pub bytes_per_number: usize,
}

impl MemoryNeed {
    /// Returns the bytes needed with a batch of `batch_size` rows.
    pub fn bytes(&self, batch_size: usize) -> u64 {
        let of_rows = (self.n_numbers_per_row as u64).saturating_mul(batch_size as u64);
        of_rows.saturating_mul(self.bytes_per_number as u64).saturating_add(self.n_weight_bytes)
    }

    /// Returns the batch size to use: `wanted`, or else the largest up to [`MAX_BATCH_SIZE`] that fits in
    /// `n_free_bytes`.
    ///
    /// # Errors
    /// One row does not fit, or `wanted` rows do not. The error has both figures.
    pub fn batch_size(&self, wanted: Option<usize>, n_free_bytes: Option<u64>) -> Result<usize> {
        let Some(n_free_bytes) = n_free_bytes else { return Ok(wanted.unwrap_or(MAX_BATCH_SIZE)) };
        let fits = |rows: usize| self.bytes(rows) <= n_free_bytes;
        match wanted {
            Some(rows) if fits(rows) => Ok(rows),
            None if fits(1) => Ok((1..=MAX_BATCH_SIZE).rev().find(|&rows| fits(rows)).unwrap_or(1)),
            _ => {
                let rows = wanted.unwrap_or(1);
                bail!(
                    "not enough memory: {} needed for the weights and {rows} row(s) of a batch, {} free; hint: {}",
                    gibibytes(self.bytes(rows)),
                    gibibytes(n_free_bytes),
                    if rows > 1 && fits(1) {
                        "a smaller --batch-size fits"
                    } else {
                        "give a 16-bit checkpoint (weights keep their type) or --dtype f32+int8, close other programs, or use a GPU or a served \
                         model"
                    }
                )
            }
        }
    }
}

/// Larger batches were not faster on the machines measured, and take more memory.
pub const MAX_BATCH_SIZE: usize = 32;

fn gibibytes(n_bytes: u64) -> String {
    format!("{:.1} GiB", n_bytes as f64 / (1u64 << 30) as f64)
}

/// Returns the bytes that this process may still allocate, within a container's limit, or `None` if the system does not
/// report them.
pub fn free_bytes() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let available = system.available_memory();
    let free = match system.cgroup_limits() {
        // The limits' free memory excludes the page cache, such as a checkpoint just written.
        Some(limits) if limits.total_memory > 0 => available.min(limits.total_memory.saturating_sub(limits.rss)),
        _ => available,
    };
    (free > 0).then_some(free)
}

#[cfg(test)]
mod tests;
