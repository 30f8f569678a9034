//! Trials to a [`Summary`]; pure.

mod summary;

pub use summary::*;
