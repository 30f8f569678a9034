//! The `emt` binary.

fn main() {}
