//! The output of five tools loads unchanged, answers as in transformers and peft, and reports how it was trained.
#![expect(clippy::disallowed_methods, reason = "tests make and read folders")]

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::{Value, json};

use super::tests::Loaded;
use super::*;
use crate::model::checkpoint::weights::Adapter;
use crate::model::checkpoint::weights::testing::{golden, read_json};
use crate::model::testing::{References, assert_close, ids};

fn leftovers() -> PathBuf {
    golden("leftovers")
}

fn opened(dir: &Path, template: Option<&str>) -> OpenedModel {
    OpenedModel::open(&Checkpoint::open(dir).unwrap(), None, template).unwrap()
}

fn adapter_of(dir: &Path, base: &OpenedModel) -> Result<Adapter> {
    Adapter::open(dir, llava::FAMILY.canonical, &base.weights)
}

/// Loads `base` with the overlay of `adapter`.
fn load(base: OpenedModel, adapter: &Adapter) -> Loaded {
    let overlay = adapter.overlay(&Placement::cpu(), false).unwrap();
    Loaded::new(base.load_all(vec![overlay], &Placement::cpu()).unwrap().pop().unwrap())
}

/// Each tool with its adapter's folder and the template that it trained with.
fn tools() -> [(&'static str, PathBuf, Option<String>); 5] {
    let root = leftovers();
    let swift = root.join("ms_swift");
    let arguments = swift.join("args.json").display().to_string();
    [
        ("ms_swift", swift, Some(arguments)),
        ("llama_factory", root.join("llama_factory"), Some("llama_factory_llava".to_owned())),
        ("unsloth", root.join("unsloth"), None),
        ("axolotl", root.join("axolotl"), None),
        ("trl", root.join("trl/checkpoint-5"), None),
    ]
}

#[test]
fn what_each_tool_leaves_answers_as_by_transformers_and_peft() {
    let base = golden("fixtures/llava");
    let pixels = &References::open(&base)["pixel_values"];
    let expected = References::open(&leftovers());
    for (tool, dir, template) in tools() {
        let model = opened(&base, template.as_deref());
        let adapter = adapter_of(&dir, &model).unwrap();
        let loaded = load(model, &adapter);
        let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
        let image_token = loaded.model.dialogue.tokenizer.token_id("<image>").unwrap();
        let rendered: Vec<u32> = prompt.ids.iter().map(|id| id.unwrap_or(image_token)).collect();
        assert_eq!(vec![rendered], ids(&expected[&format!("{tool}.input_ids")]), "{tool}");
        assert_close(&loaded.first_logits(&prompt, pixels), &expected[&format!("{tool}.first_logits")], tool);
        let generated = loaded.generate(&[&prompt], pixels);
        assert_eq!(generated, ids(&expected[&format!("{tool}.generated_ids")]), "{tool}");
    }
}

#[track_caller]
fn assert_warned(warnings: &[String], parts: &[&str]) {
    let is_whole = |warning: &&String| parts.iter().all(|part| warning.contains(part));
    assert!(warnings.iter().any(|warning| is_whole(&warning)), "{parts:?} in {warnings:#?}");
}

#[test]
fn what_a_tool_trained_with_is_told_where_it_differs() {
    let base = golden("fixtures/llava");
    let warnings = |tool: usize, template: Option<&str>| {
        let model = opened(&base, template);
        let adapter = adapter_of(&tools()[tool].1, &model).unwrap();
        model.adapter_warnings("tuned", &adapter, &model.dialogue, model.preprocessor.as_ref()).unwrap()
    };
    let arguments = leftovers().join("ms_swift/args.json").display().to_string();
    let swift = warnings(0, None);
    assert_warned(&swift, &["ms-swift", "`llava1_5_hf`", "`chat_template.jinja`", &format!("--template {arguments}")]);
    assert_warned(&swift, &["1003520 pixels"]);
    assert_eq!(swift.len(), 2, "{swift:#?}");
    for chosen in [arguments.as_str(), "ms_swift_llava1_5_hf"] {
        assert_eq!(warnings(0, Some(chosen)), swift[1..], "asked as it was trained");
    }
    let factory = warnings(1, None);
    assert_warned(&factory, &["`tokenizer_config.json`", "another chat template", "--template"]);
    assert_warned(&factory, &["transformers 4.46.3", "padded rows"]);
    assert_eq!(warnings(1, Some("llama_factory_llava")), factory[1..]);
    let unsloth = warnings(2, None);
    assert_warned(&unsloth, &["`unsloth/llava-1.5-7b-hf-bnb-4bit`", "bitsandbytes, 4 bits", "`llava`"]);
    assert_eq!(unsloth.len(), 1, "{unsloth:#?}");
    let axolotl = warnings(3, None);
    assert_warned(&axolotl, &["`llava-hf/llava-1.5-7b-hf`", "bitsandbytes, 4 bits"]);
    assert_eq!(axolotl.len(), 1, "{axolotl:#?}");
    assert_eq!(warnings(4, None), Vec::<String>::new());
}

/// Copies the files of `from` whose names `is_wanted` accepts.
fn copy(from: &Path, to: &Path, is_wanted: impl Fn(&str) -> bool) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() && is_wanted(entry.file_name().to_str().unwrap()) {
            fs::write(to.join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

#[test]
fn an_adapter_one_folder_deeper_is_the_same_with_its_arguments_above() {
    let model = opened(&golden("fixtures/llava"), None);
    let folder = tempfile::tempdir().unwrap();
    let from = leftovers().join("ms_swift");
    copy(&from, &folder.path().join("default"), |name| name != "args.json");
    copy(&from, folder.path(), |name| name == "args.json");
    let (flat, nested) = (adapter_of(&from, &model).unwrap(), adapter_of(folder.path(), &model).unwrap());
    assert_eq!(nested.hash().unwrap(), flat.hash().unwrap());
    assert_eq!(nested.notes.swift.as_ref().unwrap().0, folder.path().join("args.json"));
    assert!(flat.n_touched("vision_tower.") == 39 && flat.n_touched("multi_modal_projector.") == 4);
}

#[test]
fn a_tower_that_was_trained_and_not_copied_is_missed() {
    let model = opened(&golden("fixtures/llava"), None);
    let folder = tempfile::tempdir().unwrap();
    copy(&leftovers().join("ms_swift"), folder.path(), |name| name != "vit.safetensors");
    let error = format!("{:#}", adapter_of(folder.path(), &model).unwrap_err());
    assert!(error.contains("vit.safetensors") && error.contains("hint: copy that file"), "{error}");
    // The folder of a run. Its checkpoints are the adapters.
    let error = format!("{:#}", adapter_of(&leftovers().join("trl"), &model).unwrap_err());
    assert!(error.contains("checkpoint-5"), "{error}");
}

/// Writes a merged checkpoint to `folder` as transformers saves it, with the configuration changed by `change`.
fn merged(folder: &Path, change: impl Fn(&mut Value)) {
    let weights = golden("fixtures/llava_peft/merged_float32_regex_projector");
    let is_companion =
        |name: &str| name.ends_with(".json") && !name.starts_with("reference") || name.ends_with(".jinja");
    copy(&golden("fixtures/llava"), folder, is_companion);
    copy(&weights, folder, |_| true);
    let mut config = read_json(&folder.join("config.json"));
    change(&mut config);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Asserts that its logits are those of the merged adapter.
#[track_caller]
fn assert_answers_merged(folder: &Path) {
    let loaded = Loaded::new(opened(folder, Some("llava_v1")).load(&Placement::cpu()).unwrap());
    let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
    let pixels: &Tensor = &References::open(&golden("fixtures/llava"))["pixel_values"];
    let expected = References::open(&golden("fixtures/llava_peft/regex_projector"));
    let first = loaded.first_logits(&prompt, pixels);
    assert_close(&first, &expected["merged_float32.first_logits"], "merged");
}

#[test]
fn an_export_of_llama_factory_answers_and_tells_its_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    merged(dir, |config| config["transformers_version"] = json!("4.57.1"));
    // Shards, as `export_size` makes them.
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &candle_core::Device::Cpu).unwrap();
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let (first, second): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(name, _)| name.contains("language_model"));
    let mut map = serde_json::Map::new();
    for (index, part) in [first, second].into_iter().enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", index + 1);
        map.extend(part.iter().map(|(name, _)| (name.clone(), Value::from(file.as_str()))));
        candle_core::safetensors::save(&part.into_iter().collect(), dir.join(file)).unwrap();
    }
    fs::write(dir.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    copy(&leftovers().join("llama_factory"), dir, |name| name == "tokenizer_config.json");
    let system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
                  detailed, and polite answers to the user's questions.";
    let modelfile = format!(
        "# ollama modelfile auto-generated by llamafactory\n\nFROM .\n\nTEMPLATE \"\"\"{{{{ if .System }}}}{{{{ .System }}}}{{{{ end \
         }}}}{{{{ range .Messages }}}}{{{{ if eq .Role \"user\" }}}}USER: {{{{ .Content }}}} ASSISTANT:{{{{ else if eq .Role \
         \"assistant\" }}}}{{{{ .Content }}}}</s>{{{{ end }}}}{{{{ end }}}}\"\"\"\n\nSYSTEM \"\"\"{system}\"\"\"\n\nPARAMETER stop \
         \"</s>\"\nPARAMETER num_ctx 4096\n"
    );
    fs::write(dir.join("Modelfile"), modelfile).unwrap();
    assert_answers_merged(dir);

    let path = dir.join("Modelfile").display().to_string();
    let warnings = opened(dir, None).warnings;
    assert_warned(&warnings, &["`Modelfile`", "`chat_template.jinja`", &format!("--template {path}")]);
    assert_warned(&warnings, &["`tokenizer_config.json`", "another chat template"]);
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    let as_trained = opened(dir, Some(&path));
    assert_eq!(as_trained.warnings, Vec::<String>::new());
    let prompt = as_trained.dialogue.render("What is this?").unwrap();
    assert_eq!(prompt.text, format!("{system} USER: <image>What is this? ASSISTANT:"));
    assert_eq!(opened(dir, Some("llama_factory_llava")).dialogue.render("What is this?").unwrap().ids, prompt.ids);

    fs::write(dir.join("Modelfile"), "FROM .\nTEMPLATE \"\"\"{{ .Prompt }}\"\"\"\n").unwrap();
    assert_warned(&opened(dir, None).warnings, &["`Modelfile` of a form that is not read", &path]);
    let error = OpenedModel::open(&Checkpoint::open(dir).unwrap(), None, Some(&path)).err().unwrap();
    assert!(format!("{error:#}").contains("hint: write it as jinja"), "{error:#}");
}

#[test]
fn a_merge_of_unsloth_has_its_template_in_the_tokenizer_and_no_version() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    merged(dir, |config| {
        let fields = config.as_object_mut().unwrap();
        fields.remove("transformers_version");
        let dtype = fields.remove("dtype").unwrap();
        fields.insert("torch_dtype".to_owned(), dtype);
        fields.insert("unsloth_fixed".to_owned(), true.into());
    });
    let template = fs::read_to_string(dir.join("chat_template.jinja")).unwrap();
    fs::remove_file(dir.join("chat_template.jinja")).unwrap();
    let mut settings = read_json(&dir.join("tokenizer_config.json"));
    settings["chat_template"] = template.into();
    fs::write(dir.join("tokenizer_config.json"), settings.to_string()).unwrap();
    assert_answers_merged(dir);
    let model = opened(dir, None);
    assert_eq!((model.dialogue.template.name(), model.warnings), ("tokenizer_config.json", Vec::new()));
}

