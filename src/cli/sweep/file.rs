//! The file of a sweep: keys are flags of `emt finetune`, and a table per arm overrides them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::error::{ContextKind, ContextValue};
use clap::{FromArgMatches, error::ErrorKind};
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::super::finetune::FinetuneArgs;
use super::super::{config_file, forms};
use crate::compare::SweepOptions;
use crate::domain::nearest;

/// The command whose flags are keys.
const COMMAND: &str = "finetune";

/// Keys of the file itself.
const SEEDS: &str = "seeds";
const TOLERANCE: &str = "gain_tolerance";
const ARMS: &str = "arms";
const NEW: &str = "new";

/// Flags that a sweep sets itself, each with what is to be done instead.
const SET_BY_SWEEP: [(&str, &str); 4] = [
    ("out", "each training has a folder in --out of `emt sweep`"),
    ("seed", "write `seeds = [0, 1]` at the top of the file"),
    ("fresh", "give another folder with --out"),
    (ARMS, "a table [arms.NAME] cannot hold another"),
];

/// Keys that hold for the whole sweep.
const ONLY_SHARED: [&str; 3] = [SEEDS, TOLERANCE, "model"];

/// A sweep, as its file describes it.
#[derive(Debug)]
pub(super) struct SweepFile {
    /// The seeds of every arm.
    pub seeds: Vec<u64>,
    /// Gains that differ by no more than this are equal.
    pub gain_tolerance: f64,
    /// In the order of the file.
    pub arms: Vec<Arm>,
}

/// One arm.
#[derive(Debug)]
pub(super) struct Arm {
    /// The name of its table, and of its folder.
    pub name: String,
    /// The datasets that it is to learn; `None` is all that it trains on.
    pub new: Option<Vec<String>>,
    /// Its flags, those that all arms share among them.
    entries: Vec<Entry>,
    /// The file, for messages.
    file: PathBuf,
}

/// A key of the file as a flag.
#[derive(Clone, Debug)]
struct Entry {
    long: String,
    /// From 1.
    line: usize,
    words: Vec<OsString>,
    /// Whether it stands in the arm's own table.
    is_own: bool,
}

/// A table of the file: its keys with their lines, from 1, in the order of the file.
struct Keys<'a> {
    /// `[arms.lora]`; `None` at the top.
    table: Option<String>,
    entries: Vec<(usize, &'a str, &'a Value)>,
}

impl SweepFile {
    /// Reads the text of the file at `path`; `command` is the program's description.
    pub fn parse(path: &Path, text: &str, command: &clap::Command) -> Result<Self> {
        let place = || format!("failed to read `{}`", path.display());
        let table: Table = toml::from_str(text).with_context(place)?;
        let spans = DeTable::parse(text).map_err(|error| anyhow!("{error}")).with_context(place)?;
        let reader = Reader { path, text, command: command.clone(), spans: spans.get_ref() };
        let top = reader.keys(&table, None);
        let shared = reader.entries(&top, false)?;
        let shared_new = table.get(NEW).map(names).transpose().with_context(place)?;
        let Some(Value::Table(arms)) = table.get(ARMS) else {
            bail!(
                "`{}` has no arms; hint: write a table for each, as in [arms.lora] with `method = \"lora\"`",
                path.display()
            )
        };
        let mut found: Vec<(usize, Arm)> = Vec::new();
        for (name, arm) in arms {
            found.push(reader.arm(name, arm, &shared, shared_new.as_ref())?);
        }
        found.sort_by_key(|(line, _)| *line);
        let file = Self {
            seeds: seeds(table.get(SEEDS)).with_context(place)?,
            gain_tolerance: gain_tolerance(table.get(TOLERANCE)).with_context(place)?,
            arms: found.into_iter().map(|(_, arm)| arm).collect(),
        };
        ensure!(!file.arms.is_empty(), "`{}` has no arms", path.display());
        file.refuse_idle(command, &shared, path)?;
        Ok(file)
    }

