//! A restricted reader of Python pickles: data only, nothing is ever called.
//!
//! It knows the opcodes that dictionaries, lists, numbers, strings and numpy arrays of unsigned bytes are made of. Four
//! globals have a meaning here (numpy's array rebuilding and codecs' text-to-bytes); any other is an error that names it.
//! Values live in an arena and refer to one another by number, so a cyclic pickle can neither loop nor overflow the stack.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context, bail, ensure};

/// The number of a value in its pickle.
pub(in crate::dataset) type Id = usize;

/// One value.
#[derive(Debug)]
pub(in crate::dataset) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    /// Bytes, or text of Python 2, as they lie in the file.
    Bytes(Range<usize>),
    /// Bytes that Python 3 wrote as latin-1 text.
    OwnedBytes(Vec<u8>),
    Text(String),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Tuple(Vec<Id>),
    Global(Global),
    /// A numpy dtype by its name.
    Dtype(String),
    /// A numpy array; shape and data come by BUILD.
    Array {
        shape: Vec<usize>,
        data: Option<Id>,
    },
    Mark,
}

impl Value {
    /// What it is, for a message.
    pub(in crate::dataset) fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float => "a float",
            Value::Bytes(_) | Value::OwnedBytes(_) => "bytes",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dictionary",
            Value::Tuple(_) => "a tuple",
            Value::Global(_) => "a global",
            Value::Dtype(_) => "a dtype",
            Value::Array { .. } => "an array",
            Value::Mark => "a mark",
        }
    }
}

/// The globals that have a meaning here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataset) enum Global {
    Reconstruct,
    NdArray,
    Dtype,
    Encode,
}

impl Global {
    fn named(module: &str, name: &str) -> anyhow::Result<Global> {
        match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Ok(Global::Reconstruct),
            ("numpy", "ndarray") => Ok(Global::NdArray),
            ("numpy", "dtype") => Ok(Global::Dtype),
            ("_codecs", "encode") => Ok(Global::Encode),
            _ => bail!(
                "it wants to call `{}.{}`, which a data file has no need of: refused, nothing was executed; hint: get \
                 the file anew from where it was published",
                module.escape_debug(),
                name.escape_debug()
            ),
        }
    }
}

