//! Dropout as a function of seed, step and place. A resumed training needs no generator state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

/// The fewest numbers per thread.
pub(super) const N_AT_ONCE: usize = 1 << 14;

/// The current step of a training, shared by all its dropouts.
pub type StepCounter = Arc<AtomicU64>;

/// Inverted dropout (Srivastava et al. 2014): sets a share of the numbers to zero and scales the others to keep the
/// mean.
#[derive(Clone, Debug)]
pub struct Dropout {
    rate: f64,
    seed: u64,
    step: StepCounter,
}

impl Dropout {
    /// `seed` must differ from place to place; `rate` is in 0..1.
    pub fn new(rate: f64, seed: u64, step: StepCounter) -> Self {
        Self { rate, seed, step }
    }

    /// Maps any shape to the same shape. Equal seeds at equal steps drop equal places.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if self.rate == 0.0 {
            return Ok(x.clone());
        }
        let mask = self.mask();
        if super::gradients::is_served(x) {
            return x.contiguous()?.apply_op1(mask);
        }
        let mask: Vec<f32> = (0..x.elem_count()).map(|index| mask.of(index)).collect();
        x * Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?
    }

    /// Returns the mask of the current step.
    pub(super) fn mask(&self) -> Mask {
        let state = mixed(self.seed ^ mixed(self.step.load(Ordering::Relaxed)));
        let threshold = (self.rate * 65_536.0).round() as u64;
        Mask { state, threshold, kept: (1.0 / (1.0 - self.rate)) as f32 }
    }
}

/// The factors of one tensor's elements; the gradient is multiplied by the same factors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask {
    state: u64,
    threshold: u64,
    kept: f32,
}

impl Mask {
    /// Returns `x` with the dropped numbers set to 0.
    pub(super) fn applied(&self, x: &[f32]) -> Vec<f32> {
        let mut dropped = x.to_vec();
        dropped.par_chunks_mut(N_AT_ONCE).enumerate().for_each(|(piece, numbers)| {
            let first = self.state.wrapping_add((piece * N_AT_ONCE / 4) as u64);
            for (index, four) in numbers.chunks_mut(4).enumerate() {
                let hash = mixed(first.wrapping_add(index as u64));
                for (index, number) in four.iter_mut().enumerate() {
                    *number *= self.factor(hash, index);
                }
            }
        });
        dropped
    }

    /// Returns the factor of the number `index`. Four numbers share one hash.
    fn of(&self, index: usize) -> f32 {
        let hash = mixed(self.state.wrapping_add((index / 4) as u64));
        self.factor(hash, index % 4)
    }

    fn factor(&self, hash: u64, index: usize) -> f32 {
        if (hash >> (16 * index)) & 0xffff < self.threshold { 0.0 } else { self.kept }
    }
}

impl CustomOp1 for Mask {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = super::gradients::floats(storage, layout)?;
        Ok((CpuStorage::F32(self.applied(x)), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(gradient.contiguous()?.apply_op1_no_bwd(self)?))
    }
}

/// The finaliser of SplitMix64 (Steele et al. 2014): neighbouring inputs give unrelated outputs.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