    /// Refuses a shared key that no arm uses.
    fn refuse_idle(&self, command: &clap::Command, shared: &[Entry], path: &Path) -> Result<()> {
        let used: Vec<BTreeSet<String>> = self.arms.iter().map(|arm| arm.used(command)).collect::<Result<_>>()?;
        for Entry { long, line, .. } in shared {
            let is_replaced = self.arms.iter().all(|arm| arm.entries.iter().any(|own| own.is_own && own.long == *long));
            ensure!(
                is_replaced || used.iter().any(|used| used.contains(long)),
                "in `{}`, line {line}: `{}` has no effect on any arm; hint: leave it out",
                path.display(),
                key(long)
            );
        }
        Ok(())
    }
}

/// Reads the tables of one file.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    command: clap::Command,
    spans: &'a DeTable<'a>,
}

impl Reader<'_> {
    /// The keys of `table`, which is the top of the file or that of an arm.
    fn keys<'t>(&self, table: &'t Table, arm: Option<&str>) -> Keys<'t> {
        let spans = match arm {
            None => Some(self.spans),
            Some(arm) => inner(self.spans, ARMS).and_then(|arms| inner(arms, arm)),
        };
        let mut entries: Vec<(usize, &str, &Value)> = table
            .iter()
            .map(|(name, value)| {
                let found = spans.and_then(|spans| spans.keys().find(|known| known.get_ref() == name.as_str()));
                let start = found.map_or(0, |known| known.span().start);
                (self.line(start), name.as_str(), value)
            })
            .collect();
        entries.sort_by_key(|(line, ..)| *line);
        Keys { table: arm.map(|arm| format!("[{ARMS}.{arm}]")), entries }
    }

    fn line(&self, start: usize) -> usize {
        1 + self.text.get(..start).unwrap_or_default().matches('\n').count()
    }

    fn place(&self, table: Option<&str>, line: usize) -> String {
        let table = table.map(|table| format!(", table {table}")).unwrap_or_default();
        format!("in `{}`{table}, line {line}", self.path.display())
    }

    /// The flags that the keys of a table stand for; keys of the file itself are passed over.
    fn entries(&self, keys: &Keys<'_>, is_own: bool) -> Result<Vec<Entry>> {
        let finetune = self.command.find_subcommand(COMMAND).context("there is no such command")?;
        let mut entries = Vec::new();
        for &(line, name, value) in &keys.entries {
            if name == NEW || (!is_own && [SEEDS, TOLERANCE, ARMS].contains(&name)) {
                continue;
            }
            let place = || self.place(keys.table.as_deref(), line);
            if let Some((_, hint)) = SET_BY_SWEEP.iter().find(|(set, _)| *set == name) {
                return Err(anyhow!("a sweep sets `{name}` itself; hint: {hint}")).with_context(place);
            }
            if is_own && ONLY_SHARED.contains(&name) {
                return Err(anyhow!("`{name}` is the same for all arms; hint: write it at the top of the file"))
                    .with_context(place);
            }
            let long = name.replace('_', "-");
            let Some(argument) = finetune.get_arguments().find(|argument| argument.get_long() == Some(&long)) else {
                return Err(unknown(name, finetune, is_own)).with_context(place);
            };
            let words = config_file::flags(argument, &long, name, value).with_context(place)?;
            entries.push(Entry { long, line, words, is_own });
        }
        Ok(entries)
    }

    /// The arm of the table `name`, with its line.
    fn arm(&self, name: &str, value: &Value, shared: &[Entry], new: Option<&Vec<String>>) -> Result<(usize, Arm)> {
        let found = inner(self.spans, ARMS).and_then(|arms| arms.keys().find(|known| known.get_ref() == name));
        let line = self.line(found.map_or(0, |known| known.span().start));
        let place = || self.place(Some(&format!("[{ARMS}.{name}]")), line);
        let Value::Table(table) = value else {
            return Err(anyhow!("an arm is a table; hint: [{ARMS}.{name}]")).with_context(place);
        };
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_-+".contains(letter);
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(anyhow!("the arm's name is a folder's; hint: letters, digits, `-`, `_` and `+`"))
                .with_context(place);
        }
        let own = self.entries(&self.keys(table, Some(name)), true)?;
        let is_replaced = |entry: &&Entry| own.iter().any(|own| own.long == entry.long);
        let entries = shared.iter().filter(|entry| !is_replaced(entry)).cloned().chain(own.iter().cloned()).collect();
        let new = match table.get(NEW) {
            Some(own) => Some(names(own).with_context(place)?),
            None => new.cloned(),
        };
        let arm = Arm { name: name.to_owned(), new, entries, file: self.path.to_owned() };
        // A mistake is told before anything is trained.
        arm.arguments(&self.command, 0, Path::new("out"), &[])?;
        Ok((line, arm))
    }
}

