//! The code where a model spends its time on a CPU: products with packed weights, norms, gates and attention.
//!
//! [`Kernels`] is the instruction set, chosen once per process: the best that the processor has, or the argument of
//! [`choose`]. Every kernel is written once, over vectors of f32 (`simd.rs`), and compiled for each instruction set
//! (`scalar.rs`, `x86.rs`). Kernels compute in f32 whatever the storage type, except for products of bf16 with bf16 if
//! the processor has an instruction for them.
//!
//! # Safety
//! `unsafe` stays within this module, and has three reasons: intrinsics (a value of the instruction set's type, which
//! only detection creates, proves that they are available), pointers inside the loops (every public function first
//! checks the lengths of its slices), and results written in pieces by several threads (the pieces are disjoint).
#![allow(unsafe_code, reason = "intrinsics, and results that many threads write")]

mod attend;
mod attention;
#[cfg(test)]
mod attention_tests;
mod backward;
#[cfg(test)]
mod edge_tests;
mod int8;
mod kept;
mod kv_append;
mod kv_buffer;
mod linear;
mod math;
mod memory;
mod norm;
mod packed;
mod pointwise;
mod scalar;
mod simd;
#[cfg(test)]
mod tests;
mod tile;
mod transpose;
mod waiting;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

pub use simd::Number;
use simd::{Simd, Task};

pub use attend::Visible;
pub use attention::{attention, attention_within};
pub use backward::{
    Right, Term, activated_backward, attention_backward, column_sums, gated_backward, norm_backward,
    norm_weight_backward, product, transposed,
};
pub use kv_buffer::{HeadShape, Heads, KvBuffer, RotaryRows};
pub use linear::{Part, gated, linear};
pub use math::Activation;
pub use norm::{layer_norm, rms_norm};
pub use packed::{PackedWeight, WeightNumbers};
pub use pointwise::activated;
pub use waiting::let_waiting_threads_sleep;

/// The instruction set for which kernels are compiled.
#[derive(Clone, Copy, Debug)]
pub struct Kernels(Set);

#[derive(Clone, Copy, Debug)]
enum Set {
    Scalar(scalar::Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(x86::Avx512Bf16),
}

/// The names of the instruction sets, simplest first.
pub const NAMES: [&str; 4] = ["scalar", "avx2", "avx512", "avx512bf16"];

/// An instruction set that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// No such name.
    #[error("there are no kernels `{name}`; hint: {}", NAMES.join(", "))]
    Unknown {
        /// The requested name.
        name: String,
    },
    /// The processor lacks it.
    #[error("this processor lacks the instructions of the kernels `{name}`; hint: it has {has}")]
    Missing {
        /// The requested name.
        name: String,
        /// The sets that the processor has.
        has: String,
    },
}

static CHOSEN: OnceLock<Kernels> = OnceLock::new();

/// Makes all models of this process compute with the kernels `name`. Must be called before the first one computes.
///
/// # Errors
/// The name is not in [`NAMES`], or the processor lacks the instructions.
pub fn choose(name: &str) -> Result<(), Unusable> {
    let kernels = Kernels::named(name)?;
    CHOSEN.get_or_init(|| kernels);
    Ok(())
}

/// Returns the name of the kernels with which models of this process compute on a CPU.
pub fn chosen_name() -> &'static str {
    Kernels::chosen().name()
}

impl Kernels {
    /// Returns the chosen kernels, or the best that the processor has.
    pub fn chosen() -> Self {
        *CHOSEN.get_or_init(default)
    }

    /// Returns the kernels `name`.
    ///
    /// # Errors
    /// Fails as [`choose`] does.
    pub fn named(name: &str) -> Result<Self, Unusable> {
        if !NAMES.contains(&name) {
            return Err(Unusable::Unknown { name: name.to_owned() });
        }
        let has = Self::available();
        let found = has.iter().copied().find(|kernels| kernels.name() == name);
        found.ok_or_else(|| Unusable::Missing {
            name: name.to_owned(),
            has: has.iter().map(|kernels| kernels.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Returns all kernels that the processor has, simplest first.
    pub fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let of_processor = [
            x86::Avx2::detect().map(Set::Avx2),
            x86::Avx512::detect().map(Set::Avx512),
            x86::Avx512Bf16::detect().map(Set::Avx512Bf16),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let of_processor: [Option<Set>; 0] = [];
        std::iter::once(Set::Scalar(scalar::Scalar)).chain(of_processor.into_iter().flatten()).map(Self).collect()
    }

    /// Returns one of [`NAMES`].
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Scalar(_) => NAMES[0],
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => NAMES[1],
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => NAMES[2],
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16(_) => NAMES[3],
        }
    }

    fn run<T: Task>(self, task: T) -> T::Output {
        match self.0 {
            Set::Scalar(simd) => simd.vectorise(task),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => simd.vectorise(task),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => simd.vectorise(task),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16(simd) => simd.vectorise(task),
        }
    }

    /// Returns the columns of a panel of packed weights, and the numbers of a vector.
    fn panel_and_lanes(self) -> (usize, usize) {
        let Sizes { panel, lanes, .. } = self.run(AskSizes);
        (panel, lanes)
    }

    /// Whether there is an instruction for bf16 products.
    fn dots_bf16(self) -> bool {
        self.run(AskSizes).dots_bf16
    }
}

/// The properties of an instruction set.
struct Sizes {
    panel: usize,
    lanes: usize,
    dots_bf16: bool,
}

struct AskSizes;

impl Task for AskSizes {
    type Output = Sizes;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Sizes {
        Sizes { panel: S::PANEL, lanes: S::LANES, dots_bf16: S::DOTS_BF16 }
    }
}

fn default() -> Kernels {
    // Tests are repeated with each set.
    #[cfg(test)]
    if let Ok(name) = std::env::var("EMT_KERNELS") {
        return Kernels::named(&name).unwrap_or_else(|error| panic!("{error}"));
    }
    // The scalar set is always available.
    Kernels::available().pop().unwrap_or(Kernels(Set::Scalar(scalar::Scalar)))
}

/// Work below this many multiply-adds is not worth waking other threads for.
const N_PRODUCTS_OF_ONE_THREAD: usize = 1 << 16;

/// Runs `task` for `0..n_tasks`, on all threads if there is enough to do.
fn for_each(n_tasks: usize, n_products: usize, task: impl Fn(usize) + Send + Sync) {
    use rayon::prelude::*;
    if n_tasks < 2 || n_products < N_PRODUCTS_OF_ONE_THREAD {
        (0..n_tasks).for_each(task);
    } else {
        (0..n_tasks).into_par_iter().for_each(task);
    }
}
