//! The content of a mask, in the form that the kernels take.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::mask::MASKED;
use super::{Mask, fused};
use crate::model::kernels;

/// The content of a mask `(1 or batch, 1, queries, positions)`.
#[derive(Debug, PartialEq)]
pub(super) enum Visible {
    /// Nothing is hidden.
    All,
    /// For each query, the first position that it sees and the one after the last.
    Ranges(Vec<[u32; 2]>),
    /// The numbers that are added to the scores.
    Added(Vec<f32>),
}

impl Visible {
    /// Returns the content of `mask`.
    pub(super) fn of(mask: Option<&Mask>) -> Result<&Self> {
        static ALL: Visible = Visible::All;
        mask.map_or(Ok(&ALL), Mask::visible)
    }

    /// Reads the numbers of a mask.
    pub(super) fn read(mask: &Tensor) -> Result<Self> {
        let n_positions = mask.dims().last().copied().unwrap_or(0).max(1);
        let mask = fused::floats(mask)?;
        let ranges: Option<Vec<[u32; 2]>> = mask.par_chunks_exact(n_positions).map(range).collect();
        Ok(match ranges {
            Some(ranges) if ranges.iter().all(|&[start, end]| start == 0 && end as usize == n_positions) => Self::All,
            Some(ranges) => Self::Ranges(ranges),
            None => Self::Added(mask),
        })
    }

    pub(super) fn borrowed(&self) -> kernels::Visible<'_> {
        match self {
            Self::All => kernels::Visible::All,
            Self::Ranges(ranges) => kernels::Visible::Ranges(ranges),
            Self::Added(mask) => kernels::Visible::Added(mask),
        }
    }
}

/// Returns the range in which a row of a mask is 0, if it is one run and everything else is hidden.
fn range(row: &[f32]) -> Option<[u32; 2]> {
    let start = row.iter().position(|&added| added == 0.0)?;
    let n = row[start..].iter().take_while(|&&added| added == 0.0).count();
    // A narrow type rounds the number.
    let is_hidden = |row: &[f32]| row.iter().all(|&added| added <= MASKED / 2.0);
    (is_hidden(&row[..start]) && is_hidden(&row[start + n..])).then_some([start as u32, (start + n) as u32])
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::super::{causal_mask, left_padded_mask, tree_mask};
    use super::*;

    #[test]
    fn padding_and_order_are_ranges_and_a_tree_is_not() {
        let causal = causal_mask(3, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(*Visible::of(Some(&causal)).unwrap(), Visible::Ranges(vec![[0, 1], [0, 2], [0, 3]]));
        let padded = left_padded_mask(&[0, 2], 2, 4, DType::BF16, &Device::Cpu).unwrap();
        assert_eq!(*Visible::of(Some(&padded)).unwrap(), Visible::Ranges(vec![[0, 3], [0, 4], [2, 3], [2, 4]]));
        let tree = tree_mask(&[0], 2, &[None, None, Some(0)], 0..3, DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(*Visible::of(Some(&tree)).unwrap(), Visible::Added(_)));
        let open = Tensor::zeros((1, 1, 2, 3), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(Visible::read(&open).unwrap(), Visible::All);
        assert_eq!(*Visible::of(None).unwrap(), Visible::All);
    }
}
