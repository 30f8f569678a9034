//! The tests that drive the real thing: one module a command or a part.

mod chat;
mod data;
mod download;
mod http_server;
mod judge;
