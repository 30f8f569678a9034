//! `config.json`, read with the defaults of transformers' own classes.

use anyhow::{Result, bail};
use serde_json::Value;

/// One section of a checkpoint's configuration, with its place for messages.
#[derive(Clone, Debug)]
pub struct Config<'a> {
    value: &'a Value,
    place: String,
}

impl<'a> Config<'a> {
    /// The whole of `value`, which messages call `place`.
    pub fn new(value: &'a Value, place: impl Into<String>) -> Self {
        Self { value, place: place.into() }
    }

    /// The name of this section in messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Returns the object under `key`, or `None` if it is absent or null.
    pub fn section(&self, key: &str) -> Option<Config<'a>> {
        let value = self.get(key)?;
        value.is_object().then(|| Config { value, place: format!("{}: {key}", self.place) })
    }

    /// Returns the raw value under `key`, or `None` if it is absent or null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// Reads a count.
    pub fn usize_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key) {
            None => Ok(default),
            // Larger counts than 2^31 are not sizes. Refusing them keeps every product of two in range.
            Some(value) => match value.as_u64().filter(|&n| n < 1 << 31) {
                Some(n) => Ok(n as usize),
                None => bail!("`{key}` in {} must be a whole number, but is {value}", self.place),
            },
        }
    }

    /// Returns whether `key` exists, even if it is null.
    pub fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some()
    }

    /// Reads a count that must not be zero, or `None` if it is absent or null.
    pub fn positive_or_none(&self, key: &str) -> Result<Option<usize>> {
        self.get(key).map(|_| self.positive_or(key, 1)).transpose()
    }

    /// Reads a count that must not be zero.
    pub fn positive_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.usize_or(key, default)? {
            0 => bail!("`{key}` in {} must be at least 1", self.place),
            n => Ok(n),
        }
    }

    /// Reads a signed number, such as a layer counted from the end.
    pub fn i64_or(&self, key: &str, default: i64) -> Result<i64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => match value.as_i64() {
                Some(n) => Ok(n),
                None => bail!("`{key}` in {} must be a whole number, but is {value}", self.place),
            },
        }
    }

    /// Reads a real number.
    pub fn f64_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => match value.as_f64() {
                Some(x) => Ok(x),
                None => bail!("`{key}` in {} must be a number, but is {value}", self.place),
            },
        }
    }

    /// Reads a boolean.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => match value.as_bool() {
                Some(on) => Ok(on),
                None => bail!("`{key}` in {} must be true or false, but is {value}", self.place),
            },
        }
    }

    /// Reads a string.
    pub fn str_or(&self, key: &str, default: &'a str) -> Result<&'a str> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => match value.as_str() {
                Some(text) => Ok(text),
                None => bail!("`{key}` in {} must be a string, but is {value}", self.place),
            },
        }
    }
}
