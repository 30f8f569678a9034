//! Weights in the order in which products read them.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::Kernels;
use super::int8::Int8Panels;
use super::memory::Aligned;

/// A weight `(n_out, n_in)`, packed once into panels. A panel has as many outputs as a tile has columns and stores its
/// inputs one after the other. The last panel is padded with outputs of 0.
///
/// Numbers keep their type. bf16 numbers of two inputs are stored in pairs, as the processor's bf16 products take them:
/// `(n_in / 2, columns, 2)` in a panel.
pub struct PackedWeight {
    kernels: Kernels,
    n_out: usize,
    n_in: usize,
    pub(super) panels: Panels,
}

pub(super) enum Panels {
    F32(Aligned<f32>),
    F16(Aligned<u16>),
    Bf16(Aligned<u16>),
    Int8(Int8Panels),
}

/// The numbers of a weight, row-major.
#[derive(Clone, Copy, Debug)]
pub enum WeightNumbers<'a> {
    /// f32.
    F32(&'a [f32]),
    /// f16.
    F16(&'a [f16]),
    /// bf16.
    Bf16(&'a [bf16]),
}

impl WeightNumbers<'_> {
    /// Writes one row as f32.
    pub(super) fn widen(&self, row: usize, to: &mut [f32]) {
        let start = row * to.len();
        let end = start + to.len();
        match self {
            Self::F32(numbers) => to.copy_from_slice(&numbers[start..end]),
            Self::F16(numbers) => numbers[start..end].convert_to_f32_slice(to),
            Self::Bf16(numbers) => numbers[start..end].convert_to_f32_slice(to),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
            Self::Bf16(numbers) => numbers.len(),
        }
    }
}

impl std::fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedWeight({}, {}, {})", self.n_out, self.n_in, self.kernels.name())
    }
}

/// Inputs packed at once: their places in a panel stay in the L1 cache.
const N_INPUTS_AT_ONCE: usize = 32;

impl PackedWeight {
    /// Packs `(n_out, n_in)`; `None` if the number of numbers differs.
    pub fn new(kernels: Kernels, weight: WeightNumbers, n_out: usize, n_in: usize) -> Option<Self> {
        check(weight, n_out, n_in)?;
        let (panel, _) = kernels.panel_and_lanes();
        let panels = match weight {
            WeightNumbers::F32(numbers) => Panels::F32(packed(numbers, n_in, panel, 1, |x| x)),
            WeightNumbers::F16(numbers) => Panels::F16(packed(numbers, n_in, panel, 1, f16::to_bits)),
            WeightNumbers::Bf16(numbers) => Panels::Bf16(packed(numbers, n_in, panel, 2, bf16::to_bits)),
        };
        Some(Self { kernels, n_out, n_in, panels })
    }

    /// Packs a weight rounded to 8 bits per number.
    pub fn rounded_to_int8(kernels: Kernels, weight: WeightNumbers, n_out: usize, n_in: usize) -> Option<Self> {
        check(weight, n_out, n_in)?;
        Some(Self { kernels, n_out, n_in, panels: Panels::Int8(Int8Panels::new(kernels, weight, n_in)) })
    }

    /// The number of outputs.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// The number of inputs.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// The kernels for which the weight is packed.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Returns the weight `(n_out, n_in)` as kernels compute with it, widened to f32.
    pub fn unpacked(&self) -> Vec<f32> {
        let (panel, _) = self.kernels.panel_and_lanes();
        let (n_out, n_in) = (self.n_out, self.n_in);
        match &self.panels {
            Panels::F32(panels) => unpacked(panels.as_slice(), n_out, n_in, panel, 1, |x| x),
            Panels::F16(panels) => unpacked(panels.as_slice(), n_out, n_in, panel, 1, |x| f16::from_bits(x).to_f32()),
            Panels::Bf16(panels) => unpacked(panels.as_slice(), n_out, n_in, panel, 2, |x| bf16::from_bits(x).to_f32()),
            Panels::Int8(panels) => panels.unpacked(self.kernels, n_in),
        }
    }

    /// Whether the numbers can be multiplied by bf16 without conversion.
    pub(super) fn meets_bf16(&self) -> bool {
        matches!(self.panels, Panels::Bf16(_) | Panels::Int8(_))
    }

    /// Returns the factor of each output's sum; `None` if there is none.
    pub(super) fn scales(&self) -> Option<&[f32]> {
        match &self.panels {
            Panels::Int8(panels) => Some(&panels.scales),
            Panels::F32(_) | Panels::F16(_) | Panels::Bf16(_) => None,
        }
    }

    /// Returns the number of numbers in one panel.
    pub(super) fn panel_len(&self, panel: usize) -> usize {
        match self.panels {
            Panels::Bf16(_) | Panels::Int8(_) => self.n_in.next_multiple_of(2) * panel,
            Panels::F32(_) | Panels::F16(_) => self.n_in * panel,
        }
    }
}

fn check(weight: WeightNumbers, n_out: usize, n_in: usize) -> Option<()> {
    (n_out.checked_mul(n_in) == Some(weight.len()) && n_in > 0).then_some(())
}

/// Returns the place of the number of `input` and `column` in a panel that stores `together` inputs together.
#[inline(always)]
fn place(input: usize, column: usize, panel: usize, together: usize) -> usize {
    (input / together * panel + column) * together + input % together
}

fn packed<T: Copy + Sync, P: super::memory::Plain + Send>(
    numbers: &[T],
    n_in: usize,
    panel: usize,
    together: usize,
    convert: impl Fn(T) -> P + Sync,
) -> Aligned<P> {
    let n_out = numbers.len() / n_in;
    let panel_len = n_in.next_multiple_of(together) * panel;
    let mut panels = Aligned::zeros(n_out.div_ceil(panel) * panel_len);
    panels.as_mut_slice().par_chunks_mut(panel_len).enumerate().for_each(|(index, packed)| {
        let rows = &numbers[index * panel * n_in..numbers.len().min((index + 1) * panel * n_in)];
        for start in (0..n_in).step_by(N_INPUTS_AT_ONCE) {
            let end = n_in.min(start + N_INPUTS_AT_ONCE);
            for (column, row) in rows.chunks_exact(n_in).enumerate() {
                for (input, &number) in (start..end).zip(&row[start..end]) {
                    packed[place(input, column, panel, together)] = convert(number);
                }
            }
        }
    });
    panels
}

fn unpacked<P: Copy + Sync>(
    panels: &[P],
    n_out: usize,
    n_in: usize,
    panel: usize,
    together: usize,
    convert: impl Fn(P) -> f32 + Sync,
) -> Vec<f32> {
    let panel_len = n_in.next_multiple_of(together) * panel;
    let mut numbers = vec![0f32; n_out * n_in];
    numbers.par_chunks_mut(panel * n_in).zip(panels.par_chunks(panel_len)).for_each(|(rows, packed)| {
        for (column, row) in rows.chunks_exact_mut(n_in).enumerate() {
            for (input, number) in row.iter_mut().enumerate() {
                *number = convert(packed[place(input, column, panel, together)]);
            }
        }
    });
    numbers
}
