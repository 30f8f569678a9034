//! Pure numbers: proportions and the bootstrap.
//!
//! Every function names its source; vectors from scipy and statsmodels are in `tests/golden`.

mod bootstrap;
mod normal;
mod proportion;

#[cfg(test)]
mod golden;

pub use bootstrap::{PairCells, SplitMix64, ratio_interval};
pub use normal::quantile as normal_quantile;
pub use proportion::wilson;
