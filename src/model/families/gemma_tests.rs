//! Gemma 3 and PaliGemma compared with reference tensors from transformers.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::json;

use super::tests::{QUESTION, input, tile_input};
use super::*;
use crate::model::checkpoint::weights::Adapter;
use crate::model::checkpoint::weights::testing::{
    copy_of, golden, read_json, rename_tensors, rgb_image, shared, write,
};
use crate::model::language::Pass;
use crate::model::layers::{Mask, Site, Watch};
use crate::model::run::generate::Decoding;
use crate::model::run::logits_processors::{LogitsProcessor, LogitsProcessors};
use crate::model::run::prefix::{Padding, batch, prompt_mask};
use crate::model::testing::{References, assert_close, ids};

/// The end token of both fixtures, which their references forbid.
const EOS: u32 = 1;

fn fixture(name: &str) -> Option<PathBuf> {
    Some(shared()?.join("fixtures").join(name))
}

fn open(dir: &Path) -> OpenedModel {
    OpenedModel::open(&Checkpoint::open(dir).unwrap(), None, None).unwrap()
}

/// Keeps the residual stream after each layer.
#[derive(Default)]
struct Residuals(Vec<Tensor>);

impl Watch for Residuals {
    fn visits(&self, site: Site, _: usize) -> bool {
        site == Site::Residual
    }

    fn at(&mut self, _: Site, _: usize, x: Tensor) -> candle_core::Result<Tensor> {
        self.0.push(x.clone());
        Ok(x)
    }
}

fn generated(model: &Model, rows: &[PromptRow], n_tokens: usize) -> Vec<Vec<u32>> {
    let decoding = Decoding {
        max_new_tokens: n_tokens,
        eos_ids: vec![u32::MAX],
        stop_strings: Vec::new(),
        processors: LogitsProcessors::new(vec![LogitsProcessor::SuppressTokens(vec![EOS])]),
    };
    let prefix = model.mllm.read(None, rows, n_tokens, Watched::by_none()).unwrap();
    model.generate(prefix, &decoding).unwrap().into_iter().map(|row| row.unwrap().ids).collect()
}

/// All logits of a prompt `(1, tokens, vocabulary)`, and the residual stream after each layer.
fn forward(model: &Model, row: &PromptRow) -> (Tensor, Vec<Tensor>) {
    let n = row.n_tokens();
    let input = batch(std::slice::from_ref(row), n, Padding::Left).unwrap();
    let mask = prompt_mask(std::slice::from_ref(row), [n, n], Padding::Left, &input.embeddings);
    let mut residuals = Residuals::default();
    let language = model.mllm.decoder();
    let mut watch = Watched::by(&mut residuals);
    let hidden = language.forward(Pass::new(&input).masked(&mask).watched(&mut watch)).unwrap();
    (language.logits(&hidden).unwrap(), residuals.0)
}

/// Which positions each query sees, as the reference has it.
fn seen(mask: &Mask) -> Vec<u8> {
    let numbers = mask.added().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    numbers.into_iter().map(|number| u8::from(number == 0.0)).collect()
}

