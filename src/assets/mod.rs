//! Files that are compiled into the binary.

pub mod font;
pub mod paper;
