//! May it be released? A policy and a comparison give a decision; pure.
//!
//! [`decide`] is for finished runs (a fixed design), [`Sequence`] for a comparison that grows look by look and stops as soon
//! as it may. Both hand each dataset's evidence to the same rules.

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
