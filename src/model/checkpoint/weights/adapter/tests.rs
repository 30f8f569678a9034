//! Adapter folders of every kind, whole and damaged.
#![expect(clippy::disallowed_methods, reason = "tests make adapter folders on disk")]

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::super::testing::{golden, read_json};
use super::*;
use crate::model::checkpoint::weights::canonical_llava;

/// A base with one matrix.
fn base(dir: &Path) -> Weights {
    let weight = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
    save(&dir.join("model.safetensors"), &[("language_model.model.layers.0.self_attn.q_proj.weight", weight)]);
    fs::write(dir.join("config.json"), "{}").unwrap();
    Weights::new(&Checkpoint::open(dir).unwrap(), canonical_llava).unwrap()
}

fn save(path: &Path, tensors: &[(&str, Tensor)]) {
    let tensors = tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

const STEM: &str = "base_model.model.language_model.model.layers.0.self_attn.q_proj";

fn a() -> Tensor {
    Tensor::new(&[[1f32, 0.5]], &Device::Cpu).unwrap()
}

fn b(value: f32) -> Tensor {
    Tensor::new(&[[0f32], [value]], &Device::Cpu).unwrap()
}

/// Writes an adapter whose configuration is a plain one overridden by `config`, and opens it over [`base`].
fn open(config: Value, tensors: &[(&str, Tensor)]) -> (Result<Adapter>, Weights) {
    let folder = tempfile::tempdir().unwrap();
    let (base_dir, dir) = (folder.path().join("base"), folder.path().join("adapter"));
    fs::create_dir_all(&base_dir).unwrap();
    fs::create_dir_all(&dir).unwrap();
    let base = base(&base_dir);
    let mut whole = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"], "bias": "none"});
    for (key, value) in config.as_object().unwrap() {
        whole[key] = value.clone();
    }
    fs::write(dir.join(PEFT_CONFIG), whole.to_string()).unwrap();
    let tensors: Vec<(String, Tensor)> =
        tensors.iter().map(|(leaf, tensor)| (format!("{STEM}.{leaf}"), tensor.clone())).collect();
    let named: Vec<(&str, Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    save(&dir.join("adapter_model.safetensors"), &named);
    (Adapter::open(&dir, canonical_llava, &base), base)
}

fn plain(b_value: f32) -> Vec<(&'static str, Tensor)> {
    vec![("lora_A.weight", a()), ("lora_B.weight", b(b_value))]
}

#[track_caller]
fn assert_refused(config: Value, tensors: &[(&str, Tensor)], words: &[&str]) {
    let error = format!("{:#}", open(config, tensors).0.unwrap_err());
    for word in words {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn an_update_whose_product_is_zero_changes_nothing() {
    let (adapter, base) = open(json!({}), &plain(0.0));
    assert!(adapter.unwrap().changes_nothing(&base).unwrap());
    let (adapter, base) = open(json!({}), &plain(0.25));
    assert!(!adapter.unwrap().changes_nothing(&base).unwrap());
}

#[test]
fn an_untrained_magnitude_changes_nothing_and_a_trained_one_does() {
    for (factor, changes_nothing) in [(1.0, true), (1.01, false)] {
        let lengths: Vec<f32> = [5f32, 25.0].iter().map(|square| square.sqrt() * factor).collect();
        let mut tensors = plain(0.0);
        tensors.push(("lora_magnitude_vector", Tensor::new(lengths, &Device::Cpu).unwrap()));
        let (adapter, base) = open(json!({"use_dora": true}), &tensors);
        assert_eq!(adapter.unwrap().changes_nothing(&base).unwrap(), changes_nothing);
    }
}

#[test]
fn the_identity_follows_what_the_adapter_does() {
    let hash = |config, tensors: &[(&str, Tensor)]| open(config, tensors).0.unwrap().hash().unwrap();
    let plain_hash = hash(json!({}), &plain(1.0));
    assert_eq!(hash(json!({"base_model_name_or_path": "elsewhere"}), &plain(1.0)), plain_hash);
    assert_ne!(hash(json!({"lora_alpha": 3}), &plain(1.0)), plain_hash);
    assert_ne!(hash(json!({}), &plain(1.5)), plain_hash);
}

#[test]
fn names_of_raw_training_dumps_are_read() {
    let (adapter, _) = open(json!({}), &[("lora_A.default.weight", a()), ("lora_B.default.weight", b(1.0))]);
    let adapter = adapter.unwrap();
    assert_eq!(adapter.n_touched("language_model.layers.0.self_attn.q_proj"), 1);
    assert_eq!(adapter.n_touched("vision_tower."), 0);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    assert_refused(json!({"peft_type": "IA3"}), &plain(1.0), &["IA3", "LORA"]);
    assert_refused(json!({"kasa_config": {"beta": 1}}), &plain(1.0), &["kasa_config", "not supported"]);
    assert_refused(json!({"trainable_token_indices": [3]}), &plain(1.0), &["trainable_token_indices"]);
    assert_refused(json!({"init_lora_weights": "pissa_niter_16"}), &plain(1.0), &["pissa_niter_16", "hint"]);
    let mut both = plain(1.0);
    both.push(("lora_magnitude_vector", Tensor::new(&[1f32, 1.0], &Device::Cpu).unwrap()));
    both.push(("lora_B.bias", Tensor::new(&[1f32, 1.0], &Device::Cpu).unwrap()));
    assert_refused(json!({"use_dora": true, "lora_bias": true}), &both, &["lora_bias", "not supported"]);
    let delta = [("token_adapter.trainable_tokens_delta", a())];
    assert_refused(json!({}), &delta, &["token_adapter.trainable_tokens_delta"]);
}

#[test]
fn an_initialisation_that_may_have_altered_the_base_is_refused_by_name() {
    // In PEFT 0.21, `LoraLayer.update_layer` subtracts from the base's weight for the first list, and not for the
    // second.
    for init in ["pissa", "PiSSA", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga", "LoRA_GA"] {
        assert_refused(json!({ "init_lora_weights": init }), &plain(1.0), &[init, "altered the base model", "hint"]);
    }
    for unknown in ["lora_one", "pizza", ""] {
        assert_refused(json!({ "init_lora_weights": unknown }), &plain(1.0), &["is not known here", "hint"]);
    }
    for init in [
        json!(true),
        json!(false),
        json!("gaussian"),
        json!("Gaussian"),
        json!("eva"),
        json!("orthogonal"),
        json!("mica"),
    ] {
        assert!(open(json!({ "init_lora_weights": init }), &plain(1.0)).0.is_ok(), "{init}");
    }
    assert_refused(json!({"loftq_config": {"loftq_bits": 4}}), &plain(1.0), &["loftq_config"]);
}

#[test]
fn an_incomplete_adapter_is_refused() {
    assert_refused(json!({}), &plain(1.0)[..1], &["lora_B", "missing"]);
    assert_refused(json!({"use_dora": true}), &plain(1.0), &["lora_magnitude_vector"]);
    assert_refused(json!({"modules_to_save": ["lm_head"]}), &plain(1.0), &["modules_to_save", "lm_head"]);
}

#[test]
fn biases_that_an_older_peft_dropped_are_missed_aloud() {
    let warned = |config| !open(config, &plain(1.0)).0.unwrap().warnings.is_empty();
    assert!(warned(json!({"bias": "lora_only", "peft_version": "0.18.1"})));
    assert!(warned(json!({"bias": "all"})));
    assert!(!warned(json!({"bias": "none", "peft_version": "0.18.1"})));
}

#[test]
fn a_folder_that_is_no_adapter_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let base_dir = folder.path().join("base");
    fs::create_dir_all(&base_dir).unwrap();
    let base = base(&base_dir);
    let error = format!("{:#}", Adapter::open(folder.path(), canonical_llava, &base).unwrap_err());
    assert!(error.contains("adapter_config.json") && error.contains("hint"), "{error}");
    let error = format!("{:#}", Adapter::open(&folder.path().join("gone"), canonical_llava, &base).unwrap_err());
    assert!(error.contains("no such folder"), "{error}");
}

#[test]
fn a_lora_folder_of_llava_without_its_projector_is_refused() {
    let from = golden("fixtures/llava_original/llava-tiny-lora");
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.bin", "config.json"] {
        fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    let checkpoint = Checkpoint::open(golden("fixtures/llava_original/full_with_tower")).unwrap();
    let base = Weights::new(&checkpoint, canonical_llava).unwrap();
    let error = format!("{:#}", Adapter::open(folder.path(), canonical_llava, &base).unwrap_err());
    assert!(error.contains("non_lora_trainables.bin"), "{error}");
    fs::copy(from.join("non_lora_trainables.bin"), folder.path().join("non_lora_trainables.bin")).unwrap();
    let adapter = Adapter::open(folder.path(), canonical_llava, &base).unwrap();
    assert_eq!(adapter.n_touched("multi_modal_projector."), 4);
}

#[test]
fn stems_of_every_version_name_the_same_modules() {
    let dir = golden("fixtures/llava_peft/list");
    let checkpoint = Checkpoint::open(golden("fixtures/llava")).unwrap();
    let base = Weights::new(&checkpoint, canonical_llava).unwrap();
    let reference = Adapter::open(&dir, canonical_llava, &base).unwrap();
    let stored = candle_core::safetensors::load(dir.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
    let stems = [
        ("base_model.model.language_model.model.layers", "base_model.model.vision_tower.vision_model.encoder"),
        ("base_model.model.model.language_model.layers", "base_model.model.model.vision_tower.vision_model.encoder"),
    ];
    for (language, vision) in stems {
        let folder = tempfile::tempdir().unwrap();
        let renamed = stored.iter().map(|(name, tensor)| {
            let name = name.replace("base_model.model.model.language_model.layers", language);
            (name.replace("base_model.model.model.vision_tower.encoder", vision), tensor.clone())
        });
        candle_core::safetensors::save(&renamed.collect(), folder.path().join("adapter_model.safetensors")).unwrap();
        let config = read_json(&dir.join(PEFT_CONFIG)).to_string();
        fs::write(folder.path().join(PEFT_CONFIG), config).unwrap();
        let adapter = Adapter::open(folder.path(), canonical_llava, &base).unwrap();
        assert_eq!(adapter.hash().unwrap(), reference.hash().unwrap());
    }
}
