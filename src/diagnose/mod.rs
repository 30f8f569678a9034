//! Why a fine-tune forgot: which component and which layers carry the loss, and what kind of loss it is.
//!
//! Each probe is one file. [`weights`] needs no image. [`swap`] evaluates parts of the candidate over the base, as
//! [`plan_variants`] plans them. [`causes`] names a cause for every lost image.

pub mod causes;
mod diagnosis;
pub mod swap;
mod variants;
pub mod weights;

pub use diagnosis::{
    Accuracy, CauseShare, ComponentChange, DIAGNOSIS_SCHEMA, DatasetDiagnosis, Diagnosed, Diagnosis, ImageDiagnosis,
    Keep, ModuleChange, Reliance, Restore, SetupDifference, SwapShare, WeightChanges,
};
pub use variants::{Role, Variant, plan_variants};
