//! What trainers leave: told and recorded. What is quantised: refused by name, with the mend.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bad_input::{copy_of_model, eval_alone, joined, parts_of, refuse};
use super::eval::succeed;
use super::support;

/// The mend of every quantised checkpoint.
const MEND: [&str; 2] = ["hint: give the unquantised checkpoint", "serve it and evaluate the server"];

fn refuse_with_mend(model: &Path, shared: &Path, out: &Path, parts: &[&str]) {
    refuse(&mut eval_alone(model, &shared.join("data"), "mnist", out), &[parts, &MEND].concat());
    assert!(!out.exists(), "nothing is begun that is refused");
}

#[test]
fn quantised_checkpoints_are_refused_by_what_their_configuration_says() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (copy_of_model(&shared, folder.path()), folder.path().join("run"));
    let path = model.join("config.json");
    let plain: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (quantisation, named) in [
        (
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}),
            "bitsandbytes, 4 bits",
        ),
        (json!({"load_in_8bit": true}), "bitsandbytes, 8 bits"),
        (json!({"quant_method": "gptq", "bits": 4, "group_size": 128}), "gptq, 4 bits"),
        (json!({"quant_method": "awq", "bits": 4, "version": "gemm"}), "awq, 4 bits"),
        (json!({"quant_method": "fp8", "activation_scheme": "dynamic"}), "fp8"),
        (json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}), "compressed-tensors"),
    ] {
        for part in [None, Some("text_config")] {
            let mut config = plain.clone();
            match part {
                None => config["quantization_config"] = quantisation.clone(),
                Some(part) => config[part]["quantization_config"] = quantisation.clone(),
            }
            fs::write(&path, config.to_string()).unwrap();
            refuse_with_mend(&model, &shared, &out, &["config.json", named]);
        }
    }
}

#[test]
fn quantised_tensors_are_refused_without_any_word_in_the_configuration() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (copy_of_model(&shared, folder.path()), folder.path().join("run"));
    let path = model.join("model.safetensors");
    let plain = fs::read(&path).unwrap();
    let stem = "language_model.model.layers.0.self_attn.q_proj";
    for (leaf, named) in [
        ("qweight", "GPTQ or AWQ"),
        ("weight.absmax", "bitsandbytes, 4 bits"),
        ("SCB", "bitsandbytes, 8 bits"),
        ("weight_packed", "compressed-tensors"),
        ("weight_scale_inv", "FP8"),
    ] {
        let (mut header, data) = parts_of(&plain);
        let fields = header.as_object_mut().unwrap();
        let tensor = fields.remove(&format!("{stem}.weight")).unwrap();
        fields.insert(format!("{stem}.{leaf}"), tensor);
        fs::write(&path, joined(&header, data)).unwrap();
        refuse_with_mend(&model, &shared, &out, &["model.safetensors", &format!("{stem}.{leaf}"), named]);
    }
    // A matrix of bytes, under its plain name.
    let (mut header, data) = parts_of(&plain);
    let tensor = &mut header[format!("{stem}.weight")];
    tensor["dtype"] = "U8".into();
    let n_bytes = tensor["data_offsets"][1].as_u64().unwrap() - tensor["data_offsets"][0].as_u64().unwrap();
    tensor["shape"] = json!([n_bytes, 1]);
    fs::write(&path, joined(&header, data)).unwrap();
    refuse_with_mend(&model, &shared, &out, &["model.safetensors", "q_proj.weight", "stored as U8"]);
}

#[test]
fn gguf_is_refused_as_a_model_an_encoder_and_an_adapter() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (shared.join("data"), folder.path().join("run"));
    let dir = folder.path().join("served");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("llava.Q4_K_M.gguf");
    fs::write(&file, b"GGUF\x03\0\0\0").unwrap();
    let parts = ["GGUF is not read", "hint: give the checkpoint it was converted from", "serve the GGUF file"];
    for model in [&dir, &file] {
        refuse(&mut eval_alone(model, &data, "mnist", &out), &parts);
    }
    let model = shared.join("models/tiny-llava");
    refuse(eval_alone(&model, &data, "mnist", &out).arg("--encoder").arg(&file), &parts);
    refuse(eval_alone(&model, &data, "mnist", &out).arg("--adapter").arg(&file), &parts);
    assert!(!out.exists());
}