/// A parsed pickle over the bytes of its file.
pub(in crate::dataset) struct Pickle<'a> {
    bytes: &'a [u8],
    values: Vec<Value>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads `bytes` to the STOP opcode.
    pub(in crate::dataset) fn parse(bytes: &'a [u8]) -> anyhow::Result<Pickle<'a>> {
        let mut machine =
            Machine { bytes, at: 0, values: Vec::new(), stack: Vec::new(), memo: HashMap::new(), n_copied: 0 };
        loop {
            let start = machine.at;
            let opcode = machine.byte()?;
            if opcode == b'.' {
                let root = machine.pop()?;
                return Ok(Pickle { bytes, values: machine.values, root });
            }
            machine.step(opcode).with_context(|| format!("it is no pickle of a data set (byte {start})"))?;
        }
    }

    pub(in crate::dataset) fn root(&self) -> Id {
        self.root
    }

    pub(in crate::dataset) fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// The bytes of text or bytes.
    fn raw(&self, id: Id) -> Option<&[u8]> {
        match &self.values[id] {
            Value::Bytes(range) => self.bytes.get(range.clone()),
            Value::OwnedBytes(owned) => Some(owned),
            Value::Text(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// The value of `key` in a dictionary, whether its keys are text or bytes.
    pub(in crate::dataset) fn entry(&self, id: Id, key: &str) -> Option<Id> {
        let Value::Dict(pairs) = &self.values[id] else { return None };
        pairs.iter().rev().find(|(name, _)| self.raw(*name) == Some(key.as_bytes())).map(|(_, value)| *value)
    }

    pub(in crate::dataset) fn list(&self, id: Id) -> anyhow::Result<&[Id]> {
        match &self.values[id] {
            Value::List(items) | Value::Tuple(items) => Ok(items),
            other => bail!("it holds {} where a list is expected", other.kind()),
        }
    }

    /// Shape and bytes of a numpy array of unsigned bytes.
    pub(in crate::dataset) fn array(&self, id: Id) -> anyhow::Result<(&[usize], &[u8])> {
        let Value::Array { shape, data } = &self.values[id] else {
            bail!("it holds {} where an array is expected", self.values[id].kind());
        };
        let data = data.and_then(|data| self.raw(data)).context("an array of it has no data")?;
        let n_values = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
        ensure!(
            n_values == Some(data.len()),
            "an array of it has the shape {shape:?} and {} bytes; hint: fetch it again",
            data.len()
        );
        Ok((shape, data))
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    memo: HashMap<u32, Id>,
    /// Bytes copied by calls; a real file copies each of its bytes at most once.
    n_copied: usize,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> anyhow::Result<()> {
        match opcode {
            0x80 => self.skip(1),
            0x95 => self.skip(8),
            b'(' => self.push(Value::Mark),
            b'0' => self.pop().map(drop),
            b'1' => self.pop_to_mark().map(drop),
            b'2' => self.top().map(|id| self.stack.push(id)),
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'I' | b'L' | b'F' | b'G' | b'J' | b'K' | b'M' | 0x8a => self.number(opcode),
            b'S' | b'V' | b'U' | b'T' | b'B' | b'C' | 0x8e | b'X' | 0x8c | 0x8d => self.string(opcode),
            b'c' | 0x93 => self.global(opcode),
            b'R' => self.reduce(),
            b'b' => self.build(),
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => self.memo_step(opcode),
            _ => self.container(opcode),
        }
    }

    fn container(&mut self, opcode: u8) -> anyhow::Result<()> {
        match opcode {
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            b'l' => self.pop_to_mark().and_then(|items| self.push(Value::List(items))),
            b't' => self.pop_to_mark().and_then(|items| self.push(Value::Tuple(items))),
            b'd' => self.pop_to_mark().and_then(|items| self.push(Value::Dict(pairs(&items)?))),
            0x85..=0x87 => {
                let first = self.stack.len().checked_sub(usize::from(opcode) - 0x84).context("its stack is empty")?;
                let items = self.stack.split_off(first);
                self.push(Value::Tuple(items))
            }
            b'a' => self.pop().and_then(|item| self.append(&[item])),
            b'e' => self.pop_to_mark().and_then(|items| self.append(&items)),
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])
            }
            b'u' => self.pop_to_mark().and_then(|items| self.set_items(&items)),
            _ => bail!("it has the opcode 0x{opcode:02x}, which a data file has no need of: refused"),
        }
    }

    fn number(&mut self, opcode: u8) -> anyhow::Result<()> {
        let value = match opcode {
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.fixed()?))),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.fixed()?))),
            0x8a => {
                let len = usize::from(self.byte()?);
                let raw = &self.bytes[self.take(len)?];
                ensure!(len <= 8, "it has an integer of {len} bytes");
                let negative = raw.last().is_some_and(|byte| byte & 0x80 != 0);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..len].copy_from_slice(raw);
                Value::Int(i64::from_le_bytes(wide))
            }
            b'G' => self.take(8).map(|_| Value::Float)?,
            b'F' => self.line().map(|_| Value::Float)?,
            _ => match self.line()?.trim_end_matches('L') {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                digits => Value::Int(digits.parse().context("it has a malformed integer")?),
            },
        };
        self.push(value)
    }

    fn string(&mut self, opcode: u8) -> anyhow::Result<()> {
        let len = match opcode {
            b'U' | b'C' | 0x8c => usize::from(self.byte()?),
            b'T' | b'B' | b'X' => u32::from_le_bytes(self.fixed()?) as usize,
            0x8e | 0x8d => usize::try_from(u64::from_le_bytes(self.fixed()?)).context("it has an oversized string")?,
            _ => {
                let line = self.line()?;
                ensure!(!line.contains('\\'), "it has an escaped string of protocol 0, which is not read");
                let text = line.trim_matches(['\'', '"']).to_owned();
                return self.push(Value::Text(text));
            }
        };
        let range = self.take(len)?;
        match opcode {
            b'X' | 0x8c | 0x8d => {
                let text = std::str::from_utf8(&self.bytes[range]).context("it has text that is not UTF-8")?;
                self.push(Value::Text(text.to_owned()))
            }
            _ => self.push(Value::Bytes(range)),
        }
    }

    fn global(&mut self, opcode: u8) -> anyhow::Result<()> {
        let global = if opcode == b'c' {
            let module = self.line()?;
            Global::named(module, self.line()?)?
        } else {
            let name = self.pop()?;
            let module = self.pop()?;
            match (&self.values[module], &self.values[name]) {
                (Value::Text(module), Value::Text(name)) => Global::named(module, name)?,
                _ => bail!("it has a global whose name is no text"),
            }
        };
        self.push(Value::Global(global))
    }

    fn reduce(&mut self) -> anyhow::Result<()> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let Value::Global(global) = self.values[callable] else { bail!("it calls {}", self.values[callable].kind()) };
        let Value::Tuple(items) = &self.values[arguments] else { bail!("it calls without a tuple of arguments") };
        let first = items.first().map(|&id| &self.values[id]);
        self.n_copied += match first {
            Some(Value::Text(text)) => text.len(),
            Some(Value::Bytes(range)) => range.len(),
            _ => 0,
        };
        ensure!(self.n_copied <= self.bytes.len(), "it copies its data again and again: refused");
        let value = match (global, first) {
            (Global::Reconstruct, Some(Value::Global(Global::NdArray))) => {
                Value::Array { shape: Vec::new(), data: None }
            }
            (Global::Dtype, Some(Value::Text(name))) => Value::Dtype(name.clone()),
            (Global::Dtype, Some(Value::Bytes(range))) => {
                Value::Dtype(String::from_utf8_lossy(&self.bytes[range.clone()]).into_owned())
            }
            (Global::Encode, Some(Value::Text(text))) => {
                let latin1 = text.chars().map(|letter| u8::try_from(u32::from(letter)));
                Value::OwnedBytes(latin1.collect::<Result<_, _>>().context("it has bytes that are not latin-1")?)
            }
            _ => bail!("it calls {global:?} with unexpected arguments"),
        };
        self.push(value)
    }

    /// Gives the array under the state its shape and data; a dtype's state (byte order) says nothing about bytes.
    fn build(&mut self) -> anyhow::Result<()> {
        let state = self.pop()?;
        let target = self.top()?;
        match &self.values[target] {
            Value::Dtype(_) => return Ok(()),
            Value::Array { .. } => {}
            other => bail!("it sets the state of {}", other.kind()),
        }
        let Value::Tuple(items) = &self.values[state] else { bail!("the state of an array is no tuple") };
        let &[_, shape, dtype, fortran, data] = items.as_slice() else {
            bail!("the state of an array is not five values")
        };
        let Value::Tuple(sides) = &self.values[shape] else { bail!("the shape of an array is no tuple") };
        let sides = sides.iter().map(|&side| match self.values[side] {
            Value::Int(side) => usize::try_from(side).context("an array has a negative side"),
            _ => bail!("the shape of an array is no tuple of integers"),
        });
        let shape = sides.collect::<anyhow::Result<Vec<_>>>()?;
        match &self.values[dtype] {
            Value::Dtype(name) if matches!(name.as_str(), "u1" | "|u1" | "uint8") => {}
            Value::Dtype(name) => bail!("an array has the type `{}` where u1 is expected", name.escape_debug()),
            other => bail!("an array has {} as its type", other.kind()),
        }
        let is_row_major = matches!(self.values[fortran], Value::Bool(false) | Value::Int(0));
        ensure!(is_row_major || shape.len() < 2, "an array lies in Fortran order, which is not read");
        self.values[target] = Value::Array { shape, data: Some(data) };
        Ok(())
    }

    fn memo_step(&mut self, opcode: u8) -> anyhow::Result<()> {
        let key = match opcode {
            b'p' | b'g' => self.line()?.parse().context("it has a malformed memo number")?,
            b'q' | b'h' => u32::from(self.byte()?),
            b'r' | b'j' => u32::from_le_bytes(self.fixed()?),
            _ => u32::try_from(self.memo.len()).context("its memo is full")?,
        };
        if matches!(opcode, b'g' | b'h' | b'j') {
            let id = *self.memo.get(&key).with_context(|| format!("it recalls the unknown memo {key}"))?;
            self.stack.push(id);
        } else {
            let id = self.top()?;
            self.memo.insert(key, id);
        }
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> anyhow::Result<()> {
        let target = self.top()?;
        match &mut self.values[target] {
            Value::List(list) => list.extend_from_slice(items),
            other => bail!("it appends to {}", other.kind()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> anyhow::Result<()> {
        let target = self.top()?;
        match &mut self.values[target] {
            Value::Dict(entries) => entries.extend(pairs(items)?),
            other => bail!("it sets items of {}", other.kind()),
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> anyhow::Result<()> {
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> anyhow::Result<Id> {
        self.stack.pop().context("its stack is empty")
    }

    fn top(&self) -> anyhow::Result<Id> {
        self.stack.last().copied().context("its stack is empty")
    }

    fn pop_to_mark(&mut self) -> anyhow::Result<Vec<Id>> {
        let mark = self.stack.iter().rposition(|&id| matches!(self.values[id], Value::Mark));
        let mark = mark.context("it closes what it never opened")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn byte(&mut self) -> anyhow::Result<u8> {
        Ok(self.fixed::<1>()?[0])
    }

    fn fixed<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        let range = self.take(N)?;
        self.bytes[range].try_into().context("it ends early")
    }

    fn skip(&mut self, len: usize) -> anyhow::Result<()> {
        self.take(len).map(drop)
    }

    fn take(&mut self, len: usize) -> anyhow::Result<Range<usize>> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.context("it ends early; hint: fetch it again")?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn line(&mut self) -> anyhow::Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n').context("it ends early; hint: fetch it again")?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).context("it has a line that is not UTF-8")
    }
}

fn pairs(items: &[Id]) -> anyhow::Result<Vec<(Id, Id)>> {
    ensure!(items.len().is_multiple_of(2), "a dictionary has a key without a value");
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pickle_that_wants_to_call_something_is_refused_by_name() {
        let error = Pickle::parse(b"cos\nsystem\n(S'true'\ntR.").err().map(|error| format!("{error:#}"));
        let error = error.unwrap();
        assert!(error.contains("`os.system`") && error.contains("nothing was executed"), "{error}");
        let stacked = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.";
        assert!(format!("{:#}", Pickle::parse(stacked).err().unwrap()).contains("`builtins.eval`"));
    }

    #[test]
    fn every_other_way_to_run_code_is_an_unknown_opcode() {
        // INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1, PERSID, BINPERSID, FROZENSET's kin.
        for opcode in [b'i', b'o', 0x81, 0x92, 0x82, b'P', b'Q'] {
            let bytes = [b'(', b'N', b'N', opcode, b'\n', b'.'];
            let error = format!("{:#}", Pickle::parse(&bytes).err().unwrap());
            assert!(error.contains("opcode"), "{error}");
        }
    }

    #[test]
    fn text_keys_and_byte_keys_are_the_same_key() {
        // {'labels': [3, 8]} by protocols 2 of Python 2 (SHORT_BINSTRING) and of Python 3 (BINUNICODE).
        for key in [&b"U\x06labels"[..], &b"X\x06\0\0\0labels"[..]] {
            let bytes = [b"\x80\x02}".as_slice(), key, b"](K\x03K\x08es."].concat();
            let pickle = Pickle::parse(&bytes).unwrap();
            let list = pickle.list(pickle.entry(pickle.root(), "labels").unwrap()).unwrap();
            assert!(matches!(pickle.value(list[1]), Value::Int(8)));
        }
    }

    #[test]
    fn a_list_that_holds_itself_does_no_harm() {
        let pickle = Pickle::parse(b"]q\x00h\x00a.").unwrap();
        assert_eq!(pickle.list(pickle.root()).unwrap(), [pickle.root()]);
    }

    #[test]
    fn copying_one_text_many_times_is_refused() {
        let mut bytes = b"c_codecs\nencode\nq\x01X\x00\x01\0\0".to_vec();
        bytes.extend([b'a'; 256]);
        bytes.extend(b"q\x02");
        for _ in 0..100 {
            bytes.extend(b"0h\x01h\x02\x85R");
        }
        bytes.push(b'.');
        assert!(format!("{:#}", Pickle::parse(&bytes).err().unwrap()).contains("again and again"));
    }

    proptest! {
        #[test]
        fn random_opcodes_never_panic(
            opcodes in proptest::collection::vec(prop_oneof![
                proptest::sample::select(b"(012NIJKMUTBCXc\x93Rbpqrghj]})ltdaesu.\x85\x86\x87\x88\x89\x8a\x8c\x94\x95\n".to_vec()),
                any::<u8>(),
            ], 0..200),
        ) {
            if let Ok(pickle) = Pickle::parse(&opcodes) {
                let _ = pickle.array(pickle.root());
                let _ = pickle.list(pickle.root());
                let _ = pickle.entry(pickle.root(), "data");
            }
        }
    }
}
