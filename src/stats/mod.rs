//! Pure numbers: proportions, paired tables and the bootstrap.
//!
//! Every function names its source; vectors from scipy and statsmodels are in `tests/golden`.

mod bootstrap;
mod normal;
mod paired;
mod proportion;

#[cfg(test)]
mod golden;

pub use bootstrap::{PairCells, SplitMix64, ratio_interval};
pub use normal::{cdf as normal_cdf, quantile as normal_quantile};
pub use paired::{PairedCounts, mcnemar_exact, mcnemar_mid_p, non_inferiority_p, tango_interval};
pub use proportion::wilson;