/// A copy of the adapter `lora-mnist` over another base's name, with `files` beside it.
fn adapter(folder: &Path, base: &str, files: &[(&str, String)]) -> PathBuf {
    let (from, to) = (support::any_adapters().join("lora-mnist"), folder.join("tuned"));
    fs::create_dir(&to).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    config["base_model_name_or_path"] = base.into();
    fs::write(to.join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(to.join("adapter_model.safetensors"), fs::read(from.join("adapter_model.safetensors")).unwrap()).unwrap();
    for (name, text) in files {
        fs::write(to.join(name), text).unwrap();
    }
    to
}

#[test]
fn an_adapter_given_as_a_model_names_the_unquantised_base() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let tuned = adapter(folder.path(), "unsloth/tiny-llava-bnb-4bit", &[]);
    let out = folder.path().join("run");
    let parts =
        ["`unsloth/tiny-llava`", "`unsloth/tiny-llava-bnb-4bit` is quantised: bitsandbytes, 4 bits", "`--adapter`"];
    refuse(&mut eval_alone(&tuned, &shared.join("data"), "mnist", &out), &parts);
}

#[test]
fn what_was_trained_otherwise_is_warned_of_and_recorded_with_the_run() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let arguments = json!({"template": "llava1_5_hf", "system": null, "max_pixels": 602_112}).to_string();
    let card = "### Framework versions\n\n- PEFT 0.13.2\n- Transformers 4.46.3\n".to_owned();
    let files = [("args.json", arguments), ("README.md", card)];
    let tuned = adapter(folder.path(), "unsloth/tiny-llava-bnb-4bit", &files);
    let (model, out) = (shared.join("models/tiny-llava"), folder.path().join("runs"));
    let finished = succeed(eval_alone(&model, &shared.join("data"), "mnist", &out).arg("--adapter").arg(&tuned));
    let expected = [
        "trained by ms-swift with its template `llava1_5_hf`",
        "at most 602112 pixels",
        "on the quantised base `unsloth/tiny-llava-bnb-4bit` (bitsandbytes, 4 bits), but is evaluated on `tiny-llava`",
        "saved by transformers 4.46.3",
    ];
    let run =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(out.join(name).join("run.json")).unwrap()).unwrap() };
    let recorded = run("tuned")["environment"]["warnings"].clone();
    let recorded: Vec<&str> = recorded.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    for part in expected {
        let is_there = recorded.iter().any(|warning| warning.contains(part));
        assert!(is_there, "`{part}` is missing in {recorded:#?}");
        assert!(finished.stderr.contains(part), "{}", finished.stderr);
    }
    assert_eq!(recorded.len(), expected.len(), "{recorded:#?}");
    assert_eq!(run("base")["environment"]["warnings"], Value::Null, "the base was not trained so");
    assert_eq!(run("base")["environment"]["transformers_version"], "5.23.0");
    assert_eq!(run("tuned")["environment"]["transformers_version"], "4.46.3");

    // Asked as it was trained, it is another run, and one warning is gone.
    let asked = folder.path().join("asked");
    let mut command = eval_alone(&model, &shared.join("data"), "mnist", &asked);
    command.arg("--adapter").arg(&tuned).arg("--no-base").arg("--template").arg(tuned.join("args.json"));
    let finished = succeed(&mut command);
    assert!(!finished.stderr.contains("`llava1_5_hf`"), "{}", finished.stderr);
    let whole: Value = serde_json::from_slice(&fs::read(asked.join("run.json")).unwrap()).unwrap();
    let prompt = whole["spec"]["datasets"][0]["prompts"][0]["rendered"].as_str().unwrap();
    assert!(prompt.starts_with("USER: <image>\n") && prompt.ends_with("\nASSISTANT:"), "{prompt}");
    assert_eq!(whole["environment"]["warnings"].as_array().unwrap().len(), expected.len() - 1);
}
