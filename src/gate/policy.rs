//! The requirements of a release.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::compare::{DEFAULT_ALPHA, DEFAULT_MARGIN};
use crate::domain::nearest;

/// The default policy, as a documented file.
pub const DEFAULT_POLICY: &str = include_str!("default_policy.toml");

/// An error in a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The file is not TOML.
    #[error("{0}")]
    Toml(String),
    /// An unknown key.
    #[error("`{key}` is not a key of a policy{}{}", place(table), suggestion(nearest))]
    UnknownKey {
        /// The key.
        key: String,
        /// The table that contains it; empty at the top.
        table: String,
        /// The key that was probably meant.
        nearest: Option<&'static str>,
    },
    /// An unknown dataset.
    #[error("it names the dataset `{dataset}`, which {who}{}", there(nearest))]
    UnknownDataset {
        /// The name.
        dataset: String,
        /// What does not know it, such as `neither the runs nor the catalog know`.
        who: &'static str,
        /// The dataset that was probably meant.
        nearest: Option<String>,
    },
    /// An invalid value.
    #[error("`{key}`{} {reason}", place(table))]
    Value {
        /// The key.
        key: String,
        /// The table that contains it; empty at the top.
        table: String,
        /// What it must be.
        reason: String,
    },
}

fn place(table: &str) -> String {
    if table.is_empty() { String::new() } else { format!(" in [{table}]") }
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest
        .map(|key| format!("; hint: did you mean `{key}`?"))
        .unwrap_or_else(|| "; hint: `emt gate --print-policy` writes a policy with every key explained".to_owned())
}

fn there(nearest: &Option<String>) -> String {
    let meant = nearest.as_ref().map(|name| format!("; hint: did you mean `{name}`?"));
    meant.unwrap_or_else(|| {
        "; hint: `emt data list` shows the catalog, --datasets-file FILE gives another one".to_owned()
    })
}

/// Whether the verdicts of several judges must lead to the same decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgesMustAgree {
    /// They must if two judges gave verdicts.
    WhereMeasured,
    /// In addition, at least two judges must have judged 95% of the pairs.
    Required,
    /// Judges are not compared.
    No,
}

/// The requirements for one dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatasetPolicy {
    /// The largest acceptable fall of accuracy.
    pub margin: f64,
    /// The margin as a share of the baseline's accuracy beyond chance; it applies if it is smaller than `margin`.
    pub relative_margin: Option<f64>,
    /// The one-sided level of each decision, as written in the file. [`Self::level`] is the level in force.
    pub alpha: f64,
    /// The fewest pairs that can decide.
    pub min_pairs: usize,
    /// A sequential design evaluates at most this many images.
    pub max_pairs: usize,
    /// The largest unscored share of pairs that can pass.
    pub max_unscored: f64,
    /// Whether judges must agree.
    pub judges_must_agree: JudgesMustAgree,
    /// Whether the candidate was fine-tuned on the dataset.
    pub tuned_on: bool,
    /// Whether the dataset is left out.
    pub ignore: bool,
    /// The largest share of answers from the fine-tuned labels.
    pub max_leak: Option<f64>,
    /// The largest share of incorrect predictions.
    pub max_incorrect_prediction: Option<f64>,
    /// The largest share of intrinsic hallucinations.
    pub max_intrinsic_hallucination: Option<f64>,
    /// The largest share of extrinsic hallucinations.
    pub max_extrinsic_hallucination: Option<f64>,
    /// The largest fall of one class.
    pub max_class_fall: Option<f64>,
    /// The smallest ratio of the model's accuracy to the encoder's.
    pub min_retention: Option<f64>,
    /// The number of this candidate against the baseline, from 1, if attempts are counted; not a key of the file.
    #[serde(skip)]
    attempt: Option<u64>,
}

impl DatasetPolicy {
    /// The one-sided level in force: `alpha`, or this attempt's share of it.
    pub fn level(&self) -> f64 {
        self.attempt.map_or(self.alpha, |attempt| alpha_of_attempt(self.alpha, attempt))
    }
}

impl Default for DatasetPolicy {
    fn default() -> Self {
        Self {
            margin: DEFAULT_MARGIN,
            relative_margin: None,
            alpha: DEFAULT_ALPHA,
            min_pairs: 200,
            max_pairs: 2000,
            max_unscored: 0.02,
            judges_must_agree: JudgesMustAgree::WhereMeasured,
            tuned_on: false,
            ignore: false,
            max_leak: None,
            max_incorrect_prediction: None,
            max_intrinsic_hallucination: None,
            max_extrinsic_hallucination: None,
            max_class_fall: None,
            min_retention: None,
            attempt: None,
        }
    }
}

