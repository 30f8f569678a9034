//! Where a decision goes.
#![expect(clippy::disallowed_methods, reason = "writes the files that a person or a pipeline named")]

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::{DecisionFormat, OutputOptions};
use crate::gate::Decision;
use crate::record;
use crate::report;

/// Prints the decision and writes the files that were asked for; in GitHub Actions it also adds to the job's summary and
/// annotates.
pub(super) fn write(options: &OutputOptions, decision: &Decision, out: &mut dyn Write) -> Result<()> {
    let json = report::decision_json(decision);
    let markdown = report::decision_markdown(decision);
    for (path, text) in
        [(&options.out, &json), (&options.markdown, &markdown), (&options.junit, &report::junit(decision))]
    {
        if let Some(path) = path {
            write_file(path, text)?;
        }
    }
    if let Some(path) = environment("GITHUB_STEP_SUMMARY") {
        append(Path::new(&path), &markdown)?;
    }
    match options.format {
        DecisionFormat::Table => write!(out, "{}", report::decision_table(decision))?,
        DecisionFormat::Json => write!(out, "{json}")?,
        DecisionFormat::Markdown => write!(out, "{markdown}")?,
    }
    // A document on standard output must stay one.
    if environment("GITHUB_ACTIONS").is_some_and(|value| value == "true") && options.format == DecisionFormat::Table {
        write!(out, "{}", report::annotations(decision))?;
    }
    Ok(())
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().with_context(|| format!("`{}` names no file", path.display()))?;
    Ok(record::write_file(dir, &name.to_string_lossy(), text.as_bytes())?)
}

fn append(path: &Path, text: &str) -> Result<()> {
    let writing = || format!("failed to add to the job's summary `{}`", path.display());
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).with_context(writing)?;
    file.write_all(text.as_bytes()).with_context(writing)
}
