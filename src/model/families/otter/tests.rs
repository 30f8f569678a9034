//! Tests of `otter`.

use super::*;
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{copy_of, pictures, read, read_json, rgb_image, shared, write};
use crate::model::families::tests::{forward_image, input};
use crate::model::families::{ImagePrompt, Model, OpenedModel, RenderedPrompt};
use crate::model::run::generate::Decoding;
use crate::model::testing::{References, assert_close, ids};
use crate::model::vision::preprocess::ImageProcessor;

const QUESTION: &str = "What is the object in the image? Please only answer a single object in airplane, automobile, \
    bird, cat, deer, dog, frog, horse, ship, truck.";

const NAMES: [&str; 2] = ["otter_llama", "otter_mpt"];

fn open(dir: &std::path::Path) -> OpenedModel {
    OpenedModel::open(&Checkpoint::open(dir).unwrap(), None, None).unwrap()
}

/// Generates 12 tokens after each prompt.
fn generate(model: &Model, prompts: &[ImagePrompt<'_>]) -> Vec<Vec<u32>> {
    let rows = model.mllm.embed(prompts).unwrap();
    let opening = model.opening(prompts[0].prompt).unwrap();
    let prefix = model.mllm.read(Some(&opening), &rows, 12, Watched::by_none()).unwrap();
    let decoding = Decoding {
        max_new_tokens: 12,
        eos_ids: vec![u32::MAX],
        stop_strings: Vec::new(),
        processors: Default::default(),
    };
    model.generate(prefix, &decoding).unwrap().into_iter().map(|row| row.unwrap().ids).collect()
}

fn all_ids(prompt: &RenderedPrompt) -> Vec<Vec<u32>> {
    vec![prompt.ids.iter().map(|id| id.unwrap_or(prompt.image_id.unwrap())).collect()]
}

#[test]
fn every_reference_tensor_of_otters_own_code_is_met() {
    let Some(shared) = shared() else { return };
    for name in NAMES {
        let dir = shared.join("fixtures").join(name);
        let expected = References::open(&dir);
        let model = open(&dir).load(&Placement::cpu()).unwrap();
        let prompt = model.dialogue.render(QUESTION).unwrap();
        assert_eq!(all_ids(&prompt), ids(&expected["input_ids"]), "{name}");
        let mut all_seen = Vec::new();
        for index in 0..3 {
            let tensor = |of: &str| &expected[&format!("{index}.{of}")];
            let place = format!("{name} {index}");
            let seen = model.mllm.see(&[&input(&tensor("pixel_values").squeeze(0).unwrap())]).unwrap();
            let patches = seen[0].states[0].narrow(0, 1, seen[0].states[0].dim(0).unwrap() - 1).unwrap();
            assert_close(&patches.unsqueeze(0).unwrap(), tensor("vision_patch_features"), &place);
            let image = model.mllm.embed_images(&seen).unwrap().remove(0);
            let latents = &image.beside.as_ref().unwrap().features;
            assert_close(&latents.unsqueeze(0).unwrap(), tensor("media_tokens"), &place);
            let (hidden, logits) = forward_image(&model, &prompt, &image);
            assert_close(&hidden, tensor("last_hidden_state"), &place);
            let last = logits.narrow(1, logits.dim(1).unwrap() - 1, 1).unwrap().squeeze(1).unwrap();
            assert_close(&last, tensor("last_logits"), &place);
            if index == 0 {
                assert_close(&logits, tensor("all_logits"), &place);
            }
            let about = ImagePrompt { prompt: &prompt, images: &seen };
            assert_eq!(generate(&model, &[about]), ids(tensor("greedy_ids")), "{place}");
            assert_ne!(ids(tensor("greedy_ids")), ids(tensor("greedy_cached_ids")), "{place}");
            all_seen.extend(seen);
        }
        let about = |index: usize| ImagePrompt { prompt: &prompt, images: &all_seen[index..=index] };
        for (index, row) in generate(&model, &[about(0), about(1), about(2)]).into_iter().enumerate() {
            assert_eq!(vec![row], ids(&expected[&format!("{index}.greedy_ids")]), "{name} {index}");
        }
        // An example before the question: its tokens see its own image, and the question's tokens the other.
        let text =
            format!("<image>User: {QUESTION} GPT:<answer> cat.<|endofchunk|><image>User: {QUESTION} GPT:<answer>");
        let prompt = model.dialogue.prompt_of(text, None).unwrap();
        assert_eq!(all_ids(&prompt), ids(&expected["icl.input_ids"]), "{name}");
        let images = [all_seen[1].clone(), all_seen[0].clone()];
        let about = ImagePrompt { prompt: &prompt, images: &images };
        let rows = model.mllm.embed(&[about]).unwrap();
        let logits = model.first_logits(rows.into_iter().next().unwrap()).unwrap();
        let logits = Tensor::new(logits, &candle_core::Device::Cpu).unwrap().unsqueeze(0).unwrap();
        assert_close(&logits, &expected["icl.last_logits"], name);
        assert_eq!(generate(&model, &[about]), ids(&expected["icl.greedy_ids"]), "{name}");
    }
}

#[test]
fn pictures_are_prepared_as_clips_processor_does_by_default() {
    let Some(shared) = shared() else { return };
    for name in NAMES {
        let dir = shared.join("fixtures").join(name);
        let expected = References::open(&dir);
        let processor = preprocessor(&Checkpoint::open(&dir).unwrap()).unwrap();
        for (index, file) in pictures(&dir).iter().enumerate() {
            let prepared = processor.prepare(&rgb_image(file));
            let wanted = expected[&format!("{index}.pixel_values")].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(prepared.values.len(), wanted.len());
            let differences = prepared.values.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
            assert!(differences.fold(0.0, f32::max) < 1e-6, "{name} {}", file.display());
        }
    }
}

#[test]
fn an_answer_ends_with_the_end_of_a_chunk_and_the_cache_of_the_authors_is_told() {
    let Some(shared) = shared() else { return };
    for (name, is_told) in [("otter_llama", true), ("otter_mpt", false)] {
        let opened = open(&shared.join("fixtures").join(name));
        let prompt = opened.dialogue.render("What is it?").unwrap();
        let ids = opened.dialogue.answer_ids(&prompt, "cat").unwrap();
        assert_eq!(ids.last().copied(), opened.dialogue.tokenizer.token_id("<|endofchunk|>"), "{name}");
        assert_eq!(opened.dialogue.tokenizer.decode(&ids).unwrap().trim(), "cat", "{name}");
        assert_eq!(opened.warnings.iter().any(|told| told.contains("every token of an answer")), is_told, "{name}");
        assert_eq!(opened.settings_json()["generated_tokens_see_images"], true);
    }
}

#[test]
fn what_is_not_supported_is_refused_by_its_field() {
    let Some(shared) = shared() else { return };
    for (name, key, value, words) in [
        ("otter_llama", "/text_config/architectures", json!(["RWForCausalLM"]), "RWForCausalLM"),
        ("otter_llama", "/vision_config/model_type", json!("siglip_vision_model"), "siglip_vision_model"),
        ("otter_llama", "/text_config/vocab_size", json!(481), "481"),
        ("otter_mpt", "/text_config/attn_config/alibi", json!(false), "alibi"),
        ("otter_mpt", "/text_config/attn_config/clip_qkv", json!(8), "clip_qkv"),
        ("otter_mpt", "/text_config/norm_type", json!("rmsnorm"), "norm_type"),
        ("otter_mpt", "/text_config/no_bias", json!(false), "no_bias"),
        ("otter_mpt", "/text_config/logit_scale", json!(0.5), "logit_scale"),
    ] {
        let copy = copy_of(&shared.join("fixtures").join(name));
        let mut config = read_json(&copy.path().join("config.json"));
        *config.pointer_mut(key).unwrap() = value;
        write(&copy.path().join("config.json"), config.to_string());
        let error = Plan::of(&Checkpoint::open(copy.path()).unwrap()).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{key}: {error:#}");
    }
}

#[test]
fn a_folder_with_only_what_training_changed_is_refused_with_the_way_out() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("config.json"), read(&shared.join("fixtures/otter_mpt/config.json")));
    write(&folder.path().join("final_weights.pt"), b"PK");
    let error = Checkpoint::open(folder.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("final_weights.pt") && error.contains("; hint: "), "{error}");
}
