//! Where a decision is printed and written.
#![expect(clippy::disallowed_methods, reason = "writes the files that a person or a pipeline named")]

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{DecisionFormat, OutputOptions, RuleOptions};
use crate::gate::Decision;
use crate::record;
use crate::report;

/// The files of a run that a decision must not take the place of.
const OF_A_RUN: [&str; 3] = ["run.json", "trials.jsonl", "summary.json"];

/// Refuses, before anything is computed, to write one file over another that matters.
pub(super) fn check(options: &OutputOptions, rules: &RuleOptions) -> Result<()> {
    let flags = [("--out", &options.out), ("--junit", &options.junit), ("--markdown", &options.markdown)];
    let given: Vec<(&str, &PathBuf)> = flags.iter().filter_map(|(flag, path)| Some((*flag, path.as_ref()?))).collect();
    for (index, (flag, path)) in given.iter().enumerate() {
        let shown = path.display();
        if let Some((other, _)) = given[..index].iter().find(|(_, other)| other == path) {
            bail!("{other} and {flag} both name `{shown}`; hint: give each a file of its own");
        }
        if path.file_name().is_some_and(|name| OF_A_RUN.iter().any(|known| name == *known)) {
            bail!("{flag} {shown} would overwrite a run's own file; hint: another name, such as decision.json");
        }
        if rules.policy.as_ref() == Some(*path) {
            bail!("{flag} {shown} would overwrite the policy; hint: another name, such as decision.json");
        }
        if path.is_dir() {
            bail!(
                "{flag} {shown} is a folder; hint: name a file in it, such as {}",
                path.join("decision.json").display()
            );
        }
    }
    Ok(())
}

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
