#![doc = include_str!("ARCHITECTURE.md")]
// Tests read fixtures, write scratch files and say what they skip; the rules are about the program.
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::print_stderr, clippy::type_complexity))]

pub mod domain;

pub mod stats;

pub mod taxonomy;

pub mod compare;

pub mod gate;

pub mod pickle;

pub mod assets;

pub mod api;

pub mod dataset;

pub mod prompting;

pub mod model;

pub mod judging;

pub mod record;

pub mod eval;

pub mod finetune;

pub mod chart;

pub mod report;

pub mod manual;

pub mod cli;
