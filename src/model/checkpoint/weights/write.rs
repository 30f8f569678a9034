//! Weights as bytes of safetensors files and PyTorch archives. The caller writes the files.

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Write};
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::stored::Element;

/// Files of a checkpoint that describe it and hold no weights, without its configuration. A changed checkpoint keeps them.
pub const COMPANIONS: [&str; 14] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "README.md",
    "LICENSE",
];

/// A tensor under its name in the file.
pub type NamedTensor = (String, Tensor);

/// Returns a safetensors file of `tensors`, in f32.
pub fn safetensors_bytes(tensors: &[NamedTensor]) -> Result<Vec<u8>> {
    let bytes = tensors.iter().map(|(_, tensor)| le_bytes(tensor)).collect::<Result<Vec<_>>>()?;
    let mut views = Vec::with_capacity(tensors.len());
    for ((name, tensor), bytes) in tensors.iter().zip(&bytes) {
        views.push((name.as_str(), TensorView::new(Dtype::F32, tensor.dims().to_vec(), bytes)?));
    }
    // Python's readers need the framework that wrote the file.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).context("failed to write tensors as safetensors")
}

/// A tensor in the type in which it is stored.
pub(super) struct RawTensor {
    /// The name in the file.
    pub(super) name: String,
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    /// The elements in row-major order, little-endian.
    pub(super) bytes: Vec<u8>,
}

/// Returns a safetensors file of `tensors`, each in its own type.
pub(super) fn raw_safetensors_bytes(tensors: &[RawTensor]) -> Result<Vec<u8>> {
    let mut views = Vec::with_capacity(tensors.len());
    for RawTensor { name, element, shape, bytes } in tensors {
        let dtype = dtype_of(*element).with_context(|| format!("`{name}` has a type that is not written"))?;
        views.push((name.as_str(), TensorView::new(dtype, shape.clone(), bytes)?));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).context("failed to write tensors as safetensors")
}

/// The type of a safetensors file; `None` for those that no model's parameters or buffers have.
fn dtype_of(element: Element) -> Option<Dtype> {
    Some(match element.name() {
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::BF16,
        "F64" => Dtype::F64,
        "BOOL" => Dtype::BOOL,
        "U8" => Dtype::U8,
        "I8" => Dtype::I8,
        "I16" => Dtype::I16,
        "I32" => Dtype::I32,
        "I64" => Dtype::I64,
        _ => return None,
    })
}

/// Reads the tensors of the file at `path` by name, as `dtype` on `device`.
pub fn read_tensors(path: &Path, dtype: DType, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let stored = super::checkpoint::read_tensors_of_file(path)?;
    stored.into_iter().map(|stored| Ok((stored.key.clone(), stored.to_tensor(dtype, device)?))).collect()
}

/// Returns what `torch.save` writes for a dictionary of `tensors`, in f32. `name` is the folder inside the archive.
pub fn torch_archive_bytes(name: &str, tensors: &[NamedTensor]) -> Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    // Readers map the storages, so they are not compressed.
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut add = |path: &str, bytes: &[u8]| -> Result<()> {
        archive.start_file(format!("{name}/{path}"), options)?;
        Ok(archive.write_all(bytes)?)
    };
    add("data.pkl", &pickled(tensors)?)?;
    add("byteorder", b"little")?;
    for (index, (_, tensor)) in tensors.iter().enumerate() {
        add(&format!("data/{index}"), &le_bytes(tensor)?)?;
    }
    add("version", b"3\n")?;
    Ok(archive.finish()?.into_inner())
}

fn le_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// The pickle (protocol 2) of `{name: torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False,
/// OrderedDict())}`.
fn pickled(tensors: &[NamedTensor]) -> Result<Vec<u8>> {
    let mut pickle = b"\x80\x02}(".to_vec();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        push_text(&mut pickle, name)?;
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        push_text(&mut pickle, "storage")?;
        pickle.extend(b"ctorch\nFloatStorage\n");
        push_text(&mut pickle, &index.to_string())?;
        push_text(&mut pickle, "cpu")?;
        push_integer(&mut pickle, tensor.elem_count())?;
        // The tuple names a storage outside the pickle, which begins at element 0.
        pickle.extend(b"tQK\x00");
        push_integers(&mut pickle, tensor.dims())?;
        push_integers(&mut pickle, &super::stored::contiguous_strides(tensor.dims()))?;
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(b"u.");
    Ok(pickle)
}

fn push_text(pickle: &mut Vec<u8>, text: &str) -> Result<()> {
    pickle.push(b'X');
    pickle.extend(u32::try_from(text.len())?.to_le_bytes());
    pickle.extend(text.as_bytes());
    Ok(())
}

fn push_integer(pickle: &mut Vec<u8>, value: usize) -> Result<()> {
    pickle.push(b'J');
    pickle.extend(i32::try_from(value).context("a tensor is too large for this archive")?.to_le_bytes());
    Ok(())
}

fn push_integers(pickle: &mut Vec<u8>, values: &[usize]) -> Result<()> {
    pickle.push(b'(');
    values.iter().try_for_each(|&value| push_integer(pickle, value))?;
    pickle.push(b't');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::read_tensors_of_file;
    use super::*;

    #[test]
    fn both_forms_are_read_back_bit_for_bit() {
        let tensors = vec![
            ("model.mm_projector.0.bias".to_owned(), Tensor::new(&[0.5f32, -1.25], &Device::Cpu).unwrap()),
            (
                "model.mm_projector.0.weight".to_owned(),
                Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu).unwrap(),
            ),
        ];
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("mm_projector.safetensors", safetensors_bytes(&tensors).unwrap()),
            ("mm_projector.bin", torch_archive_bytes("mm_projector", &tensors).unwrap()),
        ] {
            let path = folder.path().join(name);
            super::super::testing::write(&path, &bytes);
            let read = read_tensors_of_file(&path).unwrap();
            assert_eq!(read.len(), 2, "{name}");
            for (stored, (name, tensor)) in read.iter().zip(&tensors) {
                assert_eq!(&stored.key, name);
                assert_eq!(stored.shape, tensor.dims());
                assert_eq!(stored.to_f32().unwrap(), tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            }
        }
    }
}
