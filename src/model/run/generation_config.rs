//! A checkpoint's decoding settings: `generation_config.json`, or `config.json` if that file is missing.
//!
//! Answers are greedy. The settings that transformers applies to greedy decoding are applied here. Sampling settings
//! have no effect on greedy decoding. Settings that cannot be applied are reported.

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};

use super::logits_processors::{LogitsProcessor, LogitsProcessors};
use crate::model::checkpoint::weights::Checkpoint;
use crate::model::text::tokenizer::TextTokenizer;

pub(in crate::model) const GENERATION_CONFIG: &str = "generation_config.json";

/// The settings that change greedy answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// By name, as recorded in a run's specification.
    settings: Map<String, Value>,
    processors: LogitsProcessors,
    stop_strings: Vec<String>,
}

/// Which settings to use for greedy answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GenerationChoice {
    /// The checkpoint's settings.
    #[default]
    Checkpoint,
    /// No settings: the next token is the one with the highest logit.
    Ignored,
}

/// Settings that change greedy answers and are applied.
const APPLIED: [&str; 16] = [
    "sequence_bias",
    "encoder_repetition_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "renormalize_logits",
    "stop_strings",
];

/// Returns whether a setting's value has no effect.
type ChangesNothing = fn(&Value) -> bool;

/// Settings that change answers in transformers but are not applied here, each with a test for values that have no
/// effect.
const NOT_APPLIED: [(&str, ChangesNothing); 11] = [
    ("num_beams", is_one),
    ("num_beam_groups", is_one),
    ("guidance_scale", is_one),
    ("penalty_alpha", is_zero),
    ("diversity_penalty", is_zero),
    ("dola_layers", is_off),
    ("watermarking_config", is_off),
    ("token_healing", is_off),
    ("constraints", is_off),
    ("force_words_ids", is_off),
    ("custom_generate", is_off),
];

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_off(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false)) || value.as_array().is_some_and(Vec::is_empty)
}

/// The section of `config.json` from which transformers also takes generation settings, if the folder has no
/// `generation_config.json`.
const IN_TEXT_CONFIG: &str = "text_config";

impl GenerationConfig {
    /// Reads the settings of `checkpoint`, whose answers end with `eos_ids`, and returns them with warnings.
    ///
    /// # Errors
    /// The file is not JSON, or a setting has a form that transformers refuses.
    pub fn open(checkpoint: &Checkpoint, tokenizer: &TextTokenizer, eos_ids: &[u32]) -> Result<(Self, Vec<String>)> {
        let own = checkpoint.read_json(GENERATION_CONFIG)?;
        let of_model = of_model_config(checkpoint.config());
        let (file, settings) = match &own {
            Some(settings) => (GENERATION_CONFIG, settings),
            None => ("config.json", &of_model),
        };
        let place = checkpoint.dir.join(file).display().to_string();
        let config = Self::parse(settings, &place, eos_ids)?;
        config.check_tokens(tokenizer, &place)?;
        let mut warnings = not_applied(settings, &place);
        if let Value::Object(applied) = config.recorded() {
            let told: Vec<String> = applied.iter().map(|(key, value)| format!("{key} {value}")).collect();
            warnings.push(format!(
                "greedy answers follow the settings of `{place}`: {}; hint: `--generation-config ignore` leaves them out",
                told.join(", ")
            ));
        }
        if own.is_some() {
            let ignored = Self::parse(&of_model, "config.json", eos_ids).unwrap_or_default();
            let differing: Vec<&str> = (ignored.settings.iter())
                .filter(|(key, value)| config.settings.get(*key) != Some(value))
                .map(|(key, _)| key.as_str())
                .collect();
            if !differing.is_empty() {
                warnings.push(format!(
                    "`config.json` of `{}` has other generation settings than `{GENERATION_CONFIG}`, which counts, as in \
                     transformers: {}",
                    checkpoint.dir.display(),
                    differing.join(", ")
                ));
            }
        }
        Ok((config, warnings))
    }

    /// Parses `settings` from the file `place`, for answers that end with `eos_ids`.
    pub(in crate::model) fn parse(settings: &Value, place: &str, eos_ids: &[u32]) -> Result<Self> {
        let reader = Reader { settings, place };
        let list = reader.processors(eos_ids)?;
        let stop_strings = reader.texts("stop_strings")?;
        // Only settings with an effect are recorded: a penalty of 1 has none.
        let is_applied = |key: &str| match key {
            "stop_strings" => !stop_strings.is_empty(),
            key => list.iter().any(|(name, _)| *name == key),
        };
        let recorded = APPLIED.into_iter().filter(|key| is_applied(key));
        let recorded = recorded.filter_map(|key| Some((key.to_owned(), settings.get(key)?.clone()))).collect();
        let processors = LogitsProcessors::new(list.into_iter().map(|(_, processor)| processor).collect());
        Ok(Self { settings: recorded, processors, stop_strings })
    }

