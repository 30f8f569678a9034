//! A key that cannot be shown by accident.

use std::fmt;

const SHOWN_AS: &str = "[redacted]";

/// An API key. Neither `Debug` nor `Display` show it, and it is not serialisable.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a key, without the line end that key files often have; `None` if nothing is left.
    pub fn new(key: &str) -> Option<Self> {
        let key = key.trim();
        (!key.is_empty()).then(|| Self(key.to_owned()))
    }

    /// Returns the key, for the only header that carries it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// Returns `text` without the key, even if a server echoes it with JSON escapes.
    pub(super) fn redact(&self, text: &str) -> String {
        let plain = text.replace(&self.0, SHOWN_AS);
        let quoted = serde_json::Value::String(self.0.clone()).to_string();
        let escaped = &quoted[1..quoted.len() - 1];
        if escaped == self.0 { plain } else { plain.replace(escaped, SHOWN_AS) }
    }

    /// Whether `text` contains the key.
    pub fn is_in(&self, text: &str) -> bool {
        self.is_distinctive() && text.contains(&self.0)
    }

    /// Whether texts may safely be searched for the key. Keys such as `x` are placeholders for local servers, and also
    /// ordinary words.
    pub(super) fn is_distinctive(&self) -> bool {
        self.0.len() >= 8
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHOWN_AS)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHOWN_AS)
    }
}

#[cfg(test)]
mod tests;
