//! Safetensors files: a JSON header, then raw tensors.

use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors};

use super::mapped::MappedFile;
use super::stored::{Element, StoredTensor, contiguous_strides};

/// Bytes of the little-endian length before the JSON header.
const N_LENGTH_BYTES: usize = 8;

/// Returns all tensors of the file at `path`, sorted by name.
pub(super) fn read_tensors(path: &Path) -> anyhow::Result<Vec<StoredTensor>> {
    tensors_of(&MappedFile::open(path)?)
}

/// Returns all tensors of an opened file, sorted by name.
pub(super) fn tensors_of(file: &MappedFile) -> anyhow::Result<Vec<StoredTensor>> {
    let path = file.path();
    let (n_header_bytes, metadata) = SafeTensors::read_metadata(file.bytes())
        .map_err(|error| anyhow::anyhow!(describe(path, file.bytes().len(), &error)))?;
    let data_start = n_header_bytes + N_LENGTH_BYTES;
    let mut tensors = list(&metadata)
        .into_iter()
        .map(|(key, info)| {
            let bytes = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
            let strides = contiguous_strides(&info.shape);
            let (file, element, shape) = (file.clone(), element_of(info.dtype), info.shape.clone());
            StoredTensor { key, file, bytes, element, offset: 0, shape, strides }.checked()
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    tensors.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(tensors)
}

fn list(metadata: &Metadata) -> Vec<(String, &safetensors::tensor::TensorInfo)> {
    metadata.tensors().into_iter().collect()
}

fn describe(path: &Path, n_bytes: usize, error: &SafeTensorError) -> String {
    let why = match error {
        SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => {
            "it is truncated, or longer than its header says".to_owned()
        }
        SafeTensorError::HeaderTooSmall | SafeTensorError::HeaderTooLarge => "it is not a safetensors file".to_owned(),
        other => format!("{other}"),
    };
    format!(
        "failed to read `{}` ({n_bytes} bytes): {why}; hint: copy or download it again, a Git LFS pointer is not the file",
        path.display()
    )
}

fn element_of(dtype: Dtype) -> Element {
    let other = |name| Element::Other { name, n_bits: dtype.bitsize() };
    match dtype {
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::BF16,
        Dtype::F64 => Element::F64,
        Dtype::BOOL => other("BOOL"),
        Dtype::U8 => other("U8"),
        Dtype::I8 => other("I8"),
        Dtype::I16 => other("I16"),
        Dtype::U16 => other("U16"),
        Dtype::I32 => other("I32"),
        Dtype::U32 => other("U32"),
        Dtype::I64 => other("I64"),
        Dtype::U64 => other("U64"),
        Dtype::F8_E4M3 => other("F8_E4M3"),
        Dtype::F8_E5M2 => other("F8_E5M2"),
        _ => other("a packed type"),
    }
}
