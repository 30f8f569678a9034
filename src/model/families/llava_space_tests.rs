//! LLaVA's configuration space compared with transformers: language models, towers, feature layers and select
//! strategies.

use std::path::Path;

use serde_json::json;

use super::tests::{Loaded, load};
use super::*;
use crate::model::checkpoint::weights::testing::{copy_of, read_json, shared, write};
use crate::model::testing::{References, assert_close, ids};

/// The question of the fixtures.
const QUESTION: &str = "What is the object in the image? Please only answer a single object in airplane, automobile, \
    bird, cat, deer, dog, frog, horse, ship, truck.";

/// Generates `n_tokens` tokens after the prompt for each of `pixels`.
fn generated(loaded: &Loaded, prompt: &RenderedPrompt, pixels: &Tensor, n_tokens: usize) -> Vec<Vec<u32>> {
    let decoding = Decoding {
        max_new_tokens: n_tokens,
        eos_ids: vec![u32::MAX],
        stop_strings: Vec::new(),
        processors: Default::default(),
    };
    let opening = loaded.model.opening(prompt).unwrap();
    let prefix = loaded.model.read_about(Some(&opening), &[prompt], &loaded.images(pixels), n_tokens).unwrap();
    loaded.model.generate(prefix, &decoding).unwrap().into_iter().map(|row| row.unwrap().ids).collect()
}

/// Compares with all tensors of a reference except the pixel values, which are the model's input.
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

/// Copies the fixture `name`, with its `config.json` changed by `edit`.
fn edited(shared: &Path, name: &str, edit: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = copy_of(&shared.join("fixtures").join(name));
    let path = folder.path().join("config.json");
    let mut config = read_json(&path);
    edit(&mut config);
    write(&path, config.to_string());
    folder
}

#[test]
fn a_gemma_that_an_older_transformers_saved_has_its_image_features_multiplied_and_says_so() {
    let Some(shared) = shared() else { return };
    let new = References::open(&shared.join("fixtures/llava_gemma"));
    let path = shared.join("fixtures/llava_gemma/reference_4x.safetensors");
    let old = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let folder = edited(&shared, "llava_gemma", |config| config["transformers_version"] = "4.57.6".into());
    let opened = OpenedModel::open(&Checkpoint::open(folder.path()).unwrap(), None, None).unwrap();
    assert!(
        opened.warnings.iter().any(|told| told.contains("4.57.6") && told.contains("6.928")),
        "{:?}",
        opened.warnings
    );
    let loaded = load(folder.path(), None, None);
    let prompt = loaded.model.dialogue.render(QUESTION).unwrap();
    for image in 0..3 {
        let pixels = &new[&format!("{image}.pixel_values")];
        assert_close(&loaded.first_logits(&prompt, pixels), &old[&format!("{image}.last_logits")], "4.x");
        assert_eq!(generated(&loaded, &prompt, pixels, 12), ids(&old[&format!("{image}.generated_ids")]));
    }
    // A checkpoint that does not give its version has an unknown scale.
    let silent = edited(&shared, "llava_gemma", |config| {
        config.as_object_mut().unwrap().remove("transformers_version");
    });
    let opened = OpenedModel::open(&Checkpoint::open(silent.path()).unwrap(), None, None).unwrap();
    assert!(opened.warnings.iter().any(|told| told.contains("transformers_version")), "{:?}", opened.warnings);
}

#[test]
fn a_tower_without_class_token_loses_its_first_patch_by_default_as_in_transformers() {
    let Some(shared) = shared() else { return };
    let pixels = &References::open(&shared.join("fixtures/llava_qwen2_siglip"))["0.pixel_values"];
    let with = |strategy: Option<&str>| {
        let folder = edited(&shared, "llava_qwen2_siglip", |config| match strategy {
            Some(strategy) => config["vision_feature_select_strategy"] = strategy.into(),
            None => {
                config.as_object_mut().unwrap().remove("vision_feature_select_strategy");
            }
        });
        let loaded = load(folder.path(), None, None);
        let n_in_prompt = loaded.model.dialogue.render(QUESTION).unwrap().ids.iter().filter(|id| id.is_none()).count();
        let features = loaded.images(pixels)[0].embeddings.clone();
        assert_eq!(features.dim(0).unwrap(), n_in_prompt);
        features
    };
    let full = with(Some("full"));
    for strategy in [Some("default"), None] {
        let dropped = with(strategy);
        let expected = full.narrow(0, 1, full.dim(0).unwrap() - 1).unwrap();
        assert_close(&dropped, &expected, "all but the first patch");
    }
}

#[test]
fn what_the_configuration_asks_and_nobody_knows_is_refused_by_name() {
    let Some(shared) = shared() else { return };
    let cases: [(&str, Value, &str); 4] = [
        ("vision_feature_select_strategy", "cls".into(), "vision_feature_select_strategy `cls`"),
        ("vision_feature_layer", json!([]), "names no layer"),
        ("vision_feature_layer", json!([-2, 9]), "vision_feature_layer 9"),
        ("vision_feature_layer", json!([-2, "last"]), "whole numbers"),
    ];
    for (key, value, told) in cases {
        let folder = edited(&shared, "llava_layers_list", |config| config[key] = value);
        let error = OpenedModel::open(&Checkpoint::open(folder.path()).unwrap(), None, None).err().unwrap();
        assert!(format!("{error:#}").contains(told), "{error:#}");
    }
}

#[test]
fn two_spellings_of_one_configuration_have_the_same_settings_and_another_value_has_not() {
    let Some(shared) = shared() else { return };
    let settings = |edit: &dyn Fn(&mut Value)| {
        let folder = edited(&shared, "llava_mistral", edit);
        OpenedModel::open(&Checkpoint::open(folder.path()).unwrap(), None, None).unwrap().settings_json()
    };
    let own = settings(&|_| {});
    let older = settings(&|config| {
        let text = config["text_config"].as_object_mut().unwrap();
        let theta = text["rope_parameters"]["rope_theta"].clone();
        text.remove("rope_parameters");
        text.insert("rope_theta".into(), theta);
        config["vision_feature_layer"] = 3.into();
        config["transformers_version"] = "4.51.0".into();
    });
    assert_eq!(own, older);
    let other = settings(&|config| config["text_config"]["rms_norm_eps"] = 0.01.into());
    let told = crate::compare::settings_in_words(&crate::compare::setting_differences(&own, &other));
    assert!(told.starts_with("text_config.rms_norm_eps ") && told.ends_with("-> 0.01"), "{told}");
}
