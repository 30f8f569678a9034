#![doc = include_str!("ARCHITECTURE.md")]
//!
//! # An evaluation from Rust
//!
//! The miniature on twenty of its own digits:
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! use emt::dataset::{Catalog, DataRoots, OpenRequest, open};
//! use emt::{model::checkpoint::weights::Hub, study::Evaluate};
//!
//! let digits = OpenRequest { text: "embedded/mnist", ..OpenRequest::default() };
//! let digits = open(&Catalog::embedded(), &DataRoots::default(), &digits)?;
//! let (folder, hub) = (tempfile::tempdir()?, Hub::new(None, None, String::new(), |_| {}));
//! let defaults = Evaluate::new("embedded".as_ref(), &hub, vec![digits], folder.path())?;
//! let evaluation = Evaluate { limit: Some(20), ..defaults }.run(&|| false, &mut ())?.expect("nobody stops it");
//! let accuracy = evaluation.runs[0].accuracy().expect("answers were scored");
//! println!("{:.0} % of 20 digits are right", accuracy * 100.0);
//! # assert!(accuracy > 0.3, "{accuracy}");
//! # Ok(())
//! # }
//! ```
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

pub mod diagnose;

pub mod study;

pub mod chart;

pub mod report;

pub mod manual;

pub mod cli;
