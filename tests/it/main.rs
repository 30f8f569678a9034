//! One test binary, a module a theme; those of a command drive the real program.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests write files, read the environment, and say what they skip"
)]

mod adapters;
mod architecture;
mod bad_input;
mod calibrate;
mod calibrate_simulation;
mod candidate_settings;
mod chat;
mod chat_captures;
mod chromium;
mod comparison_html;
mod data;
mod demo;
mod diagnose;
mod download;
mod embedded;
mod eval;
mod eval_judged;
mod families;
mod feature_cache;
mod finetune;
mod flags;
mod folders;
mod gate;
mod gate_history;
mod gate_messages;
mod gate_next;
mod gate_safety;
mod gate_simulation;
mod generation;
mod http_server;
mod hub;
mod hub_data;
mod hub_datasets;
mod judge;
mod judge_check;
mod leaks;
mod leftovers;
mod manual;
mod miniature;
mod model_server;
mod models;
mod package;
mod paper;
mod probe;
mod qwen;
mod recover;
mod refused_fields;
mod report;
mod resume;
mod samples;
mod score;
mod served;
mod shell;
mod sources;
mod support;
mod sweep;
mod tables;
mod text_files;
mod thoughts;
mod tiled;
