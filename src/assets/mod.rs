//! Files that are compiled into the binary.

pub mod catalog;
