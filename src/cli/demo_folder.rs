//! Where `emt demo` writes when no folder is given: a demo that was interrupted goes on in its own folder.
#![expect(clippy::disallowed_methods, reason = "looks at what a folder holds")]

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::record;

/// What the demo in a folder was asked for.
const NAME: &str = "demo.json";
/// Written last: its absence shows that the demo has not ended.
const LAST_FILE: &str = "report.html";

/// What decides the files of a demo.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Seed of the fine-tunes.
    pub seed: u64,
    /// Images per dataset.
    pub limit: usize,
    /// Epochs of the fine-tunes, where they were given.
    pub epochs: Option<usize>,
}

impl Asked {
    fn value(self) -> Value {
        let Self { seed, limit, epochs } = self;
        let version = env!("CARGO_PKG_VERSION");
        json!({ "schema": "emt.demo/1", "version": version, "seed": seed, "limit": limit, "epochs": epochs })
    }
}

/// The first of `reports/demo`, `reports/demo-2`, … that does not exist, that holds the same demo, unfinished, or that holds
/// nothing but the charts that come with the repository.
pub(super) fn find(reports: &Path, asked: Asked) -> PathBuf {
    let named = |number: usize| if number == 1 { "demo".to_owned() } else { format!("demo-{number}") };
    let mut folders = (1..).map(|number| reports.join(named(number)));
    folders
        .find(|dir| !dir.exists() || goes_on(dir, asked) || is_of_a_clone(dir))
        .unwrap_or_else(|| reports.join("demo"))
}

/// Whether the folder holds the demo that is `asked` for, and not its last file; or a demo of which nothing was computed.
fn goes_on(dir: &Path, asked: Asked) -> bool {
    let recorded = record::read_text(&dir.join(NAME)).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let Some(recorded) = recorded else { return false };
    let n_entries = std::fs::read_dir(dir).map_or(0, Iterator::count);
    n_entries == 1 || (recorded == asked.value() && !dir.join(LAST_FILE).exists())
}

/// Whether the folder is as a clone has it: the demo's rose and no run.
fn is_of_a_clone(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    let names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    !names.is_empty() && names.iter().all(|name| name == "rose.svg" || name == "rose.png")
}

/// Notes in `dir` which demo it is the folder of.
pub(super) fn note(dir: &Path, asked: Asked) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    Ok(record::write_file(dir, NAME, format!("{:#}\n", asked.value()).as_bytes())?)
}

#[cfg(test)]
mod tests;