fn inner<'a>(table: &'a DeTable<'a>, name: &str) -> Option<&'a DeTable<'a>> {
    let (_, value) = table.iter().find(|(known, _)| known.get_ref() == name)?;
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn unknown(name: &str, finetune: &clap::Command, is_own: bool) -> anyhow::Error {
    let is_set = |long: &str| SET_BY_SWEEP.iter().any(|(set, _)| *set == long);
    let flags = finetune.get_arguments().filter_map(clap::Arg::get_long).filter(|long| !is_set(long)).map(key);
    let of_file = if is_own { &[NEW][..] } else { &[SEEDS, TOLERANCE, ARMS, NEW] };
    let keys: Vec<String> = flags.chain(of_file.iter().map(|key| (*key).to_owned())).collect();
    let known: Vec<&str> = keys.iter().map(String::as_str).collect();
    match nearest(name, &known) {
        Some(meant) => anyhow!("`{name}` is no flag of `emt finetune`; hint: did you mean `{meant}`?"),
        None => anyhow!(
            "`{name}` is no flag of `emt finetune`; hint: keys are the flags of `emt finetune --help`, with underscores for dashes"
        ),
    }
}

/// A flag's name as a key.
fn key(long: &str) -> String {
    long.replace('-', "_")
}

/// A list of names, or names separated by commas.
fn names(value: &Value) -> Result<Vec<String>> {
    let names: Vec<String> = match value {
        Value::String(text) => {
            text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
        }
        Value::Array(items) => {
            let name = |item: &Value| item.as_str().map(str::to_owned);
            items.iter().map(name).collect::<Option<_>>().context("`new` is a list of datasets' names")?
        }
        _ => bail!("`new` is a list of datasets' names"),
    };
    ensure!(!names.is_empty(), "`new` names no dataset; hint: leave it out, and all that is trained on is new");
    Ok(names)
}

fn seeds(value: Option<&Value>) -> Result<Vec<u64>> {
    let Some(value) = value else { return Ok(vec![0]) };
    let items = value.as_array().context("`seeds` must be a list of numbers, as in [0, 1, 2]")?;
    let seed = |item: &Value| item.as_integer().and_then(|seed| u64::try_from(seed).ok());
    let seeds: Vec<u64> =
        items.iter().map(seed).collect::<Option<_>>().context("`seeds` must be a list of numbers, as in [0, 1, 2]")?;
    ensure!(!seeds.is_empty(), "`seeds` is empty; hint: leave it out for seed 0");
    let distinct: BTreeSet<u64> = seeds.iter().copied().collect();
    ensure!(distinct.len() == seeds.len(), "`seeds` names a seed twice");
    Ok(seeds)
}

fn gain_tolerance(value: Option<&Value>) -> Result<f64> {
    let Some(value) = value else { return Ok(SweepOptions::default().gain_tolerance) };
    let number = value.as_float().or_else(|| value.as_integer().map(|number| number as f64));
    let number = number.filter(|number| (0.0..1.0).contains(number));
    number.context("`gain_tolerance` must be a share of the images from 0 to below 1, as 0.02 for 2 points")
}

