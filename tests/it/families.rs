//! The commands on a tiny checkpoint of every family.

use std::path::Path;
use std::process::Command;

use super::support::{self, emt, finish};

/// What is tried on a family.
#[derive(Clone, Copy, PartialEq)]
enum Tried {
    /// All commands.
    All,
    /// `emt eval`: T5 has other maps than those that `lora` updates.
    Evaluation,
}

/// The fixtures of the families, one or more for each.
const FAMILIES: &[(&str, Tried)] = &[
    ("llava", Tried::All),
    ("llava_gemma", Tried::All),
    ("llava_layers_list", Tried::All),
    ("llava_mistral", Tried::All),
    ("llava_qwen2_siglip", Tried::All),
    ("llava_v0", Tried::All),
    ("llava_next", Tried::All),
    ("llava_onevision", Tried::All),
    ("idefics3", Tried::All),
    ("smolvlm", Tried::All),
    ("qwen2_vl", Tried::All),
    ("qwen2_5_vl", Tried::All),
    ("qwen3_vl", Tried::All),
    ("internvl", Tried::All),
    ("gemma3", Tried::All),
    ("paligemma", Tried::All),
    ("mllama", Tried::All),
    ("otter_llama", Tried::All),
    ("otter_mpt", Tried::All),
    ("open_flamingo", Tried::All),
    ("instructblip_vicuna", Tried::All),
    ("instructblip_t5", Tried::Evaluation),
    ("blip2", Tried::Evaluation),
];

/// What a fixture lacks that a checkpoint of its family has.
const CHAT_TEMPLATES: &[(&str, &str)] = &[("mllama", "<|image|>{{ messages[0].content[1].text }}\n")];

#[test]
fn every_family_is_evaluated_fine_tuned_gated_and_diagnosed() {
    for (name, tried) in FAMILIES {
        // The small ones have another tokenizer, and are tried as well.
        for fixture in support::fixtures(name) {
            let folder = tempfile::tempdir().unwrap();
            let template = CHAT_TEMPLATES.iter().find(|(family, _)| family == name);
            let copy = template.map(|(_, text)| {
                let copy = folder.path().join(name);
                copy_with(&fixture, &copy, "chat_template.jinja", text);
                copy
            });
            try_commands(copy.as_deref().unwrap_or(&fixture), *tried, folder.path());
        }
    }
}

/// Copies the files of `from`, and adds one.
fn copy_with(from: &Path, to: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::write(to.join(name), text).unwrap();
}

fn try_commands(checkpoint: &Path, tried: Tried, folder: &Path) {
    let on = |command: &str, limit: &str| {
        let mut on = emt();
        on.current_dir(folder).arg(command).arg("--model").arg(checkpoint);
        on.args(["--prompt", "emt-open", "--limit", limit, "--quiet"]);
        on
    };
    let answers = ["--datasets", "embedded/mnist", "--max-new-tokens", "4"];
    let adapter = ["--adapter", "lora"];
    let assert_done = |mut command: Command, codes: &[i32], files: &[&str]| {
        let finished = finish(&mut command);
        let code = finished.code.unwrap_or(-1);
        assert!(codes.contains(&code), "{}: {command:?}: {code}: {}", checkpoint.display(), finished.stderr);
        for file in files {
            assert!(folder.join(file).is_file(), "{}: {file}", checkpoint.display());
        }
    };
    let mut eval = on("eval", "2");
    eval.args(answers).args(["--encoder", "none", "--modes", "generate,score", "--out", "runs"]);
    assert_done(eval, &[0], &["runs/trials.jsonl"]);
    if tried == Tried::Evaluation {
        return;
    }
    let mut finetune = on("finetune", "4");
    finetune.args(["--method", "lora", "--rank", "2", "--train", "embedded/mnist", "--batch-size", "2"]);
    finetune.args(["--epochs", "1", "--eval-datasets", "none", "--out", "lora"]);
    assert_done(finetune, &[0], &["lora/adapter_model.safetensors"]);
    // Random weights and few images: every verdict is right.
    let mut gate = on("gate", "4");
    gate.args(answers).args(adapter).args(["--encoder", "none", "--runs", "gated"]);
    assert_done(gate, &[0, 1, 3], &["gated/lora/run.json"]);
    let mut diagnose = on("diagnose", "2");
    diagnose.args(answers).args(adapter).args(["--probes", "quick", "--out", "diagnosis"]);
    assert_done(diagnose, &[0], &["diagnosis/diagnosis.json"]);
}
