//! Learned numbers that are added to attention's scores by the distance of two positions (Raffel et al. 2020, T5).

use anyhow::Result;
use candle_core::Tensor;

use super::Loader;

/// Sizes of a table of distances.
#[derive(Clone, Copy, Debug)]
pub struct RelativeBiasShape {
    /// Groups of distances.
    pub n_buckets: usize,
    /// Distances from here on are one group.
    pub max_distance: usize,
    /// Heads.
    pub n_heads: usize,
    /// Whether later positions have groups of their own. Otherwise they are never seen.
    pub is_bidirectional: bool,
}

/// A table of numbers by group of distances and head.
pub struct RelativeBias {
    table: Tensor, // (buckets, heads)
    shape: RelativeBiasShape,
}

impl RelativeBias {
    /// Reads `name.weight`.
    pub fn load(loader: &mut Loader, name: &str, shape: RelativeBiasShape) -> Result<Self> {
        Ok(Self { table: loader.at(name).tensor("weight", &[shape.n_buckets, shape.n_heads])?, shape })
    }

    /// Returns the numbers `(1, heads, queries, keys)` of positions.
    pub fn forward(&self, queries: &[u32], keys: &[u32]) -> candle_core::Result<Tensor> {
        let pairs = queries.iter().flat_map(|&query| keys.iter().map(move |&key| (i64::from(query), i64::from(key))));
        let buckets: Vec<u32> = pairs.map(|(query, key)| self.shape.bucket(key - query) as u32).collect();
        let index = Tensor::from_vec(buckets, queries.len() * keys.len(), self.table.device())?;
        let rows = self.table.index_select(&index, 0)?; // (queries * keys, heads)
        rows.t()?.contiguous()?.reshape((1, self.shape.n_heads, queries.len(), keys.len()))
    }
}

impl RelativeBiasShape {
    /// Returns the group of a key `distance` positions after its query.
    fn bucket(&self, distance: i64) -> usize {
        let (n_buckets, first, distance) = match self.is_bidirectional {
            true => {
                let half = self.n_buckets / 2;
                (half, if distance > 0 { half } else { 0 }, distance.unsigned_abs() as usize)
            }
            false => (self.n_buckets, 0, (-distance).max(0) as usize),
        };
        // Half of the groups are single distances, and the others grow with the logarithm.
        let n_exact = n_buckets / 2;
        if distance < n_exact {
            return first + distance;
        }
        let n_exact_or_one = n_exact.max(1) as f32;
        // In f32 and in this order, as in transformers: a group's limit is a rounded number.
        let share = (distance as f32 / n_exact_or_one).ln() / (self.max_distance as f32 / n_exact_or_one).ln();
        let grown = n_exact + (share * (n_buckets - n_exact) as f32) as usize;
        first + grown.min(n_buckets.saturating_sub(1))
    }
}