impl Arm {
    /// The flags of a training, and what identifies its settings: its flags without the folder.
    pub fn arguments(
        &self,
        command: &clap::Command,
        seed: u64,
        out: &Path,
        further: &[OsString],
    ) -> Result<(FinetuneArgs, Vec<String>)> {
        let mut entries = self.entries.clone();
        loop {
            let of_file: Vec<&OsString> = entries.iter().flat_map(|entry| &entry.words).collect();
            let shown = of_file.iter().map(|word| word.to_string_lossy().into_owned());
            let mut settings: Vec<String> = shown.chain([format!("--seed={seed}")]).collect();
            settings.sort();
            let mut words: Vec<OsString> = vec!["emt".into(), COMMAND.into()];
            words.extend(of_file.into_iter().cloned());
            words.push(format!("--seed={seed}").into());
            words.extend(["--out".into(), out.into()]);
            words.extend(further.iter().cloned());
            let matches = command.clone().try_get_matches_from(&words).map_err(|error| self.error(&error))?;
            let shared: Vec<&str> =
                entries.iter().filter(|entry| !entry.is_own).map(|entry| entry.long.as_str()).collect();
            // What another arm needs has no effect here.
            let unused = forms::unused(command, &matches, &shared);
            if unused.is_empty() {
                let own: Vec<OsString> =
                    entries.iter().filter(|entry| entry.is_own).flat_map(|entry| entry.words.clone()).collect();
                forms::refuse_unused(command, &matches, &own)
                    .with_context(|| format!("in `{}`, table [{ARMS}.{}]", self.file.display(), self.name))?;
                let matches = matches.subcommand_matches(COMMAND).context("there is no such command")?;
                return Ok((FinetuneArgs::from_arg_matches(matches)?, settings));
            }
            entries.retain(|entry| !unused.iter().any(|(long, _)| *long == entry.long));
        }
    }

    /// Whether the file names this flag for the arm.
    pub fn sets(&self, long: &str) -> bool {
        self.entries.iter().any(|entry| entry.long == long)
    }

    /// The shared flags that the arm uses.
    fn used(&self, command: &clap::Command) -> Result<BTreeSet<String>> {
        let (_, settings) = self.arguments(command, 0, Path::new("out"), &[])?;
        let is_used = |entry: &&Entry| {
            let long = format!("--{}", entry.long);
            entry.words.is_empty() || settings.iter().any(|word| word.split('=').next() == Some(&long))
        };
        Ok(self.entries.iter().filter(is_used).map(|entry| entry.long.clone()).collect())
    }