#[test]
fn a_merge_of_ms_swift_tells_its_arguments_as_a_model_and_as_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint-10-merged");
    merged(&dir, |config| config["transformers_version"] = json!("4.46.3"));
    let arguments = json!({
        "template": "llava1_5_hf", "system": "Answer with a name.", "train_type": "lora", "quant_method": "bnb", "quant_bits": 4,
    });
    fs::write(dir.join("args.json"), arguments.to_string()).unwrap();
    assert_answers_merged(&dir);
    let model = opened(&dir, None);
    assert_warned(&model.warnings, &["checkpoint-10-merged", "\"Answer with a name.\"", "args.json"]);
    assert_warned(&model.warnings, &["transformers 4.46.3"]);
    assert_warned(&model.warnings, &["bitsandbytes, 4 bits", "merged into one that is not"]);
    let path = dir.join("args.json").display().to_string();
    let as_trained = opened(&dir, Some(&path));
    let prompt = as_trained.dialogue.render("What?").unwrap().text;
    assert_eq!(prompt, "Answer with a name.\nUSER: <image>\nWhat?\nASSISTANT:");

    let base = opened(&golden("fixtures/llava"), None);
    let adapter = adapter_of(&dir, &base).unwrap();
    let warnings = base.adapter_warnings("merged", &adapter, &base.dialogue, base.preprocessor.as_ref()).unwrap();
    assert_warned(&warnings, &["merged was trained by ms-swift"]);
    assert_warned(&warnings, &["merged was saved by transformers 4.46.3"]);
    // The warning names an unknown template.
    fs::write(dir.join("args.json"), json!({"template": "llava_of_tomorrow"}).to_string()).unwrap();
    assert_warned(&opened(&dir, None).warnings, &["`llava_of_tomorrow`", "not known here"]);
}
