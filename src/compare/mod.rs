//! Trials to a [`Summary`]; pure.

mod pairing;
mod summarise;
mod summary;

pub use pairing::{Pairing, pair};
pub use summarise::{summarise, uncertain_share};
pub use summary::*;
