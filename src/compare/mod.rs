//! Trials to a [`Summary`], two runs' trials to what was forgotten ([`Comparison`]); pure.

mod bare_answer;
mod comparability;
mod comparison;
mod forgetting;
mod images;
mod measures;
mod pair_table;
mod pairing;
mod recode;
mod runs;
mod summarise;
mod summary;

pub use bare_answer::bare_answer;
pub use comparability::{SAMPLES, field_differences};
pub use comparison::*;
pub use forgetting::{Forgetting, forgetting};
pub use pair_table::PairTable;
pub use pairing::{Pairing, pair};
pub use recode::recode;
pub use runs::{Candidate, RunView, compare_runs};
pub use summarise::{summarise, uncertain_share};
pub use summary::*;
