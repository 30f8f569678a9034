//! Attention on a CUDA device that never holds scores: candle's flash attention, if the program was built with it.
//!
//! Its launches drop their errors. On a GPU for which the kernels were not compiled, the result is uninitialised
//! memory. Therefore each kernel is checked before its first use.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, DeviceLocation, Result, Tensor, bail};

use super::attention::mix_in_steps;
use super::{Mask, left_padded_mask, needs_gradient};

/// Attention of queries, keys and values `(batch, tokens, heads, head size)`; the number scales the scores. If the
/// switch is set, the queries are the last positions and each attends up to its own position.
type Kernel = fn(&Tensor, &Tensor, &Tensor, f32, bool) -> Result<Tensor>;

#[cfg(feature = "flash-attn")]
const COMPILED: Option<Kernel> = Some(candle_flash_attn::flash_attn);
#[cfg(not(feature = "flash-attn"))]
const COMPILED: Option<Kernel> = None;

/// The largest head that kernels are compiled for.
const HEAD_SIZE_MAX: usize = 512;

/// Heads and rows begin at multiples of this many numbers, which are read at once.
const N_AT_ONCE: usize = 8;

/// The most rows of a batch, and the most heads, in one launch.
const GRID_MAX: usize = 65_535;

/// The size of the check: more than one block of queries and of positions.
const N_QUERIES_TRIED: usize = 70;
const N_POSITIONS_TRIED: usize = 200;

/// The largest difference from attention in f32 for numbers up to 1. Weights and result are rounded to 8 bits.
const TOLERANCE: f32 = 0.01;

/// Flash attention for given queries, keys and values.
pub(super) struct FlashAttention {
    kernel: Kernel,
    is_causal: bool,
}

impl FlashAttention {
    /// Returns `Some` if it can compute what [`mix`](super::attention::mix) does: on a CUDA device, in 16 bits, without
    /// gradients, and with all positions visible or those up to each query.
    pub(super) fn serving(inputs: [&Tensor; 3], mask: Option<&Mask>) -> Option<Self> {
        let kernel = COMPILED?;
        let is_served = inputs.iter().all(|x| x.device().is_cuda()) && !needs_gradient(&inputs) && fits(inputs, mask);
        // One query attends to everything before it.
        let is_causal = mask.is_some_and(Mask::is_causal) && inputs[0].dims()[2] > 1;
        is_served.then_some(Self { kernel, is_causal })
    }

    /// Computes `softmax(query key^T / √head size + mask) value`: `(batch, heads, queries, head size)`.
    ///
    /// # Errors
    /// The device does not compute it.
    pub(super) fn mix(&self, inputs: [&Tensor; 3]) -> Result<Tensor> {
        self.try_once(inputs[0])?;
        self.launch(inputs)
    }

    fn launch(&self, inputs: [&Tensor; 3]) -> Result<Tensor> {
        let [query, key, value] = inputs.map(|x| x.transpose(1, 2));
        let query = query?;
        let scale = (query.dim(3)? as f32).powf(-0.5);
        (self.kernel)(&query, &key?, &value?, scale, self.is_causal)?.transpose(1, 2)
    }

    /// Checks the kernel that serves `query`, once per process.
    fn try_once(&self, query: &Tensor) -> Result<()> {
        static TRIED: Mutex<Vec<(DeviceLocation, DType, usize, bool)>> = Mutex::new(Vec::new());
        let (dtype, head_size) = (query.dtype(), query.dim(3)?);
        let kernel = (query.device().location(), dtype, head_size, self.is_causal);
        let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
        if !tried.contains(&kernel) {
            self.check(head_size, dtype, query.device())?;
            tried.push(kernel);
        }
        Ok(())
    }

    /// Fails if the kernel's result on `device` differs from attention in steps.
    fn check(&self, head_size: usize, dtype: DType, device: &Device) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(1);
        let mut numbers = |n_heads: usize, n_tokens: usize| {
            let shape = (2, n_heads, n_tokens, head_size);
            let numbers: Vec<f32> = (0..2 * n_heads * n_tokens * head_size).map(|_| random.f32() * 2.0 - 1.0).collect();
            Tensor::from_vec(numbers, shape, device)?.to_dtype(dtype)
        };
        let inputs = [numbers(4, N_QUERIES_TRIED)?, numbers(2, N_POSITIONS_TRIED)?, numbers(2, N_POSITIONS_TRIED)?];
        let inputs = inputs.each_ref();
        let mask = match self.is_causal {
            true => Some(left_padded_mask(&[0], N_QUERIES_TRIED, N_POSITIONS_TRIED, DType::F32, device)?),
            false => None,
        };
        if furthest(&self.launch(inputs)?, &in_steps(inputs, mask.as_ref())?)? <= TOLERANCE {
            return Ok(());
        }
        bail!(
            "flash attention computes wrong numbers on this GPU ({dtype:?}, heads of {head_size}); hint: it needs compute \
             capability 8.0 or later, and CUDA_COMPUTE_CAP set to the GPU's when it is built; or build without the feature \
             flash-attn"
        )
    }
}

/// Whether there is a kernel for these shapes and types.
fn fits([query, key, value]: [&Tensor; 3], mask: Option<&Mask>) -> bool {
    let (&[batch, n_heads, n_queries, head_size], &[_, n_kv_heads, n_positions, _]) = (query.dims(), key.dims()) else {
        return false;
    };
    let dtype = query.dtype();
    let is_aligned = |x: &Tensor| {
        let layout = x.layout();
        matches!(layout.stride(), [rows @ .., 1] if rows.iter().all(|stride| stride.is_multiple_of(N_AT_ONCE)))
            && layout.start_offset().is_multiple_of(N_AT_ONCE)
    };
    matches!(dtype, DType::BF16 | DType::F16)
        && [key, value].iter().all(|x| x.dtype() == dtype && *x.dims() == [batch, n_kv_heads, n_positions, head_size])
        && [query, key, value].into_iter().all(is_aligned)
        && n_kv_heads > 0
        && n_heads.is_multiple_of(n_kv_heads)
        && batch.max(n_heads) <= GRID_MAX
        && head_size.is_multiple_of(N_AT_ONCE)
        && head_size <= HEAD_SIZE_MAX
        && mask.is_none_or(|mask| (mask.is_causal() || mask.is_open()) && mask.dims()[1..] == [n_queries, n_positions])
}

/// Computes attention in f32 on the rounded numbers.
fn in_steps(inputs: [&Tensor; 3], mask: Option<&Mask>) -> Result<Tensor> {
    let [query, key, value] = inputs.map(|x| x.to_dtype(DType::F32));
    Ok(mix_in_steps([&query?, &key?, &value?], mask, None)?.0)
}

/// Returns the largest difference at one place; infinity if one is NaN.
fn furthest(x: &Tensor, y: &Tensor) -> Result<f32> {
    let differences = (x.to_dtype(DType::F32)? - y.to_dtype(DType::F32)?)?.abs()?.flatten_all()?.to_vec1::<f32>()?;
    Ok(differences.into_iter().fold(0.0, |most, n| if n.is_nan() { f32::INFINITY } else { n.max(most) }))
}

#[cfg(test)]
mod tests;
