//! Encoders against the reference tensors of transformers and open_clip.

use super::*;
use crate::domain::EncoderRelation;
use crate::model::testing::{References, assert_close, ids};
use crate::model::tower;
use crate::model::weights::testing::shared;

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// `template` is what the reference's texts were made with.
fn check(fixture: &str, template: &str) {
    let Some(shared) = shared() else { return };
    let dir = shared.join("fixtures").join(fixture);
    let expected = References::open(&dir);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let encoder = OpenedEncoder::open(checkpoint).unwrap().load(&Placement::cpu()).unwrap();
    let tower = encoder.towers.tower();
    let last = tower.last_state();
    // open_clip's embeddings were computed from the pixels of transformers' preprocessing, one crop row apart.
    let pixels = match fixture {
        "open_clip" => References::open(&shared.join("fixtures/clip"))["pixel_values"].clone(),
        _ => expected["pixel_values"].clone(),
    };
    let states = tower.hidden_states(&pixels, &[last - 1, last]).unwrap();
    if fixture != "open_clip" {
        assert_close(&states[0], &expected["vision_hidden_state_m2"], "vision_hidden_state_m2");
    }
    let images = encoder.towers.image_embeddings(&states[1]).unwrap();
    assert_close(&images, &expected["image_embeds_normalised"], "image_embeds_normalised");

    let texts = CLASSES.map(|class| template.replace("{}", class));
    let rows: Vec<Vec<u32>> =
        texts.iter().map(|text| encoder.towers.text_ids(&encoder.tokenizer, text).unwrap()).collect();
    let expected_ids = ids(&expected["input_ids"]);
    for (row, expected) in rows.iter().zip(&expected_ids) {
        // What follows the end-of-text token is padding, which the libraries fill differently and no tower sees.
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
fn a_tower_is_known_by_its_content() {
    let Some(shared) = shared() else { return };
    let open = |dir: &str| Checkpoint::open(shared.join(dir)).unwrap();
    let model = open("models/tiny-llava");
    let own = open("models/tiny-clip");
    let model = crate::model::mllm::OpenedModel::open(&model, None, None).unwrap().weights;
    let comparison = tower::compare(&model, &OpenedEncoder::open(own).unwrap().weights).unwrap();
    assert!(comparison.tower_equal);
    assert_eq!(comparison.relation, EncoderRelation::Own);
    let stranger = open("fixtures/clip");
    let comparison = tower::compare(&model, &OpenedEncoder::open(stranger).unwrap().weights).unwrap();
    assert!(!comparison.tower_equal);
    assert_eq!(comparison.relation, EncoderRelation::Other);
}
