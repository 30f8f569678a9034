//! Trials to a [`Summary`], two runs' trials to what was forgotten; pure.

mod forgetting;
mod pairing;
mod summarise;
mod summary;

pub use forgetting::{Forgetting, forgetting};
pub use pairing::{Pairing, pair};
pub use summarise::{summarise, uncertain_share};
pub use summary::*;
