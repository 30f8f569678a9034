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

/// The first of `reports/demo`, `reports/demo-2`, … that does not exist, or that holds the same demo, unfinished.
pub(super) fn find(reports: &Path, asked: Asked) -> PathBuf {
    let named = |number: usize| if number == 1 { "demo".to_owned() } else { format!("demo-{number}") };
    let mut folders = (1..).map(|number| reports.join(named(number)));
    folders.find(|dir| !dir.exists() || goes_on(dir, asked)).unwrap_or_else(|| reports.join("demo"))
}

/// Whether the folder holds the demo that is `asked` for, and not its last file; or a demo of which nothing was computed.
fn goes_on(dir: &Path, asked: Asked) -> bool {
    let recorded = record::read_text(&dir.join(NAME)).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let Some(recorded) = recorded else { return false };
    let n_entries = std::fs::read_dir(dir).map_or(0, Iterator::count);
    n_entries == 1 || (recorded == asked.value() && !dir.join(LAST_FILE).exists())
}

/// Notes in `dir` which demo it is the folder of.
pub(super) fn note(dir: &Path, asked: Asked) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    Ok(record::write_file(dir, NAME, format!("{:#}\n", asked.value()).as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_demo_goes_on_and_a_finished_or_another_one_is_left_alone() {
        let reports = tempfile::tempdir().unwrap();
        let asked = Asked { seed: 0, limit: 300, epochs: None };
        let at = |name: &str| reports.path().join(name);
        assert_eq!(find(reports.path(), asked), at("demo"));
        note(&at("demo"), Asked { epochs: Some(0), ..asked }).unwrap();
        assert_eq!(find(reports.path(), asked), at("demo"), "of the refused request nothing was computed");
        note(&at("demo"), asked).unwrap();
        std::fs::create_dir(at("demo/finetune")).unwrap();
        assert_eq!(find(reports.path(), asked), at("demo"), "it goes on");
        assert_eq!(find(reports.path(), Asked { seed: 1, ..asked }), at("demo-2"));
        std::fs::write(at("demo/report.html"), "").unwrap();
        assert_eq!(find(reports.path(), asked), at("demo-2"), "it has ended");
        std::fs::create_dir(at("demo-2")).unwrap();
        assert_eq!(find(reports.path(), asked), at("demo-3"), "a folder of somebody else");
    }
}
