//! Generation settings give the same answers in batches and alone.

use serde_json::{Value, json};

use super::*;
use crate::domain::RgbImage;
use crate::model::checkpoint::weights::{Miniature, open_checkpoint};
use crate::model::run::generation_config::GenerationConfig;

/// The miniature's answers to three images with prompts of different lengths, in a batch and alone, under `settings`.
fn answers_under(settings: &Value) -> [Vec<Generation>; 2] {
    let checkpoint = open_checkpoint(std::path::Path::new("embedded"), Miniature::Model).unwrap();
    let mut opened = OpenedModel::open(&checkpoint, None, None).unwrap();
    let eos_ids = opened.dialogue.eos_ids.clone();
    Arc::get_mut(&mut opened.dialogue).unwrap().generation = GenerationConfig::parse(settings, "it", &eos_ids).unwrap();
    let model = opened.load(&Placement::cpu()).unwrap();
    let inputs = [[200u8, 30, 30], [20, 120, 220], [90, 200, 90]].map(|colour| {
        let image = RgbImage::new(8, 8, colour.repeat(64)).unwrap();
        model.preprocessor.prepare(&image)
    });
    let images = model.mllm.embed_images(&model.mllm.see(&inputs.each_ref()).unwrap()).unwrap();
    // Different lengths, so that rows are padded.
    let prompts =
        ["What is this?", "What is the object in the image? Answer with one object.", "Say it, say it twice."]
            .map(|question| model.dialogue.render(question).unwrap());
    let decoding = model.dialogue.decoding(8);
    let answer = |rows: &[usize]| -> Vec<Generation> {
        let prompts: Vec<&RenderedPrompt> = rows.iter().map(|&row| &prompts[row]).collect();
        let images: Vec<ImageEmbedding> = rows.iter().map(|&row| images[row].clone()).collect();
        let prefix = model.read_about(None, &prompts, &images, 8).unwrap();
        model.generate(prefix, &decoding).unwrap().into_iter().map(Result::unwrap).collect()
    };
    [answer(&[0, 1, 2]), (0..3).flat_map(|row| answer(&[row])).collect()]
}

#[test]
fn generation_settings_hold_in_batches_as_alone() {
    let [plain, _] = answers_under(&json!({"min_new_tokens": 5}));
    let said: Vec<u32> = plain.iter().flat_map(|row| row.ids.clone()).collect();
    // The miniature answers in one or two words. Only longer answers repeat anything.
    for settings in [
        json!({"min_new_tokens": 5, "repetition_penalty": 1.8}),
        json!({"min_new_tokens": 5, "no_repeat_ngram_size": 1}),
        json!({"min_new_tokens": 6}),
        json!({"min_length": 400, "encoder_repetition_penalty": 1.3}),
        json!({ "suppress_tokens": said }),
    ] {
        let [together, alone] = answers_under(&settings);
        for (a, b) in together.iter().zip(&alone) {
            assert_eq!(a.ids, b.ids, "{settings}");
            assert!((a.logit_gap - b.logit_gap).abs() < 1e-3, "{settings}: {} {}", a.logit_gap, b.logit_gap);
        }
        let is_changed = together.iter().zip(&plain).any(|(a, b)| a.ids != b.ids || a.logit_gap != b.logit_gap);
        assert!(is_changed, "{settings} changes nothing");
    }
    let [longer, _] = answers_under(&json!({"min_new_tokens": 6}));
    assert!(longer.iter().all(|row| row.ids.len() >= 6), "{longer:?}");
}

#[test]
fn processors_see_a_placeholder_for_each_position_of_an_image() {
    let checkpoint = open_checkpoint(std::path::Path::new("embedded"), Miniature::Model).unwrap();
    let model = OpenedModel::open(&checkpoint, None, None).unwrap().load(&Placement::cpu()).unwrap();
    let input = model.preprocessor.prepare(&RgbImage::blank(8, 8));
    let image = model.mllm.embed_images(&model.mllm.see(&[&input]).unwrap()).unwrap().remove(0);
    let prompt = model.dialogue.render("What is this?").unwrap();
    let row = model.place(&prompt, std::slice::from_ref(&image)).unwrap();
    let marker = model.dialogue.tokenizer.token_id(model.dialogue.image_marker);
    match marker {
        // As transformers' processor expands it.
        Some(marker) => {
            let expected: Vec<u32> = prompt.ids.iter().map(|id| id.unwrap_or(marker)).collect();
            assert_eq!(row.ids, expected);
        }
        // The original LLaVA passes embeddings and no ids.
        None => assert_eq!(row.ids, Vec::<u32>::new()),
    }
}
