//! PyTorch archives (`torch.save` since 1.6): a zip of `<name>/data.pkl` and the storages `<name>/data/<key>`.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, ensure};
use zip::{CompressionMethod, ZipArchive};

use super::mapped::MappedFile;
use super::pickle::{PickledTensor, read_state_dict};
use super::stored::StoredTensor;

/// The maximum unpacked size of a checkpoint's pickle. Real ones have some hundred bytes per tensor.
const N_PICKLE_BYTES_MAX: u64 = 256 << 20;

/// Returns all tensors of the archive at `path`, sorted by name.
///
/// # Errors
/// The file is not such an archive, is damaged, or its pickle would execute something.
pub(super) fn read_tensors(path: &Path) -> anyhow::Result<Vec<StoredTensor>> {
    let file = MappedFile::open(path)?;
    let mut tensors = read_archive(&file).with_context(|| format!("failed to read `{}`", path.display()))?;
    tensors.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(tensors)
}

fn read_archive(file: &MappedFile) -> anyhow::Result<Vec<StoredTensor>> {
    let bytes = file.bytes();
    ensure!(
        bytes.starts_with(b"PK"),
        "it is not a PyTorch archive, or is older than PyTorch 1.6; hint: load and save it once with a newer PyTorch, \
         or better as safetensors"
    );
    let mut archive = ZipArchive::new(Cursor::new(bytes))
        .map_err(|error| anyhow::anyhow!("{error}; hint: the file is truncated, copy or download it again"))?;
    let Contents { pickle, storages } = read_contents(&mut archive)?;
    read_state_dict(&pickle)?.into_iter().map(|tensor| locate(file, &storages, tensor)).collect()
}

struct Contents {
    pickle: Vec<u8>,
    /// The position of each storage's bytes in the file.
    storages: BTreeMap<String, Range<usize>>,
}

fn read_contents(archive: &mut ZipArchive<Cursor<&[u8]>>) -> anyhow::Result<Contents> {
    let mut pickle = None;
    let mut storages = BTreeMap::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let name = entry.name()?.into_owned();
        let Some((_, inner)) = name.split_once('/') else { continue };
        if inner == "data.pkl" {
            let mut bytes = Vec::new();
            entry.by_ref().take(N_PICKLE_BYTES_MAX).read_to_end(&mut bytes)?;
            pickle = Some(bytes);
        } else if inner == "byteorder" {
            let mut order = String::new();
            entry.by_ref().take(16).read_to_string(&mut order)?;
            ensure!(order.trim() == "little", "its numbers are {order}-endian, which is not read");
        } else if let Some(key) = inner.strip_prefix("data/") {
            ensure!(
                entry.compression() == CompressionMethod::Stored,
                "`{name}` is compressed, which PyTorch never does; hint: save it again with PyTorch"
            );
            let start = usize::try_from(entry.data_start().context("an entry without data")?)?;
            let end = start.checked_add(usize::try_from(entry.size())?).context("an entry without end")?;
            storages.insert(key.to_owned(), start..end);
        }
    }
    let pickle = pickle.context("it has no `data.pkl`; hint: give a file written by `torch.save`")?;
    Ok(Contents { pickle, storages })
}

fn locate(
    file: &MappedFile,
    storages: &BTreeMap<String, Range<usize>>,
    tensor: PickledTensor,
) -> anyhow::Result<StoredTensor> {
    let PickledTensor { key, storage, element, offset, shape, strides } = tensor;
    let bytes = storages.get(&storage).cloned().with_context(|| {
        format!("`{key}` is in `data/{storage}`, which the archive lacks; hint: copy or download it again")
    })?;
    StoredTensor { key, file: file.clone(), bytes, element, offset, shape, strides }.checked()
}
