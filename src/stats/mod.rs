//! Statistics as pure functions: distributions, proportions, paired and sequential tests, the bootstrap, agreement,
//! classifiers on features, forgetting measures, what diagnostics compute from hidden states, attention and gradients.
//!
//! Every function names its source. Vectors from scipy, statsmodels and published tables are in `tests/golden`. An
//! undefined result (no observations, a level outside (0, 1), contradictory counts) is `None`.

// Distributions and random numbers.
mod beta;
mod binomial;
mod normal;
mod random;
// One rate; two rates on the same images.
mod paired;
mod proportion;
mod sample_size;
mod unconditional;
// Many looks, many tests.
mod multiplicity;
mod sequential;
// Resampling.
mod bootstrap;
mod simultaneous;
// Graders.
mod agreement;
mod judged;
// Classifiers on features.
mod probe;
// Forgetting.
mod forgetting;
mod stages;
// Causes.
mod attention_shares;
mod centered_kernel_alignment;
mod dense;
mod maps;
mod modality_integration;
mod shapley;
mod spectrum;

#[cfg(test)]
mod golden;

pub use agreement::{Kappa, cohen_kappa};
pub use attention_shares::{AttentionShares, HeadRule, PromptParts, ShareOf, attention_shares, mean_attention_shares};
pub use beta::{cdf as beta_cdf, quantile as beta_quantile};
pub use bootstrap::{PairCells, bca_interval, ratio_interval, resample_cells};
pub use centered_kernel_alignment::{KernelAlignment, centered_kernel_alignment};
pub use forgetting::{ChanceCorrected, chance_corrected, negative_flip_rate, retention};
pub use judged::{JudgeError, JudgedRate, rogan_gladen};
pub use maps::{CamHeat, CamWeights, cam_heat, overlap, rank_correlation};
pub use modality_integration::{
    CrossTerm, ModalityIntegration, Outliers, modality_integration, modality_integration_rate,
};
pub use multiplicity::{benjamini_hochberg, holm};
pub use normal::{cdf as normal_cdf, quantile as normal_quantile};
pub use paired::{
    PairedCounts, inferiority_p, mcnemar_exact, mcnemar_exact_one_sided, mcnemar_mid_p, non_inferiority_p,
    tango_interval, tango_z,
};
pub use probe::Probe;
pub use proportion::{clopper_pearson, clopper_pearson_lower, clopper_pearson_upper, mean_of_proportions, wilson};
pub use random::{SplitMix64, beta_sample, binomial_sample};
pub use sample_size::{POWER, minimum_detectable_fall, n_for_power, n_needed, n_to_decide};
pub use sequential::{obrien_fleming_boundaries, obrien_fleming_spent};
pub use shapley::shapley;
pub use simultaneous::{ResampledStatistic, SimultaneousIntervals, simultaneous_intervals};
pub use spectrum::{effective_rank, singular_values_of_product, symmetric_eigen};
pub use stages::{StageError, StageMatrix};
pub use unconditional::{exact_inferiority_p, exact_non_inferiority_p};
