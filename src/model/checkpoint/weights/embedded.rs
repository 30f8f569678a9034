//! The miniature's checkpoints, built in memory from data that is compiled into the program.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::checkpoint::{Checkpoint, Files};
use crate::assets::embedded::{self as assets, MINIATURE, MiniatureCheckpoint, WITHOUT_MINIATURE};

/// The user's name for the miniature.
pub const EMBEDDED: &str = "embedded";

/// Which of the miniature's two checkpoints the word `embedded` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miniature {
    /// The LLaVA.
    Model,
    /// The CLIP that has its tower.
    Encoder,
}

/// Returns whether the user means the miniature. A folder of that name can be given as `./embedded`.
pub fn is_embedded(text: &Path) -> bool {
    text.as_os_str() == EMBEDDED
}

/// Opens a folder, or the miniature's checkpoint for `embedded`.
///
/// # Errors
/// Those of [`Checkpoint::open`]; or the program was built without the miniature.
pub fn open_checkpoint(text: &Path, miniature: Miniature) -> anyhow::Result<Checkpoint> {
    if is_embedded(text) { open_miniature(MINIATURE.as_ref(), miniature) } else { Checkpoint::open(text) }
}

fn open_miniature(assets: Option<&assets::Miniature>, miniature: Miniature) -> anyhow::Result<Checkpoint> {
    let assets = assets.context(WITHOUT_MINIATURE)?;
    let (name, own) = match miniature {
        Miniature::Model => ("embedded-llava", &assets.llava),
        Miniature::Encoder => ("embedded-clip", &assets.clip),
    };
    let weights = safetensors(own, assets.tower).with_context(|| format!("failed to unpack `{name}`"))?;
    let mut files: Files =
        own.files.iter().map(|(file, bytes)| ((*file).to_owned(), Arc::new(bytes.to_vec()))).collect();
    files.insert("model.safetensors".to_owned(), Arc::new(weights));
    Checkpoint::in_memory(name, files)
}

/// Returns the bytes of `model.safetensors`: the length of the header, the header, the tower's values, and the
/// checkpoint's own values.
fn safetensors(own: &MiniatureCheckpoint, tower: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = (own.header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(own.header);
    for packed in [tower, own.values] {
        unpack(packed, &mut bytes)?;
    }
    Ok(bytes)
}

/// Interleaves low and high bytes. They are stored apart, because only the high ones, with sign and exponent, repeat: the number of
/// values (8 bytes, little-endian), the low bytes as they are, and the high bytes in LZMA.
fn unpack(packed: &[u8], values: &mut Vec<u8>) -> anyhow::Result<()> {
    let (n_values, rest) = packed.split_at_checked(8).context("it has no number of values")?;
    let n_values = usize::try_from(u64::from_le_bytes(n_values.try_into()?))?;
    let (low, mut high_packed) = rest.split_at_checked(n_values).context("it has fewer low bytes than values")?;
    let mut high = Vec::with_capacity(n_values);
    lzma_rs::lzma_decompress(&mut high_packed, &mut high)?;
    ensure!(high.len() == n_values, "it has {n_values} values and {} high bytes", high.len());
    values.extend(low.iter().zip(&high).flat_map(|(&low, &high)| [low, high]));
    Ok(())
}

#[cfg(test)]
mod tests;
