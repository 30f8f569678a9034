//! What an optimizer does with a tensor's numbers: in place on all threads for f32 on a CPU, otherwise by candle's
//! operations.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use super::fused;
use super::gradients::{floats, is_served};

/// Numbers per thread at once. Sums are first made of this many numbers, whatever the number of threads.
const N_AT_ONCE: usize = 1 << 14;

/// One step of AdamW (Loshchilov and Hutter 2019).
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// The factor of the gradient.
    pub gradient_scale: f64,
    /// The factor of the values before they move (weight decay).
    pub kept: f64,
    /// The learning rate divided by the correction of the first moment.
    pub rate: f64,
    /// The square root of the second moment's correction.
    pub correction: f64,
    /// Keeps the quotient finite.
    pub epsilon: f64,
}

impl AdamWStep {
    /// Returns the values and the two moments after a step by `gradient`, all of one shape. If possible, the given
    /// tensors change in place and are returned.
    pub fn apply(&self, values: &Tensor, moments: [&Tensor; 2], gradient: &Tensor) -> Result<[Tensor; 3]> {
        let [first, second] = moments;
        if [values, first, second, gradient].iter().all(|x| is_served(x) && x.is_contiguous()) {
            let (scale, [beta_1, beta_2]) = (self.gradient_scale as f32, self.betas);
            first.inplace_op2(gradient, &Moment { beta: beta_1, scale, is_of_squares: false })?;
            second.inplace_op2(gradient, &Moment { beta: beta_2, scale, is_of_squares: true })?;
            values.inplace_op3(first, second, self)?;
            return Ok([values, first, second].map(Tensor::clone));
        }
        let gradient = (gradient * self.gradient_scale)?;
        let first = ((first * self.betas[0])? + (&gradient * (1.0 - self.betas[0]))?)?;
        let second = ((second * self.betas[1])? + (gradient.sqr()? * (1.0 - self.betas[1]))?)?;
        let denominator = ((second.sqrt()? / self.correction)? + self.epsilon)?;
        let values = ((values * self.kept)? - (first.div(&denominator)? * self.rate)?)?;
        Ok([values, first, second])
    }
}

/// A running mean of gradients or of their squares.
struct Moment {
    beta: f64,
    scale: f32,
    is_of_squares: bool,
}

impl InplaceOp2 for Moment {
    fn name(&self) -> &'static str {
        "moment"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        let (beta, rest, scale) = (self.beta as f32, (1.0 - self.beta) as f32, self.scale);
        let pieces = floats_mut(s1, l1)?.par_chunks_mut(N_AT_ONCE).zip(floats(s2, l2)?.par_chunks(N_AT_ONCE));
        pieces.for_each(|(moments, gradients)| {
            for (moment, gradient) in moments.iter_mut().zip(gradients) {
                let gradient = gradient * scale;
                let added = if self.is_of_squares { gradient * gradient } else { gradient };
                *moment = *moment * beta + added * rest;
            }
        });
        Ok(())
    }
}

impl InplaceOp3 for AdamWStep {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        let (kept, rate, epsilon) = (self.kept as f32, self.rate as f32, self.epsilon as f32);
        let correction = self.correction as f32;
        let moments = floats(s2, l2)?.par_chunks(N_AT_ONCE).zip(floats(s3, l3)?.par_chunks(N_AT_ONCE));
        floats_mut(s1, l1)?.par_chunks_mut(N_AT_ONCE).zip(moments).for_each(|(values, (first, second))| {
            for ((value, first), second) in values.iter_mut().zip(first).zip(second) {
                *value = *value * kept - first / (second.sqrt() / correction + epsilon) * rate;
            }
        });
        Ok(())
    }
}

/// Returns `sum + added`, in the memory of `sum` if possible.
pub fn add(sum: Tensor, added: &Tensor) -> Result<Tensor> {
    if [&sum, added].iter().all(|x| is_served(x) && x.is_contiguous()) && sum.dims() == added.dims() {
        sum.inplace_op2(added, &Add)?;
        return Ok(sum);
    }
    sum + added
}

struct Add;

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        // On one thread: it may hold a lock that other work is waiting for, and a helper thread might pick up that
        // work.
        floats_mut(s1, l1)?.iter_mut().zip(floats(s2, l2)?).for_each(|(sum, added)| *sum += added);
        Ok(())
    }
}

/// Returns the sum of all squares, in f64.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    let sum = |numbers: &[f32]| numbers.iter().map(|&number| f64::from(number).powi(2)).sum::<f64>();
    let sums = |numbers: &[f32]| numbers.par_chunks(N_AT_ONCE).map(sum).collect::<Vec<f64>>();
    match is_served(x) {
        true => Ok(fused::with_numbers(x, sums)?.iter().sum()),
        false => Ok(sum(&x.flatten_all()?.to_vec1()?)),
    }
}

fn floats_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&mut numbers[start..end]),
        _ => bail!("an operation in place needs a contiguous tensor in f32"),
    }
}