    /// An error of clap's, with its place in the file.
    fn error(&self, error: &clap::Error) -> anyhow::Error {
        let table = format!("in `{}`, table [{ARMS}.{}]", self.file.display(), self.name);
        if let (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) =
            (error.kind(), error.get(ContextKind::InvalidArg))
        {
            let long = |text: &String| text.trim_start_matches('-').split([' ', '=']).next().map(key);
            let missing: Vec<String> = missing.iter().filter_map(long).map(|key| format!("`{key}`")).collect();
            return anyhow!(
                "{table}: {} is missing; hint: write it there, or at the top of the file for all arms",
                missing.join(" and ")
            );
        }
        let rendered = error.to_string();
        let is_message = |line: &&str| !line.starts_with("Usage") && !line.starts_with("For more");
        let message: Vec<&str> = rendered.lines().take_while(is_message).flat_map(str::split_whitespace).collect();
        let message = message.join(" ");
        let message = message.trim_start_matches("error: ");
        let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
            return anyhow!("{table}: {message}");
        };
        let long = argument.trim_start_matches('-').split([' ', '=']).next().unwrap_or_default();
        match self.entries.iter().find(|entry| entry.long == long) {
            Some(Entry { line, .. }) => anyhow!("{table}, line {line}: `{}`: {message}", key(long)),
            None => anyhow!("{table}: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: &str = "model = \"embedded\"\ntrain = \"embedded/mnist\"\nepochs = 2\nlimit = 40\n";

    fn parse(text: &str) -> Result<SweepFile> {
        SweepFile::parse(Path::new("sweep.toml"), text, &super::super::super::command())
    }

    fn arguments(arm: &Arm, seed: u64) -> FinetuneArgs {
        arm.arguments(&super::super::super::command(), seed, Path::new("there"), &[]).unwrap().0
    }

    #[test]
    fn an_arm_has_the_shared_flags_under_its_own() {
        let text = format!(
            "{SHARED}seeds = [0, 3]\nrank = 4\nnew = [\"embedded/mnist\"]\n\n[arms.two]\nmethod = \"lora\"\nepochs = 5\nno_projector = true\n\
             \n[arms.\"a+b\"]\nmethod = \"linear\"\neval_datasets = [\"embedded/mnist\", \"embedded/cifar10\"]\n"
        );
        let file = parse(&text).unwrap();
        assert_eq!((file.seeds.as_slice(), file.gain_tolerance), (&[0, 3][..], 0.02));
        let names: Vec<&str> = file.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["two", "a+b"], "in the order of the file");
        let [two, other] = [0, 1].map(|arm| arguments(&file.arms[arm], 3));
        assert_eq!((two.method.name(), two.seed, two.limit, two.no_projector), ("lora".to_owned(), 3, Some(40), true));
        assert_eq!(two.hyperparameters().unwrap().n_epochs, 5);
        assert_eq!(two.hyperparameters().unwrap().lora.rank, 4);
        assert_eq!(two.out, Path::new("there"));
        assert_eq!(other.hyperparameters().unwrap().n_epochs, 2);
        assert_eq!(other.eval_datasets.as_deref(), Some("embedded/mnist,embedded/cifar10"));
        assert_eq!(file.arms[1].new, Some(vec!["embedded/mnist".to_owned()]));
    }

    /// A text, and words that the message about it must hold.
    #[test]
    fn a_mistake_is_told_with_its_file_table_line_and_mend() {
        let with = |rest: &str| format!("{SHARED}{rest}");
        let lora = "[arms.lora]\nmethod = \"lora\"\n";
        let cases: Vec<(String, &[&str])> = vec![
            (with(&format!("{lora}rnak = 4\n")), &["sweep.toml", "[arms.lora]", "line 7", "did you mean `rank`"]),
            (with(&format!("epoch = 4\n{lora}")), &["line 5", "did you mean `epochs`"]),
            (with(&format!("seed = 4\n{lora}")), &["line 5", "sets `seed` itself", "seeds = [0, 1]"]),
            (with(&format!("{lora}seeds = [1]\n")), &["line 7", "same for all arms", "top of the file"]),
            (with(&format!("{lora}out = \"x\"\n")), &["line 7", "`out`", "--out"]),
            (with(&format!("{lora}rank = \"many\"\n")), &["[arms.lora]", "line 7", "`rank`", "many"]),
            (with(&format!("{lora}rank = {{ a = 1 }}\n")), &["line 7", "`rank`", "is a table"]),
            (with("[arms.x]\nmethod = \"qlora\"\n"), &["[arms.x]", "line 6", "qlora", "lora"]),
            (with("[arms.x]\nepochs = 1\n"), &["[arms.x]", "`method` is missing"]),
            (with("[arms.x]\nmethod = \"linear\"\nrank = 4\n"), &["[arms.x]", "--rank has no effect", "linear"]),
            (with("rank = 4\n[arms.x]\nmethod = \"linear\"\n"), &["line 5", "`rank` has no effect on any arm"]),
            (with("[arms.\"a/b\"]\nmethod = \"linear\"\n"), &["[arms.a/b]", "name is a folder's"]),
            (with("arms = 3\n"), &["no arms", "[arms.lora]"]),
            (with(""), &["no arms", "[arms.lora]"]),
            (with(&format!("seeds = [0, 0]\n{lora}")), &["sweep.toml", "twice"]),
            (with(&format!("seeds = 3\n{lora}")), &["sweep.toml", "list of numbers"]),
            (with(&format!("gain_tolerance = 2\n{lora}")), &["gain_tolerance", "0.02"]),
            (with(&format!("new = []\n{lora}")), &["`new` names no dataset"]),
            ("model = 'embedded\n".to_owned(), &["sweep.toml", "line 1"]),
        ];
        for (text, words) in cases {
            let message = format!("{:#}", parse(&text).unwrap_err());
            for word in words {
                assert!(message.contains(word), "{word}: {message}\n{text}");
            }
        }
    }

    #[test]
    fn a_shared_flag_is_passed_over_by_arms_that_cannot_use_it() {
        let text = format!("{SHARED}rank = 4\n[arms.a]\nmethod = \"linear\"\n[arms.b]\nmethod = \"lora\"\n");
        let file = parse(&text).unwrap();
        let settings =
            |arm: usize| file.arms[arm].arguments(&super::super::super::command(), 0, Path::new("out"), &[]).unwrap().1;
        assert!(!settings(0).contains(&"--rank=4".to_owned()) && settings(1).contains(&"--rank=4".to_owned()));
        assert!(settings(0).contains(&"--seed=0".to_owned()));
    }
}
