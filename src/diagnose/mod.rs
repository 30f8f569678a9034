//! Why a fine-tune forgot: which component and which layers carry the loss, and what kind of loss it is.
//!
//! Each probe is one file. [`weights`] needs no image. [`swap`] evaluates parts of the candidate over the base, as
//! [`plan_variants`] plans them. [`causes`] names a cause for every lost image.

pub mod causes;
mod diagnosis;
mod probe;
pub mod swap;
pub mod taps;
mod variants;
pub mod weights;

pub use diagnosis::{
    Accuracy, ComponentChange, Composite, DIAGNOSIS_SCHEMA, DatasetDiagnosis, Diagnosed, Diagnosis, FlowShares,
    GradientMaps, ImageDiagnosis, IntegrationOfLayer, Keep, LayerDiagnosis, MapSimilarity, MergedAnswers,
    ModalityIntegration, ModuleChange, PositionDrift, Reliance, Restore, SetupDifference, SwapShare, Truncation,
    WeightChanges,
};
pub use probe::Probe;
pub use variants::{Candidate, Role, Variant, kept_positions, plan_variants, truncated_layers};
