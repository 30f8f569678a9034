//! An interpreter for the pickles inside PyTorch archives that can build tensors and nothing else.
//!
//! A pickle is a program for a stack machine; Python's runs any callable it names. This one knows an ordered
//! dictionary, torch's tensor builder and its storage types, and refuses every other name, so that opening a
//! checkpoint never executes code. Values live in an arena and refer to each other by index: cycles and deep nesting
//! in a hostile file cost memory in proportion to its length, and no recursion.

use anyhow::{Context, bail, ensure};

use super::stored::Element;

/// A description of one tensor, before its bytes are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PickledTensor {
    /// The name in the dictionary.
    pub(super) key: String,
    /// Which `data/<key>` of the archive holds the elements.
    pub(super) storage: String,
    pub(super) element: Element,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Reads the pickle of a dictionary from names to tensors (or one that holds such a dictionary as `state_dict`).
///
/// # Errors
/// The pickle names a callable that is not one of the harmless ones, is damaged, or holds something else.
pub(super) fn read_state_dict(bytes: &[u8]) -> anyhow::Result<Vec<PickledTensor>> {
    let mut machine = Machine { input: bytes, position: 0, nodes: Vec::new(), stack: Vec::new(), memo: Vec::new() };
    let root = machine.run()?;
    machine.tensors_of(root)
}

/// An index into the arena.
type Id = u32;

#[derive(Clone, Debug)]
enum Node {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    StorageType(Element),
    Storage { element: Element, key: String },
    Tensor { element: Element, storage: String, offset: usize, shape: Vec<usize>, strides: Vec<usize> },
}

#[derive(Clone, Copy, Debug)]
enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Value(Id),
    Mark,
}

struct Machine<'a> {
    input: &'a [u8],
    position: usize,
    nodes: Vec<Node>,
    stack: Vec<Slot>,
    memo: Vec<Option<Id>>,
}

