//! The commands on a tiny checkpoint of every family.

use std::path::Path;
use std::process::Command;

use super::support::{self, emt, finish};

/// The fixtures of the families, one or more for each, and the words that a checkpoint needs in addition.
const FAMILIES: &[(&str, &[&str])] = &[
    ("llava", &[]),
    ("llava_gemma", &[]),
    ("llava_layers_list", &[]),
    ("llava_mistral", &[]),
    ("llava_qwen2_siglip", &[]),
    ("llava_onevision", &[]),
    ("idefics3", &[]),
    ("smolvlm", &[]),
    ("qwen2_vl", &[]),
    ("qwen2_5_vl", &[]),
    ("qwen3_vl", &[]),
    ("llava_next", &[]),
    ("internvl", &[]),
    ("gemma3", &[]),
    ("paligemma", &[]),
    ("mllama", &[]),
    ("llava_v0", &[]),
    ("otter_llama", &[]),
    ("otter_mpt", &[]),
    ("open_flamingo", &[]),
    ("instructblip_vicuna", &[]),
    ("instructblip_t5", &[]),
    ("blip2", &[]),
];

#[test]
fn every_family_is_evaluated_fine_tuned_gated_and_diagnosed() {
    for (name, words) in FAMILIES {
        // The small ones have another tokenizer, and are tried as well.
        for checkpoint in support::fixtures(name) {
            let folder = tempfile::tempdir().unwrap();
            try_commands(&checkpoint, words, folder.path());
        }
    }
}

fn try_commands(checkpoint: &Path, words: &[&str], folder: &Path) {
    let on = |command: &str, limit: &str| {
        let mut on = emt();
        on.current_dir(folder).arg(command).arg("--model").arg(checkpoint).args(words);
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
