//! ALiBi (Press et al. 2022): scores fall with the distance of a key, by a slope of each head.

use candle_core::{DType, Device, Result, Tensor};

/// Heads get this many more dimensions, so that their width stays a multiple of it.
const N_MORE: usize = 8;

/// Positions are split at this number, so that both parts are exact in narrow types.
const SPLIT: u32 = 32;

/// Slopes by head.
///
/// What a query adds to all scores alike has no effect, so the slope times the key's own position is enough. It becomes
/// two more dimensions of keys, which queries multiply by a constant; so every way to compute attention serves.
pub struct Alibi {
    slopes: Vec<f32>,
}

impl Alibi {
    /// The slopes of `n_heads` heads: powers of `2^-(bias_max / n_heads)`. If their number is no power of two, every
    /// other slope of the next such number comes first.
    pub fn new(n_heads: usize, bias_max: f64) -> Self {
        let n = n_heads.next_power_of_two();
        let slope = |index: usize| (2f64.powf(-bias_max * (index + 1) as f64 / n as f64)) as f32;
        let all: Vec<f32> = (0..n).map(slope).collect();
        let slopes = match n == n_heads {
            true => all,
            false => all.iter().skip(1).step_by(2).chain(all.iter().step_by(2)).take(n_heads).copied().collect(),
        };
        Self { slopes }
    }

    /// Returns queries, keys and values `(batch, heads, tokens, head size)` with more dimensions. `positions` are of the
    /// keys, u32 `(batch, tokens)`.
    ///
    /// # Errors
    /// The positions are not of these keys.
    pub fn widened(&self, [queries, keys, values]: [&Tensor; 3], positions: &Tensor) -> Result<[Tensor; 3]> {
        let (batch, n_heads, n_queries, head_size) = queries.dims4()?;
        let (dtype, device) = (queries.dtype(), queries.device());
        let wider = head_size + N_MORE;
        // Scores are divided by the root of the width, which is another one now.
        let queries = (queries * (wider as f64 / head_size as f64).sqrt())?;
        let factors = Tensor::full((wider as f32).sqrt(), (batch, n_heads, n_queries, 2), device)?.to_dtype(dtype)?;
        let queries = Tensor::cat(&[queries, factors], 3)?.pad_with_zeros(3, 0, N_MORE - 2)?;
        let keys =
            Tensor::cat(&[keys, &self.biases(positions, dtype, device)?], 3)?.pad_with_zeros(3, 0, N_MORE - 2)?;
        Ok([queries.contiguous()?, keys.contiguous()?, values.pad_with_zeros(3, 0, N_MORE)?.contiguous()?])
    }

    /// Returns what was mixed of widened values, `(batch, heads, tokens, head size)`.
    ///
    /// # Errors
    /// A device failure.
    pub fn narrowed(mixed: &Tensor) -> Result<Tensor> {
        mixed.narrow(3, 0, mixed.dim(3)? - N_MORE)
    }

    /// Returns `(batch, heads, tokens, 2)`: the slope times both parts of the position.
    fn biases(&self, positions: &Tensor, dtype: DType, device: &Device) -> Result<Tensor> {
        let positions = positions.to_vec2::<u32>()?;
        let (batch, n_tokens) = (positions.len(), positions.first().map_or(0, Vec::len));
        let mut biases = Vec::with_capacity(batch * self.slopes.len() * n_tokens * 2);
        for row in &positions {
            for slope in &self.slopes {
                let parts = row.iter().flat_map(|at| [at / SPLIT * SPLIT, at % SPLIT]);
                biases.extend(parts.map(|part| part as f32 * slope));
            }
        }
        Tensor::from_vec(biases, (batch, self.slopes.len(), n_tokens, 2), device)?.to_dtype(dtype)
    }
}

#[cfg(test)]
mod tests;
