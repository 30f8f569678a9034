//! The tests that drive the real thing: one module a command or a part.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests write files, read the environment, and say what they skip"
)]

mod chat;
mod download;
mod http_server;
mod judge;
