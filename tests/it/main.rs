//! One test binary, a module a theme; those of a command drive the real program.

mod architecture;
// mod resume;
mod support;