/// A release policy: defaults, and exceptions for single datasets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// For datasets without an entry.
    defaults: DatasetPolicy,
    /// By name, the full policy of a dataset.
    datasets: BTreeMap<String, DatasetPolicy>,
}

/// The keys of a policy. `tuned_on` and `ignore` are lists at the top, and booleans in a dataset's table.
const KEYS: [&str; 15] = [
    "margin",
    "relative_margin",
    "alpha",
    "min_pairs",
    "max_pairs",
    "max_unscored",
    "judges_must_agree",
    "tuned_on",
    "ignore",
    "max_leak",
    "max_incorrect_prediction",
    "max_intrinsic_hallucination",
    "max_extrinsic_hallucination",
    "max_class_fall",
    "min_retention",
];

impl Policy {
    /// Reads a policy file. Keys at the top are defaults; `[datasets.NAME]` overrides them.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| PolicyError::Toml(error.to_string()))?;
        let mut policy = Self::default();
        let (mut tuned_on, mut ignored) = (Vec::new(), Vec::new());
        for (key, value) in &table {
            match (key.as_str(), value) {
                ("datasets", Value::Table(_)) => {}
                ("datasets", _) => return Err(wrong("datasets", "", "must be a table, [datasets.NAME]")),
                ("tuned_on", value) => tuned_on = names(key, value)?,
                ("ignore", value) => ignored = names(key, value)?,
                (key, value) => set(&mut policy.defaults, key, value, "")?,
            }
        }
        for (name, overrides) in table.get("datasets").and_then(Value::as_table).into_iter().flatten() {
            let place = format!("datasets.{name}");
            let Value::Table(overrides) = overrides else {
                return Err(wrong(name, "datasets", "must be a table of keys"));
            };
            let mut of_dataset = policy.defaults.clone();
            for (key, value) in overrides {
                set(&mut of_dataset, key, value, &place)?;
            }
            policy.datasets.insert(name.clone(), of_dataset);
        }
        policy.mark_tuned_on(tuned_on);
        for name in ignored {
            policy.entry(&name).ignore = true;
        }
        Ok(policy)
    }

    /// The policy of `dataset`.
    pub fn of(&self, dataset: &str) -> &DatasetPolicy {
        self.datasets.get(dataset).unwrap_or(&self.defaults)
    }

    /// Marks datasets as fine-tuned on.
    pub fn mark_tuned_on(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            self.entry(&name).tuned_on = true;
        }
    }

    /// The datasets that the policy marks as fine-tuned on.
    pub fn tuned_on(&self) -> BTreeSet<String> {
        self.datasets.iter().filter(|(_, policy)| policy.tuned_on).map(|(name, _)| name.clone()).collect()
    }

    /// The datasets that have an entry.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.datasets.keys().map(String::as_str)
    }

    /// The [`named`](Self::named) datasets whose entry differs from the defaults in more than `tuned_on`.
    pub fn ruled(&self) -> impl Iterator<Item = &str> {
        let is_ruled = |policy: &DatasetPolicy| DatasetPolicy { tuned_on: false, ..policy.clone() } != self.defaults;
        self.datasets.iter().filter(move |(_, policy)| is_ruled(policy)).map(|(name, _)| name.as_str())
    }

    /// Refuses the first named dataset that is not in `known`, since a typo would leave its rules without effect. `who`
    /// describes `known` in the error.
    pub fn check_datasets(&self, known: &BTreeSet<String>, who: &'static str) -> Result<(), PolicyError> {
        let Some(dataset) = self.named().find(|name| !known.contains(*name)) else { return Ok(()) };
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        let nearest = nearest(dataset, &names).map(str::to_owned);
        Err(PolicyError::UnknownDataset { dataset: dataset.to_owned(), who, nearest })
    }

    /// The policy with the levels of the `attempt`-th candidate (from 1) against one baseline.
    pub fn at_attempt(mut self, attempt: u64) -> Self {
        for policy in self.datasets.values_mut().chain([&mut self.defaults]) {
            policy.attempt = Some(attempt);
        }
        self
    }

    /// The policy as decisions record it: the file's keys, and all keys of each named dataset.
    pub fn to_json(&self) -> serde_json::Value {
        let object = |policy: &DatasetPolicy| {
            let mut value = serde_json::to_value(policy).expect("a policy is plain data");
            if policy.relative_margin.is_none() {
                value["relative_margin"] = "off".into();
            }
            if policy.attempt.is_some() {
                value["alpha_in_force"] = policy.level().into();
            }
            value
        };
        let named = |is: fn(&DatasetPolicy) -> bool| -> Vec<&str> {
            self.datasets.iter().filter(|(_, policy)| is(policy)).map(|(name, _)| name.as_str()).collect()
        };
        let mut value = object(&self.defaults);
        value["tuned_on"] = named(|policy| policy.tuned_on).into();
        value["ignore"] = named(|policy| policy.ignore).into();
        value["datasets"] = self.datasets.iter().map(|(name, policy)| (name.clone(), object(policy))).collect();
        value
    }

    fn entry(&mut self, name: &str) -> &mut DatasetPolicy {
        self.datasets.entry(name.to_owned()).or_insert_with(|| self.defaults.clone())
    }
}

