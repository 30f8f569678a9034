//! Flags of adapters, for every command that takes a model.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::eval::AdapterRequest;

/// Adapters over the model.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Adapters")]
pub(super) struct AdapterOptions {
    /// Adapter over the model; can be repeated
    ///
    /// A folder of PEFT or of LLaVA's trainer, a projector, a merged checkpoint, or ORG/NAME[@REVISION] on the hub. Each adapter
    /// is its own run, next to the base. NAME= names its run.
    #[arg(long = "adapter", value_name = "[NAME=]DIR")]
    pub(super) adapters: Vec<String>,
    /// Do not evaluate the model without an adapter
    #[arg(long, hide_short_help = true)]
    pub(super) no_base: bool,
    /// Merge each adapter into the weights
    ///
    /// The answers are those of a merged checkpoint. By default, updates are computed separately, as PEFT does.
    #[arg(long, hide_short_help = true)]
    pub(super) merge: bool,
    /// Accept an adapter that changes nothing
    #[arg(long, hide_short_help = true)]
    pub(super) allow_noop_adapter: bool,
}

impl AdapterOptions {
    /// Whether the model without adapter is a run.
    pub(super) fn has_base(&self) -> bool {
        // A configuration file that commands share may say `no_base` where there is no adapter.
        !self.no_base || self.adapters.is_empty()
    }

    /// The adapters by name and path.
    pub(super) fn requests(&self) -> Result<Vec<AdapterRequest>> {
        self.adapters.iter().map(|text| request(text)).collect()
    }
}

/// The adapter that `DIR` or `NAME=DIR` asks for. A path that exists is taken at its word, even with `=` in it.
pub(super) fn request(text: &str) -> Result<AdapterRequest> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) if !Path::new(text).exists() => (Some(name), path),
        _ => (None, text),
    };
    if let Some(name) = name {
        ensure!(
            !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != "..",
            "--adapter {text}: `{name}` cannot be the name of a run's folder"
        );
    }
    if path.is_empty() {
        bail!("--adapter {text} names no folder; hint: --adapter NAME=DIR");
    }
    Ok(AdapterRequest::new(name.map(str::to_owned), path.into()))
}