impl Machine<'_> {
    fn run(&mut self) -> anyhow::Result<Id> {
        loop {
            let start = self.position;
            let opcode = self.take::<1>()?[0];
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode).with_context(|| format!("at byte {start} of the pickle"))?;
        }
    }

    fn step(&mut self, opcode: u8) -> anyhow::Result<()> {
        match opcode {
            b'N' => self.push(Node::None),
            0x88 | 0x89 => self.push(Node::Bool),
            b'G' => {
                self.take::<8>()?;
                self.push(Node::Float)
            }
            b'K' | b'M' | b'J' | 0x8a => self.push_integer(opcode),
            b'X' | 0x8c | 0x8d => self.push_text(opcode),
            b'(' => {
                self.stack.push(Slot::Mark);
                Ok(())
            }
            b')' | b't' | 0x85..=0x87 => self.push_tuple(opcode),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b'a' | b'e' | b's' | b'u' => self.extend_container(opcode),
            b'c' | 0x93 => self.push_global(opcode),
            b'Q' => self.push_storage(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            b'q' | b'r' | b'h' | b'j' | 0x94 => self.memoise(opcode),
            b'0' => self.pop().map(|_| ()),
            0x80 => {
                let [version] = self.take()?;
                ensure!(version <= 5, "pickle protocol {version} is not known");
                Ok(())
            }
            0x95 => self.take::<8>().map(|_| ()),
            other => bail!("opcode 0x{other:02x} has no place in a checkpoint"),
        }
    }

    fn push_integer(&mut self, opcode: u8) -> anyhow::Result<()> {
        let value = match opcode {
            b'K' => i64::from(self.take::<1>()?[0]),
            b'M' => i64::from(u16::from_le_bytes(self.take()?)),
            b'J' => i64::from(i32::from_le_bytes(self.take()?)),
            _ => {
                let n_bytes = usize::from(self.take::<1>()?[0]);
                ensure!(n_bytes <= 8, "an integer of {n_bytes} bytes");
                let digits = self.take_slice(n_bytes)?;
                // Two's complement of any length: the last byte's sign fills the rest.
                let fill = if digits.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
                let mut raw = [fill; 8];
                raw[..n_bytes].copy_from_slice(digits);
                i64::from_le_bytes(raw)
            }
        };
        self.push(Node::Int(value))
    }

    fn push_text(&mut self, opcode: u8) -> anyhow::Result<()> {
        let n_bytes = match opcode {
            0x8c => u64::from(self.take::<1>()?[0]),
            b'X' => u64::from(u32::from_le_bytes(self.take()?)),
            _ => u64::from_le_bytes(self.take()?),
        };
        let bytes = self.take_slice(usize::try_from(n_bytes)?)?;
        let text = std::str::from_utf8(bytes).context("a text that is not UTF-8")?.to_owned();
        self.push(Node::Text(text))
    }

    fn push_tuple(&mut self, opcode: u8) -> anyhow::Result<()> {
        let items = match opcode {
            b')' => Vec::new(),
            b't' => self.pop_to_mark()?,
            _ => {
                let n_items = usize::from(opcode - 0x84);
                let mut items = (0..n_items).map(|_| self.pop()).collect::<anyhow::Result<Vec<_>>>()?;
                items.reverse();
                items
            }
        };
        self.push(Node::Tuple(items))
    }

    fn extend_container(&mut self, opcode: u8) -> anyhow::Result<()> {
        let items = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let container = self.peek()?;
        match (&mut self.nodes[container as usize], opcode) {
            (Node::List(list), b'a' | b'e') => list.extend(items),
            (Node::Dict(entries), b's' | b'u') => {
                ensure!(items.len().is_multiple_of(2), "a dictionary key without a value");
                entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => bail!("items are added to what is no list or dictionary"),
        }
        Ok(())
    }

    fn push_global(&mut self, opcode: u8) -> anyhow::Result<()> {
        let (module, name) = if opcode == b'c' {
            (self.take_line()?, self.take_line()?)
        } else {
            let name = self.pop_text()?;
            (self.pop_text()?, name)
        };
        let node = match (module.as_str(), name.as_str()) {
            ("collections", "OrderedDict") => Node::Callable(Callable::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Node::Callable(Callable::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Node::Callable(Callable::RebuildParameter),
            ("torch", storage) if storage_element(storage).is_some() => {
                Node::StorageType(storage_element(storage).context("a storage type")?)
            }
            _ => bail!(
                "the pickle names `{module}.{name}`, which loading would execute; only tensors are read; hint: do not \
                 load this file anywhere unless you trust it, and ask its author for safetensors"
            ),
        };
        self.push(node)
    }

    /// `('storage', type, key, location, number of elements)`, torch's reference to a file of the archive.
    fn push_storage(&mut self) -> anyhow::Result<()> {
        let id = self.pop()?;
        let fields = self.tuple(id)?.to_vec();
        let [tag, kind, key, _location, _n_elements] = fields.as_slice() else {
            bail!("a storage reference of {} parts", fields.len());
        };
        ensure!(matches!(self.node(*tag), Node::Text(tag) if tag == "storage"), "a reference to something else");
        let Node::StorageType(element) = *self.node(*kind) else { bail!("a storage of unknown type") };
        let key = self.text(*key)?.to_owned();
        self.push(Node::Storage { element, key })
    }

    fn reduce(&mut self) -> anyhow::Result<()> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let Node::Callable(callable) = *self.node(callable) else { bail!("something that is no function is called") };
        let arguments = self.tuple(arguments)?.to_vec();
        match callable {
            // The pairs of an ordered dictionary follow as items; torch never passes them here.
            Callable::OrderedDict => {
                ensure!(arguments.is_empty(), "an ordered dictionary with arguments");
                self.push(Node::Dict(Vec::new()))
            }
            Callable::RebuildTensor => self.rebuild_tensor(&arguments),
            Callable::RebuildParameter => {
                let tensor = *arguments.first().context("a parameter without a tensor")?;
                self.stack.push(Slot::Value(tensor));
                Ok(())
            }
        }
    }

    /// `(storage, offset, shape, strides, requires_grad, hooks[, metadata])`.
    fn rebuild_tensor(&mut self, arguments: &[Id]) -> anyhow::Result<()> {
        let [storage, offset, shape, strides, ..] = arguments else { bail!("a tensor of too few parts") };
        let Node::Storage { element, key } = self.node(*storage) else { bail!("a tensor without a storage") };
        let (element, storage) = (*element, key.clone());
        let offset = self.size(*offset)?;
        let sizes =
            |id: Id| self.tuple(id)?.iter().map(|&side| self.size(side)).collect::<anyhow::Result<Vec<usize>>>();
        let (shape, strides) = (sizes(*shape)?, sizes(*strides)?);
        self.push(Node::Tensor { element, storage, offset, shape, strides })
    }

    /// Attributes set on a dictionary (torch's `_metadata`) are dropped; on anything else there is nothing to set.
    fn build(&mut self) -> anyhow::Result<()> {
        self.pop()?;
        let target = self.peek()?;
        ensure!(matches!(self.node(target), Node::Dict(_)), "attributes are set on what is no dictionary");
        Ok(())
    }

    fn memoise(&mut self, opcode: u8) -> anyhow::Result<()> {
        let index = match opcode {
            b'q' | b'h' => usize::from(self.take::<1>()?[0]),
            b'r' | b'j' => usize::try_from(u32::from_le_bytes(self.take()?))?,
            _ => self.memo.len(),
        };
        if matches!(opcode, b'h' | b'j') {
            let id = self.memo.get(index).copied().flatten().context("a reference to what was never stored")?;
            self.stack.push(Slot::Value(id));
            return Ok(());
        }
        // Every entry follows at least one opcode, so an index beyond the input's length is no honest one.
        ensure!(index < self.input.len(), "memo entry {index} of a pickle of {} bytes", self.input.len());
        let id = self.peek()?;
        if index >= self.memo.len() {
            self.memo.resize(index + 1, None);
        }
        self.memo[index] = Some(id);
        Ok(())
    }

    fn tensors_of(&self, root: Id) -> anyhow::Result<Vec<PickledTensor>> {
        let mut entries = self.dict(root)?;
        for &(key, value) in entries {
            if self.text(key).is_ok_and(|key| key == "state_dict") && matches!(self.node(value), Node::Dict(_)) {
                entries = self.dict(value)?;
                break;
            }
        }
        entries
            .iter()
            .map(|&(key, value)| {
                let key = self.text(key)?.to_owned();
                let Node::Tensor { element, storage, offset, shape, strides } = self.node(value).clone() else {
                    bail!("the pickle's entry `{key}` is no tensor; hint: give the file of a state dict");
                };
                Ok(PickledTensor { key, storage, element, offset, shape, strides })
            })
            .collect()
    }

    fn push(&mut self, node: Node) -> anyhow::Result<()> {
        let id = Id::try_from(self.nodes.len()).context("the pickle is too large")?;
        self.nodes.push(node);
        self.stack.push(Slot::Value(id));
        Ok(())
    }

    fn pop(&mut self) -> anyhow::Result<Id> {
        match self.stack.pop() {
            Some(Slot::Value(id)) => Ok(id),
            Some(Slot::Mark) | None => bail!("the pickle takes a value that it never made"),
        }
    }

    fn pop_text(&mut self) -> anyhow::Result<String> {
        let id = self.pop()?;
        Ok(self.text(id)?.to_owned())
    }

    fn pop_to_mark(&mut self) -> anyhow::Result<Vec<Id>> {
        let mark = self.stack.iter().rposition(|slot| matches!(slot, Slot::Mark)).context("a missing mark")?;
        let items = self.stack.split_off(mark).into_iter();
        Ok(items.filter_map(|slot| if let Slot::Value(id) = slot { Some(id) } else { None }).collect())
    }

    fn peek(&self) -> anyhow::Result<Id> {
        match self.stack.last() {
            Some(Slot::Value(id)) => Ok(*id),
            Some(Slot::Mark) | None => bail!("the pickle refers to a value that it never made"),
        }
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    fn text(&self, id: Id) -> anyhow::Result<&str> {
        if let Node::Text(text) = self.node(id) { Ok(text) } else { bail!("a name that is no text") }
    }

    fn tuple(&self, id: Id) -> anyhow::Result<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Ok(items),
            _ => bail!("a value where a tuple belongs"),
        }
    }

    fn dict(&self, id: Id) -> anyhow::Result<&[(Id, Id)]> {
        if let Node::Dict(entries) = self.node(id) {
            Ok(entries)
        } else {
            bail!("the pickle holds no dictionary of tensors; hint: give the file of a state dict")
        }
    }

    fn size(&self, id: Id) -> anyhow::Result<usize> {
        match self.node(id) {
            Node::Int(value) => usize::try_from(*value).context("a negative size"),
            _ => bail!("a size that is no integer"),
        }
    }

    fn take<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        Ok(self.take_slice(N)?.try_into().expect("the slice has N bytes"))
    }

    fn take_slice(&mut self, n_bytes: usize) -> anyhow::Result<&[u8]> {
        let end = self.position.checked_add(n_bytes).filter(|&end| end <= self.input.len());
        let end = end.context("the pickle ends too early; hint: the file is truncated, copy or download it again")?;
        let slice = &self.input[self.position..end];
        self.position = end;
        Ok(slice)
    }

    fn take_line(&mut self) -> anyhow::Result<String> {
        let rest = &self.input[self.position..];
        let n_bytes = rest.iter().position(|&byte| byte == b'\n').context("the pickle ends within a name")?;
        let line = std::str::from_utf8(&rest[..n_bytes]).context("a name that is not UTF-8")?.to_owned();
        self.position += n_bytes + 1;
        Ok(line)
    }
}

