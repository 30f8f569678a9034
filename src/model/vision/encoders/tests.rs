//! Compares encoders with the reference tensors of transformers and open_clip.

use std::path::Path;

use candle_core::{DType, Device};

use super::*;
use crate::domain::EncoderRelation;
use crate::model::checkpoint::weights::testing::{copy_of, fixtures, golden, read_json, write};
use crate::model::checkpoint::weights::{Miniature, open_checkpoint};
use crate::model::testing::{References, assert_close, ids};
use crate::model::vision::tower_comparison;

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Checks the fixtures of a name; `template` is the template of the reference's texts.
fn check(fixture: &str, template: &str) {
    for dir in fixtures(fixture) {
        check_dir(&dir, template);
    }
}

fn check_dir(dir: &Path, template: &str) {
    let expected = References::open(dir);
    let checkpoint = Checkpoint::open(dir).unwrap();
    let encoder = OpenedEncoder::open(checkpoint).unwrap().load(&Placement::cpu()).unwrap();
    let tower = encoder.towers.tower();
    // open_clip's embeddings were computed from pixels of transformers' preprocessing, which differ by one crop row.
    let is_open_clip = dir.ends_with("open_clip");
    let pixels = match is_open_clip {
        true => References::open(&dir.with_file_name("clip"))["pixel_values"].clone(),
        false => expected["pixel_values"].clone(),
    };
    let before_last = tower.hidden_states(&pixels, &[tower.state_before_last()]).unwrap().swap_remove(0);
    if !is_open_clip {
        assert_close(&before_last, &expected["vision_hidden_state_m2"], "vision_hidden_state_m2");
    }
    let images = encoder.towers.image_embeddings(&before_last).unwrap();
    assert_close(&images, &expected["image_embeds_normalised"], "image_embeds_normalised");

    let texts = CLASSES.map(|class| template.replace("{}", class));
    let rows: Vec<Vec<u32>> =
        texts.iter().map(|text| encoder.towers.text_ids(&encoder.tokenizer, text).unwrap()).collect();
    let expected_ids = ids(&expected["input_ids"]);
    for (row, expected) in rows.iter().zip(&expected_ids) {
        // Tokens after end-of-text are padding, which libraries fill differently and no tower sees.
        let n_text = encoder.tokenizer.encode(&texts[0], true).unwrap().len().min(expected.len());
        assert_eq!(row[..n_text.min(4)], expected[..n_text.min(4)]);
    }
    assert_close(&encoder.towers.text_embeddings(&rows).unwrap(), &expected["text_embeds_normalised"], "our ids");
    assert_close(
        &encoder.towers.text_embeddings(&expected_ids).unwrap(),
        &expected["text_embeds_normalised"],
        "reference ids",
    );
    let labels = encoder.label_embeddings(&[template.to_owned()], &CLASSES).unwrap();
    let best = |logits: Tensor| logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
    assert_eq!(
        best(images.matmul(&labels.t().unwrap()).unwrap()),
        best(expected["logits_per_image"].clone()),
        "zero-shot labels"
    );
}

#[test]
fn clip_meets_transformers() {
    check("clip", "a photo of a {}.");
}

#[test]
fn clip_with_the_legacy_end_of_text_rule_meets_transformers() {
    check("clip_legacy_eos", "a photo of a {}.");
}

#[test]
fn open_clip_meets_its_own_library() {
    check("open_clip", "a photo of a {}.");
}

#[test]
fn siglip_meets_transformers() {
    check("siglip", "This is a photo of {}.");
}

#[test]
fn the_last_block_computes_wanted_tokens_to_the_bit_as_it_computes_all() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Encoder).unwrap();
        let placement = Placement { dtype, ..Placement::cpu() };
        let encoder = OpenedEncoder::open(checkpoint).unwrap().load(&placement).unwrap();
        let tower = encoder.towers.tower();
        let side = tower.config().image_size();
        let mut random = fastrand::Rng::with_seed(4);
        let pixels: Vec<f32> = (0..3 * 3 * side * side).map(|_| random.f32() * 4.0 - 2.0).collect();
        let pixels = Tensor::from_vec(pixels, (3, 3, side, side), &Device::Cpu).unwrap();
        let states = tower.hidden_states(&pixels, &[tower.last_state(), tower.state_before_last()]).unwrap();
        let floats = |x: &Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let n_tokens = states[0].dim(1).unwrap();
        for wanted in [0..1, 2..n_tokens, 0..n_tokens] {
            let expected = states[0].narrow(1, wanted.start, wanted.len()).unwrap();
            let computed = tower.last_block(&states[1], wanted.clone()).unwrap();
            assert_eq!(floats(&computed), floats(&expected), "{dtype:?}, {wanted:?}");
        }
    }
}