    /// Refuses a forced token that the tokenizer does not have. Transformers fails there, too.
    fn check_tokens(&self, tokenizer: &TextTokenizer, place: &str) -> Result<()> {
        for key in ["forced_bos_token_id", "forced_eos_token_id"] {
            let value = self.settings.get(key).cloned().unwrap_or_default();
            for id in ids_of(&value).unwrap_or_default() {
                ensure!(
                    tokenizer.token(id).is_some(),
                    "`{key}` in {place} is {id}, which is not a token of the model; hint: correct it, or leave the \
                     settings out with `--generation-config ignore`"
                );
            }
        }
        Ok(())
    }

    /// The processors applied to logits.
    pub fn processors(&self) -> &LogitsProcessors {
        &self.processors
    }

    /// The strings that end an answer.
    pub fn stop_strings(&self) -> &[String] {
        &self.stop_strings
    }

    /// Returns the settings that have an effect, by name, for a run's specification; null if there are none.
    pub fn recorded(&self) -> Value {
        if self.settings.is_empty() { Value::Null } else { self.settings.clone().into() }
    }
}

/// Collects the generation settings of `config.json`: its own, and for missing ones those of the language model's
/// section.
fn of_model_config(config: &Value) -> Value {
    let inner = config.get(IN_TEXT_CONFIG).and_then(Value::as_object);
    let found = APPLIED.into_iter().chain(NOT_APPLIED.into_iter().map(|(key, _)| key)).filter_map(|key| {
        let here = config.get(key).filter(|value| !value.is_null());
        Some((key.to_owned(), here.or_else(|| inner?.get(key))?.clone()))
    });
    Value::Object(found.collect())
}

/// Returns one sentence per setting that transformers would apply and that is not applied here.
fn not_applied(settings: &Value, place: &str) -> Vec<String> {
    let set = NOT_APPLIED.into_iter().filter_map(|(key, changes_nothing)| {
        let value = settings.get(key).filter(|value| !value.is_null() && !changes_nothing(value))?;
        Some(format!(
            "`{key}` is {value} in {place} and is not applied: answers are greedy, but transformers' `generate` would \
             decode differently"
        ))
    });
    set.collect()
}

/// A setting's name and its processor.
type Named = (&'static str, LogitsProcessor);

struct Reader<'a> {
    settings: &'a Value,
    place: &'a str,
}