fn storage_element(name: &str) -> Option<Element> {
    Some(match name {
        "FloatStorage" => Element::F32,
        "HalfStorage" => Element::F16,
        "BFloat16Storage" => Element::BF16,
        "DoubleStorage" => Element::F64,
        "LongStorage" => Element::Other { name: "I64", n_bits: 64 },
        "IntStorage" => Element::Other { name: "I32", n_bits: 32 },
        "ShortStorage" => Element::Other { name: "I16", n_bits: 16 },
        "CharStorage" => Element::Other { name: "I8", n_bits: 8 },
        "ByteStorage" => Element::Other { name: "U8", n_bits: 8 },
        "BoolStorage" => Element::Other { name: "BOOL", n_bits: 8 },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `{"w": tensor of shape (2, 3) in storage "0"}` as torch writes it.
    fn honest() -> Vec<u8> {
        let mut pickle = b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((".to_vec();
        pickle.extend(b"X\x07\x00\x00\x00storagectorch\nHalfStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ");
        pickle.extend(b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtRs.");
        pickle
    }

    #[test]
    fn a_tensor_is_described_by_its_storage_shape_and_strides() {
        let tensors = read_state_dict(&honest()).unwrap();
        assert_eq!(
            tensors,
            [PickledTensor {
                key: "w".into(),
                storage: "0".into(),
                element: Element::F16,
                offset: 0,
                shape: vec![2, 3],
                strides: vec![3, 1],
            }]
        );
    }

    #[test]
    fn a_pickle_with_code_is_refused_by_the_name_it_would_call() {
        for (pickle, name) in [
            (b"cposix\nsystem\n(X\x02\x00\x00\x00lstR.".as_slice(), "posix.system"),
            (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93(\x8c\x011tR.", "builtins.eval"),
        ] {
            let error = format!("{:#}", read_state_dict(pickle).unwrap_err());
            assert!(error.contains(name) && error.contains("hint:"), "{error}");
        }
    }

    #[test]
    fn deep_nesting_ends_in_an_error_and_not_in_a_crash() {
        let mut pickle = vec![b')'];
        pickle.extend(std::iter::repeat_n(0x85, 1_000_000));
        pickle.push(b'.');
        assert!(read_state_dict(&pickle).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = read_state_dict(&bytes);
        }

        #[test]
        fn a_damaged_pickle_never_panics(at in 0..1000usize, byte in any::<u8>(), keep in 0..1000usize) {
            let mut pickle = honest();
            let n_bytes = pickle.len();
            pickle[at % n_bytes] = byte;
            let _ = read_state_dict(&pickle);
            prop_assert!(read_state_dict(&honest()[..keep % n_bytes]).is_err());
        }
    }
}
