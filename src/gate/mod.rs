//! Decides whether a candidate may be released, from a policy and a comparison; pure.
//!
//! [`decide`] is for finished runs (a fixed design). [`Sequence`] is for a comparison that grows look by look and stops
//! as early as possible. Both apply the same rules to each dataset's evidence.

mod decide;
mod decision;
mod evidence;
mod family;
mod judges;
mod limits;
mod policy;
mod sequence;
#[cfg(test)]
mod tests;

pub use decide::{Corrections, decide, no_corrections};
pub use decision::*;
pub use evidence::reachable;
pub use policy::{DEFAULT_POLICY, DatasetPolicy, JudgesMustAgree, Policy, PolicyError, alpha_of_attempt};
pub use sequence::{Look, Schedule, Sequence};
