#![doc = include_str!("ARCHITECTURE.md")]

pub mod domain;

pub mod stats;

pub mod taxonomy;

pub mod compare;

pub mod assets;

pub mod api;

pub mod dataset;

pub mod prompting;

pub mod model;

pub mod judging;

pub mod record;

pub mod eval;

pub mod chart;

pub mod report;

pub mod cli;
