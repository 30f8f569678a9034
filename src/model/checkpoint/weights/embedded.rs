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
mod tests {
    use sha2::{Digest, Sha256};

    use super::super::{Weights, canonical_dual_encoder, canonical_llava};
    use super::*;

    fn sha256_of_weights(miniature: Miniature) -> String {
        let checkpoint = open_checkpoint(Path::new("embedded"), miniature).unwrap();
        let bytes = checkpoint.read_file("model.safetensors").unwrap().unwrap();
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_weights_are_the_files_that_numpy_rounded() {
        // The output of `make_embedded.py`.
        let expected = "2dbbedcda9677e3f8722070877b673038c7f4fedd64aafd95b83b8b2ccf84e13";
        assert_eq!(sha256_of_weights(Miniature::Model), expected);
        let expected = "9a9582b1e4cc20cbc29d29695b62a208ce149d6d3d346927a146c324aee7d394";
        assert_eq!(sha256_of_weights(Miniature::Encoder), expected);
    }

    #[test]
    fn both_checkpoints_have_one_tower() {
        let model = open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap();
        let encoder = open_checkpoint(Path::new("embedded"), Miniature::Encoder).unwrap();
        assert_eq!((model.name(), encoder.name()), ("embedded-llava".to_owned(), "embedded-clip".to_owned()));
        let (model, encoder) =
            (Weights::new(&model, canonical_llava).unwrap(), Weights::new(&encoder, canonical_dual_encoder).unwrap());
        let mut n_compared = 0;
        for name in encoder.names().filter_map(|name| name.strip_prefix("vision_model.")) {
            let of_model = model.tensor_hash(&format!("vision_tower.{name}")).unwrap();
            assert!(of_model.is_some() && of_model == encoder.tensor_hash(&format!("vision_model.{name}")).unwrap());
            n_compared += 1;
        }
        assert!(n_compared > 100);
    }

    #[test]
    fn a_folder_of_that_name_is_reached_by_its_path() {
        assert!(is_embedded(Path::new("embedded")));
        for path in ["./embedded", "embedded/", "runs/embedded", "embedded-llava"] {
            assert!(!is_embedded(Path::new(path)), "{path}");
        }
        let error = open_checkpoint(Path::new("./embedded"), Miniature::Model).unwrap_err().to_string();
        assert!(error.contains("no such folder"), "{error}");
    }

    #[test]
    fn a_program_without_the_miniature_says_how_to_build_one_with_it() {
        let error = open_miniature(None, Miniature::Model).unwrap_err().to_string();
        assert!(error.contains("demo-assets") && error.contains("hint"), "{error}");
    }

    #[test]
    fn damaged_values_are_an_error() {
        let pack = |low: &[u8], high: &[u8]| {
            let mut packed = [&(low.len() as u64).to_le_bytes()[..], low].concat();
            lzma_rs::lzma_compress(&mut &*high, &mut packed).unwrap();
            packed
        };
        let mut values = Vec::new();
        unpack(&pack(&[1, 2], &[11, 12]), &mut values).unwrap();
        assert_eq!(values, [1, 11, 2, 12]);
        let whole = pack(&[1, 2], &[11, 12]);
        for damaged in [&pack(&[1, 2], &[11]), &whole[..whole.len() - 3], &whole[..9], &whole[..3], &[255; 20]] {
            assert!(unpack(damaged, &mut values).is_err(), "{damaged:?}");
        }
    }
}