#[test]
fn an_encoder_around_a_tower_that_is_there_already_reads_no_other() {
    let open = || {
        let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Encoder).unwrap();
        OpenedEncoder::open(checkpoint).unwrap()
    };
    let placement = Placement::cpu();
    let first = open().load(&placement).unwrap();
    let second = open().load_around(Some(first.towers.tower().clone()), &placement).unwrap();
    assert!(Arc::ptr_eq(first.towers.tower(), second.towers.tower()));
    let opened = open();
    assert_eq!(opened.vision_config().unwrap(), *first.towers.tower().config());
    // The text side, the last norm and the projections remain.
    let n_beside = opened.n_bytes_beside_tower();
    assert!((1..opened.weights.n_bytes()).contains(&n_beside), "{n_beside}");
    let labels = |encoder: &Encoder| {
        let labels = encoder.label_embeddings(&["a photo of a {}.".to_owned()], &CLASSES).unwrap();
        labels.to_vec2::<f32>().unwrap()
    };
    assert_eq!(labels(&first), labels(&second));
}

#[test]
fn a_caption_is_the_same_beside_a_longer_one() {
    let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Encoder).unwrap();
    let encoder = OpenedEncoder::open(checkpoint).unwrap().load(&Placement::cpu()).unwrap();
    let texts = ["a cat", "a photo of a dog", "a photo of a pickup truck on a road"];
    let ids = texts.map(|text| encoder.towers.text_ids(&encoder.tokenizer, text).unwrap());
    let together = encoder.towers.text_embeddings(&ids).unwrap().to_vec2::<f32>().unwrap();
    for (ids, expected) in ids.iter().zip(&together) {
        let alone = encoder.towers.text_embeddings(std::slice::from_ref(ids)).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(&alone[0], expected);
    }
}

#[test]
fn a_tower_is_known_by_its_content() {
    let open = |miniature| open_checkpoint(Path::new("embedded"), miniature).unwrap();
    let model = open(Miniature::Model);
    let own = open(Miniature::Encoder);
    let model = crate::model::families::OpenedModel::open(&model, None, None).unwrap().weights;
    let comparison = tower_comparison::compare(&model, &OpenedEncoder::open(own).unwrap().weights).unwrap();
    assert!(comparison.tower_equal);
    assert_eq!(comparison.relation, EncoderRelation::Own);
    let stranger = Checkpoint::open(golden("fixtures/clip")).unwrap();
    let comparison = tower_comparison::compare(&model, &OpenedEncoder::open(stranger).unwrap().weights).unwrap();
    assert!(!comparison.tower_equal);
    assert_eq!(comparison.relation, EncoderRelation::Other);
}

#[test]
fn siglip_2_of_fixed_resolution_meets_transformers_under_both_names() {
    let folder = copy_of(&golden("tiled/siglip2"));
    for kind in ["siglip", "siglip2"] {
        let mut config = read_json(&folder.path().join("config.json"));
        config["model_type"] = kind.into();
        write(&folder.path().join("config.json"), config.to_string());
        check_dir(folder.path(), "This is a photo of {}.");
        let encoder = OpenedEncoder::open(Checkpoint::open(folder.path()).unwrap()).unwrap();
        let encoder = encoder.load(&Placement::cpu()).unwrap();
        // Padding is the tokenizer's (0), not the configuration's (1), and all texts are lower case.
        let expected = ids(&References::open(folder.path())["input_ids"]);
        for (class, expected) in CLASSES.iter().zip(&expected) {
            let text = format!("This is a photo of {class}.");
            assert_eq!(&encoder.towers.text_ids(&encoder.tokenizer, &text).unwrap(), expected);
        }
    }
}

#[test]
fn a_siglip_2_that_pads_on_the_left_ends_with_its_text() {
    let folder = copy_of(&golden("tiled/siglip2"));
    let mut config = read_json(&folder.path().join("tokenizer_config.json"));
    config["padding_side"] = "left".into();
    write(&folder.path().join("tokenizer_config.json"), config.to_string());
    let encoder = OpenedEncoder::open(Checkpoint::open(folder.path()).unwrap()).unwrap();
    let encoder = encoder.load(&Placement::cpu()).unwrap();
    let ids = encoder.towers.text_ids(&encoder.tokenizer, "a cat").unwrap();
    assert_eq!((ids[0], ids[23]), (0, 1));
}

#[test]
fn naflex_is_refused_by_name() {
    let folder = copy_of(&golden("tiled/siglip2"));
    let path = folder.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let name = "vision_model.embeddings.patch_embedding.weight";
    tensors.insert(name.to_owned(), tensors[name].flatten_from(1).unwrap());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let error = OpenedEncoder::open(Checkpoint::open(folder.path()).unwrap()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("NaFlex") && error.contains("hint"), "{error}");

    let mut config = read_json(&folder.path().join("config.json"));
    config["model_type"] = "siglip2".into();
    config["vision_config"].as_object_mut().unwrap().remove("image_size");
    write(&folder.path().join("config.json"), config.to_string());
    let error = (family_of(&Checkpoint::open(folder.path()).unwrap()).unwrap().vision_config)(
        &Checkpoint::open(folder.path()).unwrap(),
    );
    assert!(error.unwrap_err().to_string().contains("NaFlex"));
}
