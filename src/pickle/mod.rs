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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A format that knows one name and has no outside references.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Echo;

    impl Global for Echo {
        const HAS_OUTSIDE: bool = false;

        fn named(module: &str, name: &str) -> anyhow::Result<Self> {
            if (module, name) == ("builtins", "echo") { Ok(Self) } else { bail!("`{module}.{name}` is refused") }
        }
    }

    fn error(bytes: &[u8]) -> String {
        format!("{:#}", Pickle::<Echo>::parse(bytes).err().unwrap())
    }

    #[test]
    fn a_name_that_the_format_does_not_know_is_refused_with_its_place() {
        assert_eq!(error(b"cos\nsystem\n(S'true'\ntR."), "at byte 0 of the pickle: `os.system` is refused");
        assert!(error(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.").contains("`builtins.eval`"));
    }

    #[test]
    fn a_known_name_is_written_down_and_not_called() {
        let pickle = Pickle::<Echo>::parse(b"cbuiltins\necho\n(K\x07tR}b.").unwrap();
        let Value::Call(call) = pickle.value(pickle.root()) else { panic!("no call") };
        assert_eq!(call.function, Echo);
        assert_eq!(pickle.sizes(call.arguments).unwrap(), [7]);
        assert!(matches!(pickle.value(call.state.unwrap()), Value::Dict(_)));
    }

    #[test]
    fn every_other_way_to_run_code_is_an_unknown_opcode() {
        // INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1, PERSID, BINPERSID.
        for opcode in [b'i', b'o', 0x81, 0x92, 0x82, b'P', b'Q'] {
            let error = error(&[b'(', b'N', b'N', opcode, b'\n', b'.']);
            assert!(error.contains("opcode"), "{error}");
        }
    }

    #[test]
    fn text_keys_and_byte_keys_are_the_same_key() {
        // {'labels': [3, 8]} in protocol 2 by Python 2 (SHORT_BINSTRING) and by Python 3 (BINUNICODE).
        for key in [&b"U\x06labels"[..], &b"X\x06\0\0\0labels"[..]] {
            let bytes = [b"\x80\x02}".as_slice(), key, b"](K\x03K\x08es."].concat();
            let pickle = Pickle::<Echo>::parse(&bytes).unwrap();
            assert_eq!(pickle.sizes(pickle.entry(pickle.root(), "labels").unwrap()).unwrap(), [3, 8]);
        }
    }

    #[test]
    fn a_list_that_holds_itself_does_no_harm() {
        let pickle = Pickle::<Echo>::parse(b"]q\x00h\x00a.").unwrap();
        assert_eq!(pickle.items(pickle.root()).unwrap(), [pickle.root()]);
    }

    #[test]
    fn deep_nesting_does_no_harm() {
        let mut bytes = vec![b')'];
        bytes.extend(std::iter::repeat_n(0x85, 1_000_000));
        bytes.push(b'.');
        assert!(Pickle::<Echo>::parse(&bytes).is_ok());
    }

    #[test]
    fn a_truncated_pickle_says_so() {
        let error = error(b"X\x06\0\0\0lab");
        assert!(error.contains("ends too early") && error.contains("hint:"), "{error}");
    }

    proptest! {
        #[test]
        fn random_opcodes_never_panic(
            opcodes in proptest::collection::vec(prop_oneof![
                proptest::sample::select(b"(012NIJKMUTBCXc\x93Rbpqrghj]})ltdaesu.\x85\x86\x87\x88\x89\x8a\x8c\x94\x95\n".to_vec()),
                any::<u8>(),
            ], 0..200),
        ) {
            if let Ok(pickle) = Pickle::<Echo>::parse(&opcodes) {
                let _ = pickle.sizes(pickle.root());
                let _ = pickle.text(pickle.root());
                let _ = pickle.entry(pickle.root(), "data");
            }
        }
    }
}
