//! The stack machine that executes pickles.

use std::collections::HashMap;

use anyhow::{Context, bail, ensure};

use super::{Call, Global, Id, Value};

const TRUNCATED: &str = "the pickle ends too early; hint: the file is truncated, copy or download it again";

#[derive(Clone, Copy, Debug)]
enum Slot {
    Value(Id),
    Mark,
}

pub(super) struct Machine<'a, G> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a, G>>,
    stack: Vec<Slot>,
    memo: HashMap<u32, Id>,
}

impl<'a, G: Global> Machine<'a, G> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, values: Vec::new(), stack: Vec::new(), memo: HashMap::new() }
    }

    /// Runs to the STOP opcode. Returns all values and the number of the last one.
    pub(super) fn run(mut self) -> anyhow::Result<(Vec<Value<'a, G>>, Id)> {
        loop {
            let start = self.at;
            let opcode = self.byte()?;
            if opcode == b'.' {
                let root = self.pop()?;
                return Ok((self.values, root));
            }
            self.step(opcode).with_context(|| format!("at byte {start} of the pickle"))?;
        }
    }

    fn step(&mut self, opcode: u8) -> anyhow::Result<()> {
        match opcode {
            0x80 => {
                let version = self.byte()?;
                ensure!(version <= 5, "pickle protocol {version} is not known");
                Ok(())
            }
            0x95 => self.take(8).map(drop),
            b'(' => {
                self.stack.push(Slot::Mark);
                Ok(())
            }
            b'0' => self.stack.pop().map(drop).context("its stack is empty"),
            b'1' => self.pop_to_mark().map(drop),
            b'2' => self.top().map(|id| self.stack.push(Slot::Value(id))),
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool(opcode == 0x88)),
            b'I' | b'L' | b'F' | b'G' | b'J' | b'K' | b'M' | 0x8a => self.number(opcode),
            b'S' | b'V' | b'U' | b'T' | b'B' | b'C' | 0x8e | b'X' | 0x8c | 0x8d => self.string(opcode),
            b'c' | 0x93 => self.global(opcode),
            b'Q' if G::HAS_OUTSIDE => {
                let description = self.pop()?;
                self.push(Value::Outside(description))
            }
            b'R' => self.reduce(),
            b'b' => self.build(),
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => self.memoise(opcode),
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
                let n_items = usize::from(opcode - 0x84);
                let mut items = (0..n_items).map(|_| self.pop()).collect::<anyhow::Result<Vec<_>>>()?;
                items.reverse();
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
            _ => bail!("it has the opcode 0x{opcode:02x}, which data does not need; nothing was executed"),
        }
    }

    fn number(&mut self, opcode: u8) -> anyhow::Result<()> {
        let value = match opcode {
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.fixed()?))),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.fixed()?))),
            0x8a => {
                let n_bytes = usize::from(self.byte()?);
                ensure!(n_bytes <= 8, "it has an integer of {n_bytes} bytes, and at most 8 are read");
                let digits = self.take(n_bytes)?;
                // Two's complement of any length: the sign of the last byte fills the rest.
                let fill = if digits.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
                let mut wide = [fill; 8];
                wide[..n_bytes].copy_from_slice(digits);
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
        let n_bytes = match opcode {
            b'U' | b'C' | 0x8c => usize::from(self.byte()?),
            b'T' | b'B' | b'X' => u32::from_le_bytes(self.fixed()?) as usize,
            0x8e | 0x8d => usize::try_from(u64::from_le_bytes(self.fixed()?)).context(TRUNCATED)?,
            _ => {
                let line = self.line()?;
                ensure!(!line.contains('\\'), "it has an escaped string of protocol 0, which is not read");
                return self.push(Value::Text(line.trim_matches(['\'', '"'])));
            }
        };
        let bytes = self.take(n_bytes)?;
        match opcode {
            b'X' | 0x8c | 0x8d => {
                self.push(Value::Text(std::str::from_utf8(bytes).context("it has text that is not UTF-8")?))
            }
            _ => self.push(Value::Bytes(bytes)),
        }
    }

    fn global(&mut self, opcode: u8) -> anyhow::Result<()> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            let name = self.pop()?;
            let module = self.pop()?;
            match (&self.values[module], &self.values[name]) {
                (Value::Text(module), Value::Text(name)) => (*module, *name),
                _ => bail!("it has a name that is not text"),
            }
        };
        self.push(Value::Global(G::named(module, name)?))
    }

    fn reduce(&mut self) -> anyhow::Result<()> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let Value::Global(function) = self.values[function] else {
            bail!("it calls {}", self.values[function].kind());
        };
        ensure!(matches!(self.values[arguments], Value::Tuple(_)), "it calls without a tuple of arguments");
        self.push(Value::Call(Call { function, arguments, items: Vec::new(), state: None }))
    }

    fn build(&mut self) -> anyhow::Result<()> {
        let state = self.pop()?;
        let target = self.top()?;
        match &mut self.values[target] {
            Value::Call(call) => call.state = Some(state),
            other => bail!("it sets the state of {}", other.kind()),
        }
        Ok(())
    }

    fn memoise(&mut self, opcode: u8) -> anyhow::Result<()> {
        let key = match opcode {
            b'p' | b'g' => self.line()?.parse().context("it has a malformed memo number")?,
            b'q' | b'h' => u32::from(self.byte()?),
            b'r' | b'j' => u32::from_le_bytes(self.fixed()?),
            _ => u32::try_from(self.memo.len()).context("its memo is full")?,
        };
        if matches!(opcode, b'g' | b'h' | b'j') {
            let id = *self.memo.get(&key).with_context(|| format!("it recalls memo {key}, which was never stored"))?;
            self.stack.push(Slot::Value(id));
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
            Value::Dict(entries) | Value::Call(Call { items: entries, .. }) => entries.extend(pairs(items)?),
            other => bail!("it sets items of {}", other.kind()),
        }
        Ok(())
    }

    fn push(&mut self, value: Value<'a, G>) -> anyhow::Result<()> {
        self.stack.push(Slot::Value(self.values.len()));
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> anyhow::Result<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn top(&self) -> anyhow::Result<Id> {
        match self.stack.last() {
            Some(Slot::Value(id)) => Ok(*id),
            Some(Slot::Mark) | None => bail!("it takes a value that it never made"),
        }
    }

    fn pop_to_mark(&mut self) -> anyhow::Result<Vec<Id>> {
        let mark = self.stack.iter().rposition(|slot| matches!(slot, Slot::Mark));
        let items = self.stack.split_off(mark.context("it closes what it never opened")?).into_iter();
        Ok(items.filter_map(|slot| if let Slot::Value(id) = slot { Some(id) } else { None }).collect())
    }

    fn byte(&mut self) -> anyhow::Result<u8> {
        Ok(self.fixed::<1>()?[0])
    }

    fn fixed<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        self.take(N)?.try_into().context(TRUNCATED)
    }

    fn take(&mut self, n_bytes: usize) -> anyhow::Result<&'a [u8]> {
        let end = self.at.checked_add(n_bytes).filter(|&end| end <= self.bytes.len()).context(TRUNCATED)?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn line(&mut self) -> anyhow::Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let n_bytes = rest.iter().position(|&byte| byte == b'\n').context(TRUNCATED)?;
        self.at += n_bytes + 1;
        std::str::from_utf8(&rest[..n_bytes]).context("it has a line that is not UTF-8")
    }
}

fn pairs(items: &[Id]) -> anyhow::Result<Vec<(Id, Id)>> {
    ensure!(items.len().is_multiple_of(2), "a dictionary has a key without a value");
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}
