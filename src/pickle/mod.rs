//! A restricted reader of Python pickles that reads data only and never calls anything.
//!
//! A pickle is a program for a stack machine, and Python's machine calls whatever the program names. This one records
//! the call as a [`Call`] value and calls nothing. The reader of a format lists the names that it understands
//! ([`Global`]); every other name is an error. Values are in an arena and refer to each other by number. A cyclic or
//! deeply nested pickle therefore needs memory in proportion to its length, and no recursion.

mod machine;

use anyhow::bail;

use machine::Machine;

/// The number of a value in its pickle.
pub type Id = usize;

/// The names (`module.name`) that a format may use, and their meaning to its reader.
pub trait Global: Copy {
    /// Whether a value may refer to something outside the pickle, as PyTorch's storages do.
    const HAS_OUTSIDE: bool;

    /// Returns the meaning of `module.name`.
    ///
    /// # Errors
    /// The format does not use the name. The message repeats the name and says that nothing was executed.
    fn named(module: &str, name: &str) -> anyhow::Result<Self>;
}

/// One value. Text and bytes are borrowed from the pickle.
#[derive(Debug)]
pub enum Value<'a, G> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 8 bytes.
    Int(i64),
    /// A float; no format here needs its value.
    Float,
    /// Bytes, or Python 2 text.
    Bytes(&'a [u8]),
    /// Text.
    Text(&'a str),
    /// A list.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dictionary; a later entry of a key replaces an earlier one.
    Dict(Vec<(Id, Id)>),
    /// A name that the format knows.
    Global(G),
    /// A call that Python would make.
    Call(Call<G>),
    /// A reference to something outside the pickle, described by another value.
    Outside(Id),
}

impl<G> Value<'_, G> {
    /// Returns the kind of value for messages, such as `a list`.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float => "a float",
            Value::Bytes(_) => "bytes",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Tuple(_) => "a tuple",
            Value::Dict(_) => "a dictionary",
            Value::Global(_) => "a name",
            Value::Call(_) => "an object",
            Value::Outside(_) => "a reference to another file",
        }
    }
}

/// A call that Python would make, with its changes to the result.
#[derive(Debug)]
pub struct Call<G> {
    /// The function.
    pub function: G,
    /// The arguments, a tuple.
    pub arguments: Id,
    /// Entries that would be set in the result.
    pub items: Vec<(Id, Id)>,
    /// The state that the result would get.
    pub state: Option<Id>,
}

/// A parsed pickle over the bytes of its file.
pub struct Pickle<'a, G> {
    values: Vec<Value<'a, G>>,
    root: Id,
}

impl<'a, G: Global> Pickle<'a, G> {
    /// Reads `bytes` to the STOP opcode.
    ///
    /// # Errors
    /// The pickle is damaged, has an opcode that no data needs, or names what [`Global::named`] refuses. The message
    /// has the position of the opcode in bytes.
    pub fn parse(bytes: &'a [u8]) -> anyhow::Result<Self> {
        let (values, root) = Machine::new(bytes).run()?;
        Ok(Self { values, root })
    }

    /// Returns the number of the value that Python's `load` would return.
    pub fn root(&self) -> Id {
        self.root
    }

    /// Returns the value with this number.
    pub fn value(&self, id: Id) -> &Value<'a, G> {
        &self.values[id]
    }

    /// Returns the bytes of text or bytes.
    pub fn raw(&self, id: Id) -> Option<&'a [u8]> {
        match self.value(id) {
            Value::Bytes(bytes) => Some(bytes),
            Value::Text(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// Returns the value of `key` in a dictionary with text or bytes keys.
    pub fn entry(&self, id: Id, key: &str) -> Option<Id> {
        let Value::Dict(pairs) = self.value(id) else { return None };
        pairs.iter().rev().find(|(name, _)| self.raw(*name) == Some(key.as_bytes())).map(|(_, value)| *value)
    }

    /// Returns the items of a list or tuple.
    ///
    /// # Errors
    /// The value is something else.
    pub fn items(&self, id: Id) -> anyhow::Result<&[Id]> {
        match self.value(id) {
            Value::List(items) | Value::Tuple(items) => Ok(items),
            other => bail!("the pickle holds {} where a list belongs", other.kind()),
        }
    }

    /// Returns text.
    ///
    /// # Errors
    /// The value is something else.
    pub fn text(&self, id: Id) -> anyhow::Result<&'a str> {
        match self.value(id) {
            Value::Text(text) => Ok(text),
            other => bail!("the pickle holds {} where text belongs", other.kind()),
        }
    }

    /// Returns a size, in units of what it counts.
    ///
    /// # Errors
    /// The value is not an integer, or is negative.
    pub fn size(&self, id: Id) -> anyhow::Result<usize> {
        match self.value(id) {
            Value::Int(value) => match usize::try_from(*value) {
                Ok(size) => Ok(size),
                Err(_) => bail!("the pickle holds {value} where a size belongs"),
            },
            other => bail!("the pickle holds {} where a size belongs", other.kind()),
        }
    }

    /// Returns the items of a list or tuple of sizes.
    ///
    /// # Errors
    /// The value is not such a list.
    pub fn sizes(&self, id: Id) -> anyhow::Result<Vec<usize>> {
        self.items(id)?.iter().map(|&side| self.size(side)).collect()
    }
}

#[cfg(test)]
mod tests;
