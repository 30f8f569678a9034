//! The command that made a run, to be given again: for the folder where the run lies now, from wherever that is.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::results::command_line;
use crate::domain::text::quoted;
use crate::record::{Manifest, run_name};

/// The key of `run.json`'s environment for the working directory of the command.
pub(super) const DIRECTORY: &str = "directory";

/// What `run.json` records of the working directory, where it is known and can be written.
pub(super) fn directory() -> Option<Value> {
    Some(std::env::current_dir().ok()?.to_str()?.into())
}

/// A recorded command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordedCommand {
    words: Vec<String>,
    /// Where it was given; runs of earlier versions do not tell.
    directory: Option<PathBuf>,
}

impl RecordedCommand {
    /// The command that made, or went on with, the run of `manifest`.
    pub fn of(manifest: &Manifest) -> Option<Self> {
        let text = |key: &str| manifest.environment.get(key).and_then(Value::as_str);
        let words = words(text("command")?);
        let directory = text(DIRECTORY).map(PathBuf::from);
        (!words.is_empty()).then_some(Self { words, directory })
    }

    /// The command that runs now.
    pub fn of_this_process() -> Self {
        Self { words: words(&command_line()), directory: None }
    }

    /// Its subcommand, whatever global flags stand before it.
    pub fn subcommand(&self) -> Option<&str> {
        let mut words = self.words.iter().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--config" => {
                    words.next();
                }
                flag if flag.starts_with('-') => {}
                name => return Some(name),
            }
        }
        None
    }

    /// Whether it takes a larger `--limit` for what it made.
    pub fn takes_limit(&self) -> bool {
        matches!(self.subcommand(), Some("eval" | "gate"))
    }

    /// The same with another `--limit`.
    pub fn with_limit(mut self, n: usize) -> Self {
        self.set(&["--limit"], &n.to_string());
        self
    }

    /// The same with all samples.
    pub fn without_samples(mut self) -> Self {
        self.remove(&["--samples"]);
        self
    }

    /// The same for the run that lies in `dir` by now. Of a command that makes several runs that is the folder above, and
    /// `None` where `dir` is not called as the command would call it.
    pub fn for_run(mut self, dir: &Path) -> Option<Self> {
        let dir = std::path::absolute(dir).ok()?;
        let is_gate = self.subcommand() == Some("gate");
        let runs = self.runs();
        let folder = match runs.is_empty() {
            true => dir.as_path(),
            false => dir.parent().filter(|_| runs.contains(&run_name(&dir)))?,
        };
        let shown = match self.is_given_here() {
            // As short as a person would type it.
            true => std::env::current_dir().ok().and_then(|here| Some(folder.strip_prefix(here).ok()?.to_owned())),
            false => None,
        };
        let shown = shown.filter(|short| !short.as_os_str().is_empty()).unwrap_or_else(|| folder.to_owned());
        self.set(if is_gate { &["--runs"] } else { &["--out", "-o"] }, &shown.display().to_string());
        Some(self)
    }

    /// As it is typed, quoted for a shell, from where the program runs now.
    pub fn text(&self) -> String {
        let words: Vec<String> = self.words.iter().map(|word| quoted(word)).collect();
        let command = words.join(" ");
        match &self.directory {
            Some(dir) if !self.is_given_here() && dir.is_dir() => {
                format!("cd {} && {command}", quoted(&dir.display().to_string()))
            }
            _ => command,
        }
    }

    fn is_given_here(&self) -> bool {
        let here = std::env::current_dir().ok();
        self.directory.is_none() || self.directory == here
    }

    /// The names of the runs where it makes several; none where it makes one.
    fn runs(&self) -> Vec<String> {
        let named = |text: &str| match text.split_once('=') {
            Some((name, _)) if !Path::new(text).exists() => name.to_owned(),
            _ => text.to_owned(),
        };
        let of_adapter = |text: &String| {
            let name = named(text);
            Path::new(&name).file_name().map_or(name.clone(), |last| last.to_string_lossy().into_owned())
        };
        let mut names: Vec<String> = self.values("--adapter").iter().map(of_adapter).collect();
        if !names.is_empty() && !self.words.iter().any(|word| word == "--no-base") {
            names.push("base".to_owned());
        }
        let served = self.values("--served-model");
        names.extend(served.iter().flat_map(|list| list.split(',')).map(|text| named(text).replace(['/', '\\'], "--")));
        if names.len() > 1 { names } else { Vec::new() }
    }

    /// What was given with a flag, in order.
    pub(super) fn values(&self, flag: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (place, word) in self.words.iter().enumerate() {
            if word == flag {
                found.extend(self.words.get(place + 1).cloned());
            } else if let Some(value) = word.strip_prefix(flag).and_then(|rest| rest.strip_prefix('=')) {
                found.push(value.to_owned());
            }
        }
        found
    }

    /// Gives a flag, the first of its spellings, this one value.
    fn set(&mut self, spellings: &[&str], value: &str) {
        self.remove(spellings);
        self.words.extend(spellings.first().map(|flag| (*flag).to_owned()));
        self.words.push(value.to_owned());
    }

    /// Takes out a flag in all of its spellings, with its values.
    fn remove(&mut self, spellings: &[&str]) {
        let mut kept = Vec::with_capacity(self.words.len() + 2);
        let mut words = std::mem::take(&mut self.words).into_iter();
        while let Some(word) = words.next() {
            let is_with_value = |flag: &str| match word.strip_prefix(flag) {
                Some(rest) => rest.starts_with('=') || (!flag.starts_with("--") && !rest.is_empty()),
                None => false,
            };
            if spellings.contains(&word.as_str()) {
                words.next();
            } else if !spellings.iter().any(|flag| is_with_value(flag)) {
                kept.push(word);
            }
        }
        self.words = kept;
    }
}

/// The words of a command as [`quoted`] wrote them.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut is_open, mut is_quoted) = (Vec::new(), String::new(), false, false);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => (is_open, is_quoted) = (true, !is_quoted),
            '\\' if !is_quoted => word.extend(letters.next()),
            ' ' if !is_quoted => {
                if is_open {
                    words.push(std::mem::take(&mut word));
                }
                is_open = false;
            }
            other => {
                is_open = true;
                word.push(other);
            }
        }
    }
    if is_open {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests;
