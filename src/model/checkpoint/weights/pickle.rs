//! The pickles inside PyTorch archives: dictionaries from names to tensors.

use anyhow::{Context, bail, ensure};

use super::stored::Element;
use crate::pickle::{Call, Global, Id, Pickle, Value};

/// A description of one tensor, before its bytes are located.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PickledTensor {
    /// The name in the dictionary.
    pub(super) key: String,
    /// The `data/<key>` of the archive that holds the elements.
    pub(super) storage: String,
    pub(super) element: Element,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// The callables and types of PyTorch's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Torch {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
}

impl Global for Torch {
    const HAS_OUTSIDE: bool = true;

    fn named(module: &str, name: &str) -> anyhow::Result<Self> {
        let known = match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", storage) => storage_element(storage).map(Self::Storage),
            _ => None,
        };
        known.with_context(|| {
            format!(
                "the pickle names `{}.{}`, which loading would execute; only tensors are read, and nothing was executed; \
                 hint: do not load this file anywhere unless you trust it, and ask its author for safetensors",
                module.escape_debug(),
                name.escape_debug()
            )
        })
    }
}

/// Reads the pickle of a dictionary from names to tensors (or of one that contains such a dictionary as `state_dict` or
/// `model_state_dict`).
///
/// # Errors
/// The pickle names a callable that is not allowed, is damaged, or holds something else.
pub(super) fn read_state_dict(bytes: &[u8]) -> anyhow::Result<Vec<PickledTensor>> {
    let pickle = Pickle::parse(bytes)?;
    let entries = dictionary(&pickle, pickle.root())
        .context("the pickle holds no dictionary of tensors; hint: give the file of a state dict")?;
    let nested = entries.iter().find_map(|&(key, value)| {
        let is_nested = matches!(pickle.value(key), Value::Text("state_dict" | "model_state_dict"));
        if is_nested { dictionary(&pickle, value) } else { None }
    });
    nested.unwrap_or(entries).iter().map(|&(key, value)| tensor(&pickle, key, value)).collect()
}

/// Returns the entries of a dictionary, ordered or not. The state that PyTorch gives an ordered one (`_metadata`) is
/// not needed.
fn dictionary<'p>(pickle: &'p Pickle<'_, Torch>, id: Id) -> Option<&'p [(Id, Id)]> {
    match pickle.value(id) {
        Value::Dict(entries) | Value::Call(Call { function: Torch::OrderedDict, items: entries, .. }) => Some(entries),
        _ => None,
    }
}

fn tensor(pickle: &Pickle<'_, Torch>, key: Id, value: Id) -> anyhow::Result<PickledTensor> {
    let key = pickle.text(key)?.to_owned();
    let mut value = value;
    // A parameter is a call around its tensor. A call comes after its arguments, so the loop ends.
    while let Value::Call(Call { function: Torch::RebuildParameter, arguments, .. }) = pickle.value(value) {
        value = *pickle.items(*arguments)?.first().context("the pickle has a parameter without a tensor")?;
    }
    let Value::Call(Call { function: Torch::RebuildTensor, arguments, .. }) = pickle.value(value) else {
        bail!("the pickle's entry `{key}` is not a tensor; hint: give the file of a state dict");
    };
    rebuilt(pickle, key.clone(), *arguments).with_context(|| format!("the pickle's tensor `{key}` is damaged"))
}

/// `(storage, offset, shape, strides, requires_grad, hooks[, metadata])`.
fn rebuilt(pickle: &Pickle<'_, Torch>, key: String, arguments: Id) -> anyhow::Result<PickledTensor> {
    let &[storage, offset, shape, strides, ..] = pickle.items(arguments)? else { bail!("it has too few parts") };
    let (storage, element) = storage_of(pickle, storage)?;
    let offset = pickle.size(offset)?;
    let (shape, strides) = (pickle.sizes(shape)?, pickle.sizes(strides)?);
    Ok(PickledTensor { key, storage, element, offset, shape, strides })
}

/// `('storage', type, key, location, number of elements)`, PyTorch's reference to a file of the archive.
fn storage_of(pickle: &Pickle<'_, Torch>, id: Id) -> anyhow::Result<(String, Element)> {
    let Value::Outside(description) = *pickle.value(id) else { bail!("it has no storage") };
    let &[tag, class, key, _location, _n_elements] = pickle.items(description)? else {
        bail!("it has a storage of other than five parts");
    };
    ensure!(matches!(pickle.value(tag), Value::Text("storage")), "it refers to something other than a storage");
    let Value::Global(Torch::Storage(element)) = *pickle.value(class) else { bail!("its storage has no known type") };
    Ok((pickle.text(key)?.to_owned(), element))
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
mod tests;
