//! Qwen's families compared with reference tensors from transformers and PEFT.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::tests::last_rows;
use super::*;
use crate::model::checkpoint::weights::testing::{fixtures, golden, pictures, read, read_json, rgb_image, write};
use crate::model::checkpoint::weights::{Adapter, NamedTensor, read_tensors, safetensors_bytes};
use crate::model::language::Pass;
use crate::model::layers::left_padded_mask;
use crate::model::run::prefix::{Padding, batch};
use crate::model::testing::{References, assert_close, ids};
use crate::model::text::tokenizer::PromptPiece;

const FAMILY_NAMES: [&str; 3] = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"];

/// The prefix of each case's tensors, in the order of the fixtures' images.
const CASES: [&str; 3] = ["prompt.", "image1.", "image2."];

/// The files of a fixture that make a checkpoint, except configuration and weights.
const COMPANIONS: [&str; 5] = [
    "chat_template.jinja",
    "generation_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

const QUESTION: &str = "What is the object in the image? Please choose from: airplane, automobile, bird, cat, deer, dog, \
                        frog, horse, ship, truck. Answer with a single word.";

/// Opens the model in `dir`, with the fixtures' own pixel limits.
fn open(dir: &Path) -> Result<OpenedModel> {
    let own = &read_json(&dir.join("processor_config.json"))["image_processor"]["size"];
    let limits = PixelLimits { min_pixels: own["shortest_edge"].as_u64(), max_pixels: own["longest_edge"].as_u64() };
    OpenedModel::open_within(&Checkpoint::open(dir).unwrap(), None, None, &limits, Default::default())
}

fn load(dir: &Path) -> Model {
    open(dir).unwrap().load(&Placement::cpu()).unwrap()
}

fn prepared(model: &Model, dir: &Path, case: usize) -> ImageInput {
    model.preprocessor.prepare(&rgb_image(&pictures(dir)[case]))
}

fn embedded(model: &Model, dir: &Path, case: usize) -> ImageEmbedding {
    let seen = model.mllm.see(&[&prepared(model, dir, case)]).unwrap();
    model.mllm.embed_images(&seen).unwrap().remove(0)
}

/// Hidden states and logits of a whole prompt.
fn forward(model: &Model, row: PromptRow) -> (Tensor, Tensor) {
    let n_tokens = row.n_tokens();
    let mask = left_padded_mask(&[0], n_tokens, n_tokens, DType::F32, &Device::Cpu).unwrap();
    let language = model.mllm.decoder();
    let input = batch(&[row], n_tokens, Padding::Left).unwrap();
    let hidden = language.forward(Pass::new(&input).masked(&mask)).unwrap();
    let logits = language.logits(&hidden).unwrap();
    (hidden, logits)
}

/// Logits `(1, vocabulary)` of the last position.
fn first_logits(model: &Model, image: &ImageEmbedding) -> Tensor {
    let prompt = model.dialogue.render(QUESTION).unwrap();
    let logits = model.first_logits_about(&prompt, image).unwrap();
    Tensor::new(vec![logits], &Device::Cpu).unwrap()
}

fn generate(model: &Model, images: &[ImageEmbedding]) -> Vec<Vec<u32>> {
    let decoding = Decoding {
        max_new_tokens: 8,
        eos_ids: vec![u32::MAX],
        stop_strings: Vec::new(),
        processors: Default::default(),
    };
    let prompt = model.dialogue.render(QUESTION).unwrap();
    let opening = model.opening(&prompt).unwrap();
    let prefix =
        model.read_about(Some(&opening), &vec![&prompt; images.len()], images, decoding.max_new_tokens).unwrap();
    model.generate(prefix, &decoding).unwrap().into_iter().map(|row| row.unwrap().ids).collect()
}

fn check_case(model: &Model, dir: &Path, number: usize, expected: &References) {
    let case = CASES[number];
    let what = |name: &str| format!("{} {case}{name}", dir.display());
    let reference = |name: &str| &expected[&format!("{case}{name}")];
    let input = prepared(model, dir, number);
    let patches = Tensor::from_slice(&input.values, input.shape.as_slice(), &Device::Cpu).unwrap();
    assert_close(&patches, reference("pixel_values"), &what("pixel_values"));
    let grid = vec![1, input.grid.0 as u32, input.grid.1 as u32];
    assert_eq!(vec![grid], ids(reference("image_grid_thw")), "{}", what("image_grid_thw"));

    let embedding = embedded(model, dir, number);
    let features = embedding.embeddings.unsqueeze(0).unwrap();
    assert_close(&features, reference("image_features_merged"), &what("image_features_merged"));
    for (depth, added) in embedding.deepstack.iter().enumerate() {
        let name = format!("deepstack{depth}");
        assert_close(&added.unsqueeze(0).unwrap(), reference(&name), &what(&name));
    }
    assert_eq!(embedding.deepstack.len(), if dir.ends_with("qwen3_vl") { 3 } else { 0 });

    let prompt = model.dialogue.render(QUESTION).unwrap();
    assert_eq!(read_json(&dir.join("reference.json"))["prompts"][case], prompt.text.as_str());
    let image_token = model.dialogue.tokenizer.token_id("<|image_pad|>").unwrap();
    let n_positions = features.dim(1).unwrap();
    let of_piece = |piece: &PromptPiece| match piece {
        PromptPiece::Text(ids) => ids.clone(),
        PromptPiece::Image => vec![image_token; n_positions],
    };
    let rendered: Vec<u32> = prompt.pieces.iter().flat_map(of_piece).collect();
    assert_eq!(vec![rendered], ids(reference("input_ids")), "{}", what("input_ids"));

    let row = model.place(&prompt, std::slice::from_ref(&embedding)).unwrap();
    let axes: Vec<Vec<u32>> =
        (0..3).map(|axis| row.positions.iter().map(|position| position[axis]).collect()).collect();
    assert_eq!(axes, ids(&reference("position_ids").squeeze(1).unwrap()), "{}", what("position_ids"));
    let (hidden, logits) = forward(model, row.clone());
    let wanted = reference("last_hidden_state");
    assert_close(&last_rows(&hidden, wanted), wanted, &what("last_hidden_state"));
    let n_tokens = row.n_tokens();
    let last = logits.narrow(1, n_tokens - 1, 1).unwrap().squeeze(1).unwrap();
    assert_close(&last, reference("first_logits"), &what("first_logits"));

    let generated = generate(model, std::slice::from_ref(&embedding));
    assert_eq!(generated, ids(reference("generated_ids")), "{}", what("generated_ids"));
    if case == "prompt." {
        let said = model.mllm.decoder().embed(&generated[0][..7]).unwrap();
        let (_, logits) = forward(model, row.followed_by(&said).unwrap());
        let steps = logits.narrow(1, n_tokens - 1, 8).unwrap();
        assert_close(&steps, reference("step_logits"), &what("step_logits"));
    }
}

#[test]
fn each_family_meets_every_reference_tensor_of_transformers() {
    for dir in FAMILY_NAMES.into_iter().flat_map(fixtures) {
        let (model, expected) = (load(&dir), References::open(&dir));
        for number in 0..CASES.len() {
            check_case(&model, &dir, number, &expected);
        }
    }
}

#[test]
fn images_of_different_sizes_in_one_batch_are_answered_as_each_alone() {
    for dir in FAMILY_NAMES.into_iter().flat_map(fixtures) {
        let (model, expected) = (load(&dir), References::open(&dir));
        let inputs = [0, 1, 2].map(|case| prepared(&model, &dir, case));
        let seen = model.mllm.see(&inputs.iter().collect::<Vec<_>>()).unwrap();
        let images = model.mllm.embed_images(&seen).unwrap();
        let together = generate(&model, &images);
        for (case, row) in CASES.iter().zip(together) {
            assert_eq!(vec![row], ids(&expected[&format!("{case}generated_ids")]), "{} {case}", dir.display());
        }
    }
}

/// Writes a checkpoint like that in `dir`, with other weights and another configuration.
fn rewritten(dir: &Path, tensors: &[NamedTensor], config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in COMPANIONS {
        write(&folder.path().join(name), read(&dir.join(name)));
    }
    write(&folder.path().join("config.json"), config.to_string());
    write(&folder.path().join("model.safetensors"), safetensors_bytes(tensors).unwrap());
    folder
}

fn tensors_of(dir: &Path) -> BTreeMap<String, Tensor> {
    read_tensors(&dir.join("model.safetensors"), DType::F32, &Device::Cpu).unwrap()
}

fn replaced(key: &str, stems: &[(&str, &str)]) -> String {
    let found = stems.iter().find_map(|(from, to)| Some(format!("{to}{}", key.strip_prefix(from)?)));
    found.unwrap_or_else(|| key.to_owned())
}

#[test]
fn the_names_of_every_version_give_the_same_model() {
    let in_memory = [("model.", "model.language_model."), ("visual.", "model.visual.")];
    let prefixed_tower = [("visual.", "model.visual.")];
    let wrapped =
        [("model.", "model.model.language_model."), ("visual.", "model.model.visual."), ("lm_head", "model.lm_head")];
    let of_qwen3 = [("model.language_model.", "language_model."), ("model.visual.", "visual.")];
    for (family, layouts) in [
        ("qwen2_vl", vec![&in_memory[..], &prefixed_tower, &wrapped]),
        ("qwen2_5_vl", vec![&in_memory[..], &prefixed_tower, &wrapped]),
        ("qwen3_vl", vec![&of_qwen3[..]]),
    ] {
        let dir = golden("fixtures").join(family);
        let expected = &References::open(&dir)["image1.first_logits"];
        for stems in layouts {
            let tensors: Vec<NamedTensor> =
                tensors_of(&dir).into_iter().map(|(key, tensor)| (replaced(&key, stems), tensor)).collect();
            let folder = rewritten(&dir, &tensors, &read_json(&dir.join("config.json")));
            let model = load(folder.path());
            let first = first_logits(&model, &embedded(&model, &dir, 1));
            assert_close(&first, expected, &format!("{family} {stems:?}"));
        }
    }
}

/// The configuration in the form of older versions: the text's keys at the top level, its rotary settings under other
/// names.
fn flat_config(config: &Value) -> Value {
    let mut flat = config.clone();
    let text = flat.as_object_mut().unwrap().remove("text_config").unwrap();
    for (key, value) in text.as_object().unwrap() {
        if !matches!(key.as_str(), "model_type" | "rope_parameters") {
            flat[key] = value.clone();
        }
    }
    flat["rope_theta"] = text["rope_parameters"]["rope_theta"].clone();
    flat["rope_scaling"] = json!({"type": "mrope", "mrope_section": text["rope_parameters"]["mrope_section"]});
    flat["vision_config"].as_object_mut().unwrap().remove("rope_parameters");
    flat
}

#[test]
fn the_configurations_of_every_version_give_the_same_model() {
    for family in ["qwen2_vl", "qwen2_5_vl"] {
        let dir = golden("fixtures").join(family);
        let nested = read_json(&dir.join("config.json"));
        let flat = flat_config(&nested);
        let mut both = flat.clone();
        both["text_config"] = nested["text_config"].clone();
        both["text_config"]["architectures"] = both.as_object_mut().unwrap().remove("architectures").unwrap();
        // Nested keys take precedence.
        both["num_hidden_layers"] = 2.into();
        let mut unnamed = nested.clone();
        unnamed.as_object_mut().unwrap().remove("model_type");
        let tensors: Vec<NamedTensor> = tensors_of(&dir).into_iter().collect();
        let expected = &References::open(&dir)["image1.first_logits"];
        for (what, config) in [("flat", &flat), ("flat and nested", &both), ("architectures alone", &unnamed)] {
            let folder = rewritten(&dir, &tensors, config);
            let model = load(folder.path());
            let first = first_logits(&model, &embedded(&model, &dir, 1));
            assert_close(&first, expected, &format!("{family} {what}"));
        }
    }
}

#[test]
fn limits_of_pixels_lie_in_either_file_and_are_recorded() {
    let dir = golden("fixtures/qwen2_vl");
    let tensors: Vec<NamedTensor> = tensors_of(&dir).into_iter().collect();
    let folder = rewritten(&dir, &tensors, &read_json(&dir.join("config.json")));
    std::fs::remove_file(folder.path().join("processor_config.json")).unwrap();
    let older = json!({
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 4, "min_pixels": 256, "max_pixels": 1_048_576,
    });
    write(&folder.path().join("preprocessor_config.json"), older.to_string());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let recorded = |limits: PixelLimits| {
        let opened = OpenedModel::open_within(&checkpoint, None, None, &limits, Default::default()).unwrap();
        let parameters = opened.preprocessor.parameters();
        (parameters["min_pixels"].as_u64().unwrap(), parameters["max_pixels"].as_u64().unwrap())
    };
    // A position of the language model is 8 x 8 pixels.
    assert_eq!(recorded(PixelLimits::default()), (256 * 64, 1280 * 64));
    assert_eq!(recorded(PixelLimits { min_pixels: Some(256), max_pixels: Some(9 * 64) }), (256, 9 * 64));
    let limits = PixelLimits { min_pixels: None, max_pixels: Some(9 * 64) };
    let opened = OpenedModel::open_within(&checkpoint, None, None, &limits, Default::default()).unwrap();
    assert!(opened.dialogue.n_image_positions_max() < 64, "{}", opened.dialogue.n_image_positions_max());
}

#[test]
fn a_processor_of_another_tower_is_refused() {
    let dir = golden("fixtures/qwen2_vl");
    let folder = rewritten(&dir, &[], &read_json(&dir.join("config.json")));
    std::fs::remove_file(folder.path().join("processor_config.json")).unwrap();
    write(&folder.path().join("preprocessor_config.json"), json!({"patch_size": 16}).to_string());
    let error = OpenedModel::open(&Checkpoint::open(folder.path()).unwrap(), None, None).err().unwrap().to_string();
    assert!(error.contains("(16, 2, 2)") && error.contains("(4, 2, 2)"), "{error}");
}

#[test]
fn a_stored_head_wins_and_without_one_either_flag_ties_it() {
    let dir = golden("fixtures/qwen3_vl");
    let expected = &References::open(&dir)["image1.first_logits"];
    let tied: Vec<NamedTensor> = tensors_of(&dir).into_iter().collect();
    let config_with = |outside: bool, inside: bool| {
        let mut config = read_json(&dir.join("config.json"));
        config["tie_word_embeddings"] = outside.into();
        config["text_config"]["tie_word_embeddings"] = inside.into();
        config
    };
    let logits = |tensors: &[NamedTensor], config: &Value| {
        let folder = rewritten(&dir, tensors, config);
        let model = open(folder.path()).unwrap().load(&Placement::cpu())?;
        anyhow::Ok(first_logits(&model, &embedded(&model, &dir, 1)))
    };
    for (outside, inside) in [(true, false), (false, true)] {
        assert_close(&logits(&tied, &config_with(outside, inside)).unwrap(), expected, "tied");
    }
    let error = logits(&tied, &config_with(false, false)).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight"), "{error}");

    let mut own = tied.clone();
    let embedding = &tensors_of(&dir)["model.language_model.embed_tokens.weight"];
    own.push(("lm_head.weight".to_owned(), (embedding * 2.0).unwrap()));
    let doubled = (expected * 2.0).unwrap();
    assert_close(&logits(&own, &config_with(true, true)).unwrap(), &doubled, "its own head");
}

#[test]
fn adapters_of_language_model_tower_and_projector_meet_peft_beside_the_base_and_merged() {
    let adapters = golden("qwen_adapters");
    for (name, n_in_tower, n_in_projector) in [
        ("qwen2_vl-regex", 0, 0),
        ("qwen2_vl-list", 6, 0),
        ("qwen2_5_vl-regex", 0, 0),
        ("qwen2_5_vl-list", 8, 0),
        ("qwen2_5_vl-saved", 0, 5),
        ("qwen3_vl-regex", 0, 0),
        ("qwen3_vl-list", 8, 4),
    ] {
        let dir = golden("fixtures").join(name.split('-').next().unwrap());
        let expected = References::open(&adapters.join(name));
        for (is_merged, which) in [(false, "beside"), (true, "merged")] {
            let opened = open(&dir).unwrap();
            let canonical = family_of(&Checkpoint::open(&dir).unwrap()).unwrap().canonical;
            let adapter = Adapter::open(&adapters.join(name), canonical, &opened.weights).unwrap();
            assert_eq!(adapter.n_touched("vision_tower."), n_in_tower, "{name}");
            assert_eq!(adapter.n_touched("multi_modal_projector."), n_in_projector, "{name}");
            let overlay = adapter.overlay(&Placement::cpu(), is_merged).unwrap();
            let model = opened.load_all(vec![overlay], &Placement::cpu()).unwrap().remove(0);
            let image = embedded(&model, &dir, 2);
            let logits = first_logits(&model, &image);
            assert_close(&logits, &expected[&format!("{which}.first_logits")], &format!("{name} {which}"));
            assert_eq!(generate(&model, &[image]), ids(&expected["generated_ids"]), "{name} {which}");
        }
    }
}

#[test]
fn an_answer_ends_with_the_turn_and_ids_that_the_tokenizer_lacks_end_nothing() {
    for dir in FAMILY_NAMES.into_iter().flat_map(fixtures) {
        let family = dir.display();
        let opened = open(&dir).unwrap();
        let end = opened.dialogue.tokenizer.token_id("<|im_end|>").unwrap();
        assert_eq!(opened.dialogue.decoding(1).eos_ids, [end], "{family}");
        let prompt = opened.dialogue.render("What is it?").unwrap();
        let ids = opened.dialogue.answer_ids(&prompt, "cat").unwrap();
        assert_eq!(ids.last(), Some(&end), "{family}");
        let (_, said) = ids.split_last().unwrap();
        assert_eq!(opened.dialogue.tokenizer.decode(said).unwrap(), "cat", "{family}");
    }
}