/// Compares an image's pixels, states, features, prompt, logits and ids with the tensors that begin with `prefix`.
fn check_image(
    model: &Model,
    question: &str,
    path: &Path,
    expected: &References,
    prefix: &str,
) -> (PromptRow, Vec<Tensor>) {
    let tensor = |name: &str| &expected[&format!("{prefix}{name}")];
    let prepared = model.preprocessor.prepare(&rgb_image(path));
    let pixels = Tensor::from_slice(&prepared.values, tensor("pixel_values").dims(), &Device::Cpu).unwrap();
    assert_close(&pixels, tensor("pixel_values"), &format!("{prefix}pixel_values"));
    let mut residuals = Residuals::default();
    let seen = model.mllm.see_watched(&[&prepared], Watched::by(&mut residuals)).unwrap();
    let state = seen[0].states[0].reshape(tensor("vision_last_hidden_state").dims()).unwrap();
    assert_close(&state, tensor("vision_last_hidden_state"), &format!("{prefix}vision_last_hidden_state"));
    let image = model.mllm.embed_images(&seen).unwrap().remove(0);
    let runs = image.feature_runs(0, image.embeddings.dim(0).unwrap());
    let features: Vec<Tensor> =
        runs.iter().map(|run| image.embeddings.narrow(0, run.start, run.len()).unwrap()).collect();
    let features = Tensor::cat(&features, 0).unwrap().reshape(tensor("image_features_projected").dims()).unwrap();
    assert_close(&features, tensor("image_features_projected"), &format!("{prefix}image_features_projected"));

    let prompt = model.dialogue.render(question).unwrap();
    let row = model.rows(&prompt, &seen).unwrap().remove(0);
    assert_eq!(vec![row.ids.clone()], ids(tensor("input_ids")), "{prefix}");
    let last = Tensor::new(model.first_logits(row.clone()).unwrap(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    assert_close(&last, tensor("last_logits"), &format!("{prefix}last_logits"));
    let wanted = ids(tensor("generated_ids"));
    assert_eq!(generated(model, std::slice::from_ref(&row), wanted[0].len()), wanted, "{prefix}");
    // Training reads the same prompt and its answer at once, without a cache.
    if expected.has(&format!("{prefix}step_logits")) {
        let forced = ForcedAnswer { prompt: ImagePrompt { prompt: &prompt, images: &seen }, answer: &wanted[0] };
        let steps = model.mllm.teacher_forced(&[forced], Watched::by_none()).unwrap().unsqueeze(0).unwrap();
        // The reference forbids the end token, whose logits are infinite there.
        let finite = |x: &Tensor| x.clamp(-1e4, 1e4).unwrap();
        let of_id = |id: usize| if id == EOS as usize { 0f32 } else { 1.0 };
        let kept = Tensor::from_iter((0..steps.dim(2).unwrap()).map(of_id), &Device::Cpu).unwrap();
        let masked = |x: &Tensor| finite(x).broadcast_mul(&kept).unwrap();
        assert_close(&masked(&steps), &masked(tensor("step_logits")), &format!("{prefix}step_logits"));
    }
    (row, residuals.0)
}

/// Compares the states and masks that only the first image of a second reference has.
fn check_inside(model: &Model, row: &PromptRow, of_tower: &[Tensor], expected: &References, window: usize) {
    for (layer, state) in of_tower.iter().enumerate() {
        assert_close(state, &expected[&format!("0.vision_layer_{layer}")], &format!("vision_layer_{layer}"));
    }
    assert_close(&row.embeddings.unsqueeze(0).unwrap(), &expected["0.lm_inputs_embeds"], "lm_inputs_embeds");
    let (logits, residuals) = forward(model, row);
    for (layer, state) in residuals.iter().enumerate() {
        assert_close(state, &expected[&format!("0.lm_layer_{layer}")], &format!("lm_layer_{layer}"));
    }
    assert_close(&logits, &expected["0.all_logits"], "all_logits");
    let n = row.n_tokens();
    let mask = prompt_mask(std::slice::from_ref(row), [n, n], Padding::Left, &row.embeddings);
    for (layer, mask) in [(0, mask.windowed(window)), (5, mask)] {
        let name = format!("0.mask.attention_mask_{layer}");
        if expected.has(&name) {
            assert_eq!(seen(&mask), expected[&name].flatten_all().unwrap().to_vec1::<u8>().unwrap(), "{name}");
        }
    }
}

/// A copy of a fixture with the tokenizer that transformers 5.24 makes of its files: a space comes only before the first
/// word. Published tokenizers of Gemma put none anywhere.
fn with_tokenizer_of_5_24(dir: &Path) -> tempfile::TempDir {
    edited(dir, "tokenizer.json", |tokenizer| tokenizer["pre_tokenizer"]["prepend_scheme"] = "first".into())
}

fn check_second_reference(name: &str, window: usize) {
    let Some(dir) = fixture(name) else { return };
    let folder = with_tokenizer_of_5_24(&dir);
    let expected = References::open_file(&dir.join("reference2.safetensors"));
    let described = read_json(&dir.join("reference2.json"));
    let model = open(folder.path()).load(&Placement::cpu()).unwrap();
    let question = described["question"].as_str().unwrap();
    let paths: Vec<PathBuf> =
        described["images"].as_array().unwrap().iter().map(|path| dir.join(path.as_str().unwrap())).collect();
    let mut rows = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let (row, of_tower) = check_image(&model, question, path, &expected, &format!("{index}."));
        if index == 0 {
            check_inside(&model, &row, &of_tower, &expected, window);
        }
        rows.push(row);
    }
    assert_eq!(rows.len(), 5);
    // A shorter prompt in the same batch is padded.
    let short = model.dialogue.render("What is this?").unwrap();
    let prepared = model.preprocessor.prepare(&rgb_image(&paths[0]));
    let short = model.rows(&short, &model.mllm.see(&[&prepared]).unwrap()).unwrap().remove(0);
    let alone = generated(&model, std::slice::from_ref(&short), 12);
    let together = generated(&model, &[short, rows[3].clone()], 12);
    assert_eq!(together, [alone[0].clone(), ids(&expected["3.generated_ids"])[0].clone()]);
}

fn check_first_reference(name: &str) {
    let Some(dir) = fixture(name) else { return };
    let expected = References::open(&dir);
    let model = open(&dir).load(&Placement::cpu()).unwrap();
    let pixels = expected["prompt.pixel_values"].clone();
    let image = if name == "gemma3" { tile_input(&pixels, (1, 1), (1, 1)) } else { input(&pixels.get(0).unwrap()) };
    let seen = model.mllm.see(&[&image]).unwrap();
    let state = seen[0].states[0].reshape(expected["hook_vision"].dims()).unwrap();
    assert_close(&state, &expected["hook_vision"], "hook_vision");
    let features = model.mllm.embed_images(&seen).unwrap().remove(0).embeddings;
    assert_close(&features.unsqueeze(0).unwrap(), &expected["hook_connector"], "hook_connector");
    let prompt = model.dialogue.render(QUESTION).unwrap();
    let row = model.rows(&prompt, &seen).unwrap().remove(0);
    assert_eq!(vec![row.ids.clone()], ids(&expected["prompt.input_ids"]));
    let first = Tensor::new(model.first_logits(row.clone()).unwrap(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    assert_close(&first, &expected["prompt.first_logits"], "first_logits");
    assert_eq!(generated(&model, &[row], 8), ids(&expected["prompt.generated_ids"]));
}

#[test]
fn gemma_3_meets_transformers() {
    check_first_reference("gemma3");
    check_second_reference("gemma3", 8);
}

#[test]
fn paligemma_meets_transformers() {
    check_first_reference("paligemma");
    check_second_reference("paligemma", 512);
}

/// A copy of a fixture's files with its `config.json` or another file edited.
fn edited(dir: &Path, file: &str, edit: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = copy_of(dir);
    let mut json = read_json(&folder.path().join(file));
    edit(&mut json);
    write(&folder.path().join(file), json.to_string());
    folder
}

#[test]
fn pan_and_scan_reads_crops_of_long_images_if_the_configuration_says_so() {
    let Some(dir) = fixture("gemma3") else { return };
    let expected = References::open_file(&dir.join("reference2.safetensors"));
    let described = read_json(&dir.join("reference2.json"));
    let folder = with_tokenizer_of_5_24(&dir);
    let folder = edited(folder.path(), "processor_config.json", |config| {
        for (key, value) in described["pan_and_scan"].as_object().unwrap() {
            config["image_processor"][key] = value.clone();
        }
    });
    let model = open(folder.path()).load(&Placement::cpu()).unwrap();
    let question = described["question"].as_str().unwrap();
    for (index, path) in described["images"].as_array().unwrap().iter().enumerate() {
        let path = dir.join(path.as_str().unwrap());
        let (row, _) = check_image(&model, question, &path, &expected, &format!("pan.{index}."));
        assert!(row.n_tokens() <= model.dialogue.render(question).unwrap().ids.len() + 10, "{index}");
    }
}

#[test]
fn positions_of_real_images_are_those_of_the_processors() {
    let Some(shared) = shared() else { return };
    let counts = read_json(&shared.join("fixtures/image_tokens.json"));
    for (name, key, side, n_tokens) in
        [("gemma3", "gemma3 (896, no pan&scan)", 896, Some(256)), ("paligemma", "paligemma-224", 224, None)]
    {
        let dir = fixture(name).unwrap();
        let folder = edited(&dir, "config.json", |config| {
            config["vision_config"]["image_size"] = side.into();
            if let Some(n_tokens) = n_tokens {
                config["mm_tokens_per_image"] = n_tokens.into();
            }
        });
        let mut processor = read_json(&folder.path().join("processor_config.json"));
        processor["image_processor"]["size"] = json!({"height": side, "width": side});
        write(&folder.path().join("processor_config.json"), processor.to_string());
        let opened = open(folder.path());
        let wanted: Vec<u64> = counts[key].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).collect();
        assert!(wanted.iter().all(|&n| n == opened.plan.n_image_positions_max() as u64), "{name}");
    }
}

#[test]
fn gemmas_in_the_layouts_of_other_versions_answer_the_same() {
    for name in ["gemma3", "paligemma"] {
        let Some(dir) = fixture(name) else { return };
        let logits = |dir: &Path| {
            let model = open(dir).load(&Placement::cpu()).unwrap();
            let prepared = model.preprocessor.prepare(&crate::domain::RgbImage::blank(40, 30));
            let seen = model.mllm.see(&[&prepared]).unwrap();
            let row = model.rows(&model.dialogue.render("What is it?").unwrap(), &seen).unwrap().remove(0);
            model.first_logits(row).unwrap()
        };
        let wanted = logits(&dir);
        type Rename = fn(&str) -> String;
        let renames: [Rename; 3] = [
            // 4.36 to 4.51, and 4.52.4 to 4.57.
            |key| key.replace("vision_tower.", "vision_tower.vision_model."),
            // 4.52.0 to 4.52.3.
            |key| {
                format!(
                    "model.{}",
                    key.replace("language_model.model.", "language_model.")
                        .replace("vision_tower.", "vision_tower.vision_model.")
                )
            },
            // A dump of 5.
            |key| format!("model.{}", key.replace("language_model.model.", "language_model.")),
        ];
        for rename in renames {
            let folder = copy_of(&dir);
            rename_tensors(folder.path(), |key| Some(rename(key)));
            assert_eq!(logits(folder.path()), wanted, "{name}");
        }
        // The configuration of transformers 4.
        let old = edited(&dir, "config.json", |config| {
            let text = config["text_config"].as_object_mut().unwrap();
            text.remove("rope_parameters");
            text.remove("use_bidirectional_attention");
            text.insert("rope_theta".into(), if name == "gemma3" { 1e6.into() } else { 1e4.into() });
            text.insert("rope_local_base_freq".into(), 1e4.into());
            text.insert("rope_scaling".into(), Value::Null);
            text.remove("layer_types");
            text.insert("sliding_window_pattern".into(), if name == "gemma3" { 6.into() } else { 2.into() });
        });
        assert_eq!(logits(old.path()), wanted, "{name}");
    }
}

#[test]
fn the_cap_of_logits_follows_the_version_that_saved_the_checkpoint_and_is_told() {
    let Some(dir) = fixture("gemma3") else { return };
    let of = |version: Option<&str>| {
        let folder = edited(&dir, "config.json", |config| {
            config["transformers_version"] = version.map_or(Value::Null, Value::from);
            config["text_config"]["final_logit_softcapping"] = 2.0.into();
        });
        let opened = open(folder.path());
        let (warnings, settings) = (opened.warnings.join("\n"), opened.settings_json());
        let model = opened.load(&Placement::cpu()).unwrap();
        let prepared = model.preprocessor.prepare(&crate::domain::RgbImage::blank(40, 30));
        let seen = model.mllm.see(&[&prepared]).unwrap();
        let row = model.rows(&model.dialogue.render("What is it?").unwrap(), &seen).unwrap().remove(0);
        (model.first_logits(row).unwrap(), warnings, settings["text_config"]["final_logit_softcapping"].clone())
    };
    let (new, warned, recorded) = of(Some("4.57.6"));
    assert!(warned.contains("not capped") && warned.contains("4.52") && recorded.is_null(), "{warned} {recorded}");
    for version in [Some("4.46.3"), None] {
        let (old, warned, recorded) = of(version);
        assert!(warned.contains("logits are capped") && recorded == 2.0, "{warned} {recorded}");
        for (old, new) in old.iter().zip(&new) {
            assert!((old - 2.0 * (new / 2.0).tanh()).abs() < 1e-5, "{old} {new}");
        }
    }
    assert!(new.iter().any(|logit| logit.abs() > 2.0), "the cap changes something");
}

#[test]
fn what_is_unknown_in_a_gemma_is_refused_by_its_field() {
    let refused = |name: &str, field: &str, edit: &dyn Fn(&mut Value)| {
        let Some(dir) = fixture(name) else { return };
        let folder = edited(&dir, "config.json", |config| edit(config));
        let opened = OpenedModel::open(&Checkpoint::open(folder.path()).unwrap(), None, None);
        let error = format!("{:#}", opened.map(|_| ()).unwrap_err());
        assert!(error.contains(field), "{name} {field}: {error}");
    };
    refused("gemma3", "layer_types", &|config| config["text_config"]["layer_types"][0] = "chunked_attention".into());
    refused("gemma3", "layer_types", &|config| config["text_config"]["num_hidden_layers"] = 5.into());
    refused("gemma3", "use_bidirectional_attention", &|config| {
        config["text_config"]["use_bidirectional_attention"] = true.into();
    });
    refused("gemma3", "rope_parameters", &|config| {
        config["text_config"]["rope_parameters"] = json!({"rope_theta": 1e4})
    });
    refused("gemma3", "mm_tokens_per_image", &|config| config["mm_tokens_per_image"] = 5.into());
    refused("gemma3", "gemma3n_text", &|config| config["text_config"]["model_type"] = "gemma3n_text".into());
    refused("gemma3", "vision tower", &|config| config["vision_config"]["model_type"] = "clip_vision_model".into());
    refused("paligemma", "use_bidirectional_attention", &|config| {
        config["text_config"]["use_bidirectional_attention"] = false.into();
    });
    refused("paligemma", "llama", &|config| config["text_config"]["model_type"] = "llama".into());
    refused("paligemma", "projection_dim", &|config| config["projection_dim"] = 32.into());
    refused("paligemma", "attn_logit_softcapping", &|config| {
        config["text_config"]["attn_logit_softcapping"] = (-1.0).into();
    });
}

#[test]
fn a_paligemma_of_the_first_generation_is_read() {
    let Some(dir) = fixture("paligemma") else { return };
    let folder = edited(&dir, "config.json", |config| {
        config["text_config"] = json!({"model_type": "gemma", "hidden_size": 48, "intermediate_size": 96, "head_dim": 16,
            "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 1642});
    });
    rename_tensors(folder.path(), |key| {
        let is_of_second = key.contains("feedforward_layernorm");
        (!is_of_second).then(|| key.to_owned())
    });
    let model = open(folder.path()).load(&Placement { dtype: DType::F32, ..Placement::cpu() }).unwrap();
    let prepared = model.preprocessor.prepare(&crate::domain::RgbImage::blank(40, 30));
    let seen = model.mllm.see(&[&prepared]).unwrap();
    let row = model.rows(&model.dialogue.render("What is it?").unwrap(), &seen).unwrap().remove(0);
    let first = model.first_logits(row.clone()).unwrap();
    let (logits, _) = forward(&model, &row);
    let last = logits.get(0).unwrap().get(row.n_tokens() - 1).unwrap().to_vec1::<f32>().unwrap();
    let largest = last.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    assert!(first.iter().zip(&last).all(|(a, b)| (a - b).abs() < 1e-5 * largest) && largest > 0.0);
    // Without the prefix mask the logits would be others.
    let causal = PromptRow { blocks: Default::default(), ..row };
    assert_ne!(model.first_logits(causal).unwrap(), first);
}

#[test]
fn adapters_of_peft_on_gemmas_meet_their_reference_beside_the_base_and_merged() {
    for name in ["gemma3", "paligemma"] {
        let Some(dir) = fixture(name) else { return };
        let pixels = References::open(&dir)["prompt.pixel_values"].clone();
        let folder = golden("gemma_lora").join(name);
        let expected = References::open(&folder);
        for is_merged in [false, true] {
            let opened = open(&dir);
            let canonical = family_of(&Checkpoint::open(&dir).unwrap()).unwrap().canonical;
            let adapter = Adapter::open(&folder, canonical, &opened.weights).unwrap();
            for part in ["language_model.", "vision_tower.", "multi_modal_projector."] {
                assert!(adapter.n_touched(part) > 0, "{name} {part}");
            }
            let overlay = adapter.overlay(&Placement::cpu(), is_merged).unwrap();
            let model = opened.load_all(vec![overlay], &Placement::cpu()).unwrap().remove(0);
            let image =
                if name == "gemma3" { tile_input(&pixels, (1, 1), (1, 1)) } else { input(&pixels.get(0).unwrap()) };
            let seen = model.mllm.see(&[&image]).unwrap();
            let row = model.rows(&model.dialogue.render(QUESTION).unwrap(), &seen).unwrap().remove(0);
            let first = Tensor::new(model.first_logits(row.clone()).unwrap(), &Device::Cpu).unwrap();
            assert_close(&first.unsqueeze(0).unwrap(), &expected["first_logits"], &format!("{name} {is_merged}"));
            assert_eq!(generated(&model, &[row], 8), ids(&expected["generated_ids"]), "{name} {is_merged}");
        }
    }
}
