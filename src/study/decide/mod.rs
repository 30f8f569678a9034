//! The decision whether a candidate may be released: on two finished runs, or while both are evaluated.

mod calibration;
mod datasets;
mod finished;
mod history;
mod run_names;
mod sequential;

use std::path::PathBuf;

pub use self::calibration::Calibrations;
pub use self::finished::{Decide, Decided};
pub use self::history::History;
pub use self::sequential::{CheckedSequence, DecideInSequence, DecidedInSequence};
use crate::dataset::Catalog;
use crate::domain::SampleSet;
use crate::gate::Policy;

/// What is decided by.
#[derive(Clone, Debug)]
pub struct DecisionRules {
    /// What a release must satisfy.
    pub policy: Policy,
    /// The file of the policy, for messages.
    pub policy_file: Option<PathBuf>,
    /// How candidates that were tried on the same data are counted.
    pub attempts: Attempts,
    /// Whether two runs of one model may be compared, although nothing can be found forgotten.
    pub allows_same: bool,
    /// The fields that may differ between the runs.
    pub allow_different: Vec<String>,
    /// What is known of the judge's error.
    pub calibrations: Calibrations,
    /// The datasets and labels that are known beside those of the runs.
    pub catalog: Catalog,
}

impl DecisionRules {
    /// `policy` and nothing else: one attempt, equal settings, a judge that was not measured, and the built-in catalog.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            policy_file: None,
            attempts: Attempts::Alone,
            allows_same: false,
            allow_different: Vec::new(),
            calibrations: Calibrations::default(),
            catalog: Catalog::embedded(),
        }
    }
}

/// What should be told of a decision on `samples` alone.
fn only_named(samples: &SampleSet) -> String {
    format!(
        "--samples: only the named samples ({}) are decided on; the policy's error rates hold only if their choice does not \
         depend on answers",
        samples.n_samples()
    )
}

/// How candidates that were tried on the same test data are counted. Each attempt is tested at a stricter level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempts {
    /// They are not: this candidate is the only one.
    Alone,
    /// This candidate has this number, from 1.
    Number(u64),
    /// The decisions in this folder give the number.
    CountedIn(PathBuf),
}
