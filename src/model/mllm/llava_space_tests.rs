//! LLaVA's configuration space against transformers: language models, towers, feature layers and select strategies.

use std::path::Path;

use super::tests::{Loaded, load};
use super::*;
use crate::model::testing::{References, assert_close, ids};
use crate::model::weights::testing::{shared, write};

/// What the fixtures ask.
const QUESTION: &str = "What is the object in the image? Please only answer a single object in airplane, automobile, \
    bird, cat, deer, dog, frog, horse, ship, truck.";

/// As many tokens as the references have after each prompt of `pixels`.
fn generated(loaded: &Loaded, prompt: &RenderedPrompt, pixels: &Tensor, n_tokens: usize) -> Vec<Vec<u32>> {
    let decoding = Decoding { max_new_tokens: n_tokens, eos_ids: vec![u32::MAX], stop_strings: Vec::new() };
    let opening = loaded.model.opening(prompt).unwrap();
    let prefix = loaded.model.read(Some(&opening), &[prompt], &loaded.images(pixels), n_tokens).unwrap();
    loaded.model.generate(prefix, &decoding).unwrap().into_iter().map(|row| row.unwrap().ids).collect()
}

/// Meets all tensors of a reference but the pixel values, which are what the model is given.
fn check_fixture(dir: &Path, expected: &References) {
    let loaded = load(dir, None, None);
    let prompt = loaded.model.dialogue.render(QUESTION).unwrap();
    let what = dir.display().to_string();
    for image in 0..3 {
        let name = |tensor: &str| format!("{image}.{tensor}");
        let pixels = &expected[&name("pixel_values")];
        let image_token = loaded.model.dialogue.tokenizer.token_id("<image>").unwrap();
        let rendered: Vec<u32> = prompt.ids.iter().map(|id| id.unwrap_or(image_token)).collect();
        assert_eq!(vec![rendered], ids(&expected[&name("input_ids")]), "{what}");
        let features = loaded.images(pixels)[0].embeddings.unsqueeze(0).unwrap();
        assert_close(&features, &expected[&name("image_features_projected")], &what);
        let (hidden, logits) = loaded.forward(&prompt, pixels);
        if image == 0 {
            assert_close(&hidden, &expected["0.last_hidden_state"], &what);
            assert_close(&logits, &expected["0.all_logits"], &what);
        }
        let last = logits.narrow(1, logits.dim(1).unwrap() - 1, 1).unwrap().squeeze(1).unwrap();
        assert_close(&last, &expected[&name("last_logits")], &what);
        let wanted = ids(&expected[&name("generated_ids")]);
        assert_eq!(generated(&loaded, &prompt, pixels, wanted[0].len()), wanted, "{what}");
    }
}

#[test]
fn every_part_of_the_configuration_space_meets_transformers() {
    let Some(shared) = shared() else { return };
    for name in ["llava_qwen2_siglip", "llava_mistral", "llava_layers_list", "llava_gemma"] {
        let dir = shared.join("fixtures").join(name);
        check_fixture(&dir, &References::open(&dir));
    }
}
