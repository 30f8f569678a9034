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