impl Reader<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.settings.get(key).filter(|value| !value.is_null())
    }

    fn wrong<T>(&self, key: &str, value: &Value, expected: &str) -> Result<T> {
        bail!(
            "`{key}` in {} must be {expected}, but is {value}; hint: correct it, or leave the settings out with \
             `--generation-config ignore`",
            self.place
        )
    }

    fn count(&self, key: &str) -> Result<usize> {
        match self.get(key) {
            None => Ok(0),
            Some(value) => match value.as_u64().filter(|&n| n < 1 << 31) {
                Some(n) => Ok(n as usize),
                None => self.wrong(key, value, "a count"),
            },
        }
    }

    /// Reads a penalty. `None` if it is 1.
    fn penalty(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|&penalty| penalty > 0.0) {
                Some(penalty) => Ok((penalty != 1.0).then_some(penalty)),
                None => self.wrong(key, value, "a number over 0"),
            },
        }
    }

    fn is_true(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(is_true)) => Ok(*is_true),
            Some(value) => self.wrong(key, value, "true or false"),
        }
    }

    /// Reads one token id or a list of them. Empty if the setting is missing.
    fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(value) => match ids_of(value) {
                Some(ids) => Ok(ids),
                None => self.wrong(key, value, "a token id or a list of them"),
            },
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let texts = match value {
            Value::String(text) => Some(vec![text.clone()]),
            other => serde_json::from_value(other.clone()).ok(),
        };
        match texts {
            Some(texts) => Ok(texts.into_iter().filter(|text: &String| !text.is_empty()).collect()),
            None => self.wrong(key, value, "a string or a list of strings"),
        }
    }

    fn sequence_bias(&self) -> Result<Vec<(Vec<u32>, f32)>> {
        const KEY: &str = "sequence_bias";
        let Some(value) = self.get(KEY) else { return Ok(Vec::new()) };
        match serde_json::from_value::<Vec<(Vec<u32>, f32)>>(value.clone()) {
            Ok(biases) if biases.iter().all(|(sequence, _)| !sequence.is_empty()) => Ok(last_of_equal(biases)),
            _ => self.wrong(KEY, value, "a list of [[token, …], bias]"),
        }
    }

    fn bad_words(&self, eos_ids: &[u32]) -> Result<Vec<(Vec<u32>, f32)>> {
        const KEY: &str = "bad_words_ids";
        let Some(value) = self.get(KEY) else { return Ok(Vec::new()) };
        let Ok(words) = serde_json::from_value::<Vec<Vec<u32>>>(value.clone()) else {
            return self.wrong(KEY, value, "a list of lists of token ids");
        };
        // A single end token is never forbidden.
        let is_end = |word: &Vec<u32>| word.len() == 1 && eos_ids.contains(&word[0]);
        let kept = words.into_iter().filter(|word| !word.is_empty() && !is_end(word));
        Ok(last_of_equal(kept.map(|word| (word, f32::NEG_INFINITY)).collect()))
    }

    fn decay(&self) -> Result<Option<LogitsProcessor>> {
        const KEY: &str = "exponential_decay_length_penalty";
        let Some(value) = self.get(KEY) else { return Ok(None) };
        match serde_json::from_value::<(usize, f64)>(value.clone()) {
            Ok((start, factor)) => Ok(Some(LogitsProcessor::ExponentialDecay { start, factor })),
            Err(_) => self.wrong(KEY, value, "[first token, factor]"),
        }
    }

    /// Returns the processors in the order of transformers' `_get_logits_processor`.
    fn processors(&self, eos_ids: &[u32]) -> Result<Vec<Named>> {
        use LogitsProcessor as P;
        let mut list: Vec<Named> = Vec::new();
        let mut add = |key, processor: Option<P>| list.extend(processor.map(|processor| (key, processor)));
        let biases = |list: Vec<(Vec<u32>, f32)>| (!list.is_empty()).then_some(P::SequenceBias(list));
        let some = |n: usize| (n > 0).then_some(n);
        add("sequence_bias", biases(self.sequence_bias()?));
        let key = "encoder_repetition_penalty";
        add(key, self.penalty(key)?.map(P::EncoderRepetitionPenalty));
        add("repetition_penalty", self.penalty("repetition_penalty")?.map(P::RepetitionPenalty));
        add("no_repeat_ngram_size", some(self.count("no_repeat_ngram_size")?).map(P::NoRepeatNgram));
        let key = "encoder_no_repeat_ngram_size";
        add(key, some(self.count(key)?).map(P::EncoderNoRepeatNgram));
        add("bad_words_ids", biases(self.bad_words(eos_ids)?));
        let n_new = some(self.count("min_new_tokens")?);
        // `min_new_tokens` takes precedence over `min_length`.
        let length = some(self.count("min_length")?).filter(|_| self.get("min_new_tokens").is_none());
        add("min_length", length.map(P::MinLength));
        add("min_new_tokens", n_new.map(P::MinNewTokens));
        let first = self.tokens("forced_bos_token_id")?.first().copied();
        add("forced_bos_token_id", first.map(P::ForcedBos));
        let last = self.tokens("forced_eos_token_id")?;
        add("forced_eos_token_id", (!last.is_empty()).then_some(P::ForcedEos(last)));
        add("remove_invalid_values", self.is_true("remove_invalid_values")?.then_some(P::RemoveInvalidValues));
        add("exponential_decay_length_penalty", self.decay()?);
        let tokens = self.tokens("suppress_tokens")?;
        add("suppress_tokens", (!tokens.is_empty()).then_some(P::SuppressTokens(tokens)));
        let tokens = self.tokens("begin_suppress_tokens")?;
        let begin = P::BeginSuppressTokens { tokens: tokens.clone(), has_forced_bos: first.is_some() };
        add("begin_suppress_tokens", (!tokens.is_empty()).then_some(begin));
        add("renormalize_logits", self.is_true("renormalize_logits")?.then_some(P::Normalisation));
        Ok(list)
    }
}

/// Keeps the last value of equal sequences, at the place of the first, as a Python dictionary does.
fn last_of_equal(biases: Vec<(Vec<u32>, f32)>) -> Vec<(Vec<u32>, f32)> {
    let mut kept: Vec<(Vec<u32>, f32)> = Vec::with_capacity(biases.len());
    for (sequence, bias) in biases {
        match kept.iter_mut().find(|(earlier, _)| *earlier == sequence) {
            Some((_, earlier)) => *earlier = bias,
            None => kept.push((sequence, bias)),
        }
    }
    kept
}

/// Reads an id or a list of ids. `None` for anything else.
fn ids_of(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(ids) => ids.iter().map(id).collect(),
        one => Some(vec![id(one)?]),
    }
}

#[cfg(test)]
mod tests;
