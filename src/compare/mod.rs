//! Trials to a [`Summary`], two runs' trials to what was forgotten ([`Comparison`]); pure.

mod comparison;
mod forgetting;
mod pair_table;
mod pairing;
mod summarise;
mod summary;

pub use comparison::*;
pub use forgetting::{Forgetting, forgetting};
pub use pair_table::PairTable;
pub use pairing::{Pairing, pair};
pub use summarise::{summarise, uncertain_share};
pub use summary::*;