/// The level of the `attempt`-th test (from 1): 6 alpha / (pi^2 K^2). Over all attempts the levels sum to alpha.
pub fn alpha_of_attempt(alpha: f64, attempt: u64) -> f64 {
    let attempt = attempt.max(1) as f64;
    6.0 * alpha / (std::f64::consts::PI * attempt).powi(2)
}

fn wrong(key: &str, table: &str, reason: &str) -> PolicyError {
    PolicyError::Value { key: key.to_owned(), table: table.to_owned(), reason: reason.to_owned() }
}

fn names(key: &str, value: &Value) -> Result<Vec<String>, PolicyError> {
    let list: Option<Vec<String>> =
        value.as_array().and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    list.ok_or_else(|| wrong(key, "", "must be a list of dataset names, [\"a\", \"b\"]"))
}

fn set(policy: &mut DatasetPolicy, key: &str, value: &Value, table: &str) -> Result<(), PolicyError> {
    let number = || match value {
        Value::Float(number) if number.is_finite() => Ok(*number),
        Value::Integer(number) => Ok(*number as f64),
        _ => Err(wrong(key, table, "must be a number")),
    };
    let within = |low: f64, high: f64, reason: &str| {
        number()
            .and_then(|number| if number > low && number < high { Ok(number) } else { Err(wrong(key, table, reason)) })
    };
    let share = || {
        number().and_then(|number| {
            if (0.0..=1.0).contains(&number) { Ok(number) } else { Err(wrong(key, table, "must be from 0 to 1")) }
        })
    };
    let count = || match value {
        Value::Integer(number) if *number > 0 => Ok(*number as usize),
        _ => Err(wrong(key, table, "must be a whole number above 0")),
    };
    let flag = || value.as_bool().ok_or_else(|| wrong(key, table, "must be true or false"));
    match key {
        "margin" => policy.margin = within(0.0, 1.0, "must be between 0 and 1, such as 0.02")?,
        "relative_margin" => {
            policy.relative_margin = match value {
                Value::String(off) if off == "off" => None,
                _ => Some(within(0.0, 1.0, "must be \"off\" or between 0 and 1")?),
            }
        }
        "alpha" => policy.alpha = within(0.0, 0.5, "must be between 0 and 0.5, such as 0.025")?,
        "min_pairs" => policy.min_pairs = count()?,
        "max_pairs" => policy.max_pairs = count()?,
        "max_unscored" => policy.max_unscored = share()?,
        "judges_must_agree" => {
            policy.judges_must_agree = match value.as_str() {
                Some("where_measured") => JudgesMustAgree::WhereMeasured,
                Some("required") => JudgesMustAgree::Required,
                Some("no") => JudgesMustAgree::No,
                _ => return Err(wrong(key, table, "must be \"where_measured\", \"required\" or \"no\"")),
            }
        }
        "tuned_on" => policy.tuned_on = flag()?,
        "ignore" => policy.ignore = flag()?,
        "max_leak" => policy.max_leak = Some(share()?),
        "max_incorrect_prediction" => policy.max_incorrect_prediction = Some(share()?),
        "max_intrinsic_hallucination" => policy.max_intrinsic_hallucination = Some(share()?),
        "max_extrinsic_hallucination" => policy.max_extrinsic_hallucination = Some(share()?),
        "max_class_fall" => policy.max_class_fall = Some(share()?),
        "min_retention" => {
            let number = number()?;
            if number < 0.0 {
                return Err(wrong(key, table, "must be at least 0"));
            }
            policy.min_retention = Some(number);
        }
        _ => {
            let (key, table) = (key.to_owned(), table.to_owned());
            let known: Vec<&'static str> = KEYS.into_iter().chain(table.is_empty().then_some("datasets")).collect();
            return Err(PolicyError::UnknownKey { nearest: nearest(&key, &known), key, table });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_default_is_the_default() {
        assert_eq!(Policy::parse(DEFAULT_POLICY), Ok(Policy::default()));
        for key in KEYS {
            assert!(DEFAULT_POLICY.contains(key), "{key} is not explained");
        }
    }

    #[test]
    fn a_dataset_overrides_the_defaults_that_it_names() {
        let policy = Policy::parse(
            "margin = 0.05\ntuned_on = [\"cifar10\"]\nignore = [\"svhn\"]\n[datasets.mnist]\nalpha = 0.01\nmax_leak = 0.1\n",
        )
        .unwrap();
        assert_eq!((policy.of("mnist").margin, policy.of("mnist").alpha), (0.05, 0.01));
        assert_eq!(policy.of("mnist").max_leak, Some(0.1));
        assert_eq!((policy.of("other").margin, policy.of("other").alpha), (0.05, 0.025));
        assert!(policy.of("svhn").ignore && policy.of("cifar10").tuned_on && !policy.of("mnist").tuned_on);
        assert_eq!(policy.of("cifar10").margin, 0.05);
    }

    #[test]
    fn a_slip_is_named_with_the_key_that_was_meant() {
        for (text, expected) in [
            ("margins = 0.1", "did you mean `margin`?"),
            ("max-pairs = 10", "did you mean `max_pairs`?"),
            ("[datasets.mnist]\nmin_pair = 10", "`min_pair` is not a key of a policy in [datasets.mnist]"),
            ("wibble = 1", "--print-policy"),
            ("[dataset.mnist]\nmargin = 0.1", "did you mean `datasets`?"),
            ("margin = 1.0", "must be between 0 and 1"),
            ("margin = -0.02", "must be between 0 and 1"),
            ("margin = nan", "must be a number"),
            ("alpha = inf", "must be a number"),
            ("min_pairs = 0", "whole number above 0"),
            ("max_pairs = -5", "whole number above 0"),
            ("max_unscored = 1.5", "from 0 to 1"),
            ("margin = 0.1\nmargin = 0.2", "duplicate key"),
            ("margin = 0", "must be between 0 and 1"),
            ("margin = \"x\"", "must be a number"),
            ("alpha = 0.5", "between 0 and 0.5"),
            ("min_pairs = 2.5", "whole number"),
            ("tuned_on = true", "list of dataset names"),
            ("judges_must_agree = true", "where_measured"),
            ("max_leak = nan", "must be a number"),
            ("datasets = 3", "must be a table"),
            ("margin 0.1", "expected"),
        ] {
            let message = Policy::parse(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn the_written_level_stays_and_the_level_in_force_stands_beside_it() {
        let written = Policy::parse("alpha = 0.05\n[datasets.mnist]\nalpha = 0.01").unwrap();
        assert!(written.to_json().get("alpha_in_force").is_none());
        let policy = written.at_attempt(2);
        let json = policy.to_json();
        assert_eq!((&json["alpha"], &json["datasets"]["mnist"]["alpha"]), (&0.05.into(), &0.01.into()));
        let in_force = |value: &serde_json::Value| value["alpha_in_force"].as_f64().unwrap();
        assert_eq!(in_force(&json), alpha_of_attempt(0.05, 2));
        assert_eq!(in_force(&json["datasets"]["mnist"]), policy.of("mnist").level());
        assert_eq!(policy.of("mnist").level(), alpha_of_attempt(0.01, 2));
    }

    #[test]
    fn a_dataset_that_nobody_knows_is_refused_with_the_nearest_name() {
        let known = BTreeSet::from(["cifar100".to_owned(), "mnist".to_owned(), "embedded/mnist".to_owned()]);
        for (text, expected) in [
            ("[datasets.cifar1000]\nmargin = 0.1", "`cifar1000`, which nobody knows; hint: did you mean `cifar100`?"),
            ("ignore = [\"minst\"]", "did you mean `mnist`?"),
            ("tuned_on = [\"Embedded/Mnist\"]", "did you mean `embedded/mnist`?"),
            ("ignore = [\"imagenet\"]", "`imagenet`, which nobody knows; hint: `emt data list`"),
        ] {
            let message = Policy::parse(text).unwrap().check_datasets(&known, "nobody knows").unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
        let policy = Policy::parse("ignore = [\"mnist\"]\n[datasets.cifar100]\nalpha = 0.01").unwrap();
        assert_eq!(policy.check_datasets(&known, "nobody knows"), Ok(()));
    }

    #[test]
    fn the_levels_of_all_attempts_together_are_alpha() {
        let sum: f64 = (1..200_000).map(|attempt| alpha_of_attempt(0.025, attempt)).sum();
        assert!((sum - 0.025).abs() < 1e-6, "{sum}");
    }
}
