//! `emt finetune` through the program: what it leaves, resume after kills, and bad input.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::support::{self, finish};

/// Sixteen images of CIFAR-10 in batches of four.
fn finetune(shared: &Path, method: &str, out: &Path) -> Command {
    let mut command = support::emt();
    command.arg("finetune").arg("--model").arg(shared.join("models/tiny-llava"));
    command.arg("--data").arg(shared.join("data")).args(["--train", "cifar10", "--limit", "16", "--batch-size", "4"]);
    command.args(["--method", method, "--epochs", "2", "--learning-rate", "2e-3", "--warmup-ratio", "0"]);
    if method.contains("lora") {
        command.args(["--rank", "4"]);
    }
    if ["prompt", "p-tuning", "prefix"].iter().any(|arm| method.contains(arm)) {
        command.args(["--virtual-tokens", "4"]);
    }
    command.args(["--micro-batch-size", "2", "--eval-datasets", "none", "--save-every", "3", "--quiet"]);
    command.args(["--answer-template", "The object is a {label}.", "--out"]).arg(out);
    command
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

#[track_caller]
fn assert_done(command: &mut Command) {
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

/// The tensors of a safetensors file as bytes after its header, and the header.
fn tensors(path: &Path) -> (Value, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = serde_json::from_slice(&bytes[8..8 + n_header]).unwrap();
    let values = bytes[8 + n_header..].chunks_exact(4).map(|raw| f32::from_le_bytes(raw.try_into().unwrap()));
    (header, values.collect())
}

#[track_caller]
fn assert_equal_weights(a: &Path, b: &Path, file: &str) {
    let ((header, values), (expected_header, expected)) = (tensors(&a.join(file)), tensors(&b.join(file)));
    assert_eq!(header, expected_header);
    let worst = values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-6, "{file}: {worst}");
}

/// Kills the training in `out` after some steps, `n_times`, and lets it come to its end.
fn finish_after_kills(command: &dyn Fn() -> Command, out: &Path, n_times: usize) {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..n_times {
        let mut child = command().stdout(Stdio::null()).spawn().unwrap();
        let n_lines = random.usize(1..6);
        let log = out.join("training.jsonl");
        let before = std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        loop {
            let now = std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
            // Resuming cuts lines off, so that there may be fewer than before.
            if now >= before + n_lines || child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_done(&mut command());
}

#[test]
fn a_training_killed_at_random_steps_ends_with_the_weights_of_one_that_was_not() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    assert_done(&mut finetune(&shared, "lora", &whole));
    finish_after_kills(&|| finetune(&shared, "lora", &broken), &broken, 4);
    assert_equal_weights(&broken, &whole, "adapter_model.safetensors");
    let steps = |dir: &Path| -> Vec<u64> {
        let text = std::fs::read_to_string(dir.join("training.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(steps(&broken), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(json(broken.join("training.json"))["state"], "complete");
}

#[test]
fn every_arm_and_every_flag_against_forgetting_resumes_to_equal_weights() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let held = [
        "--replay",
        "embedded/mnist:0.25",
        "--keep-base",
        "0.5",
        "--ewc",
        "1000",
        "--ewc-limit",
        "4",
        "--l2-sp",
        "0.1",
    ];
    for (method, flags, files) in [
        ("prompt", &[][..], &["adapter_model.safetensors"][..]),
        ("p-tuning", &["--prompt-encoder", "lstm"], &["prompt_encoder.safetensors", "adapter_model.safetensors"]),
        ("prefix", &[], &["adapter_model.safetensors"]),
        ("moca", &[], &["non_lora_trainables.safetensors"]),
        ("linear+prompt", &[], &["adapter_model.safetensors"]),
        ("lora+moca", &held, &["adapter_model.safetensors", "non_lora_trainables.safetensors"]),
    ] {
        let (whole, broken) = (folder.path().join(format!("{method}-whole")), folder.path().join(method));
        let command = |out: &Path| {
            let mut command = finetune(&shared, method, out);
            command.args(flags);
            command
        };
        assert_done(&mut command(&whole));
        finish_after_kills(&|| command(&broken), &broken, 1);
        files.iter().for_each(|file| assert_equal_weights(&broken, &whole, file));
        if flags.contains(&"--ewc") {
            let log = std::fs::read_to_string(whole.join("training.jsonl")).unwrap();
            let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
            assert!(last["penalty"].as_f64().unwrap() > 0.0 && last["divergence"].as_f64().unwrap() > 0.0, "{last}");
        }
    }
}

/// Eight digits for a small LLaVA that gets a second tower.
fn mixed(model: &Path, method: &str, mixing: &str, out: &Path) -> Command {
    let mut command = support::emt();
    command.arg("finetune").arg("--model").arg(model).args(["--method", method, "--mixing", mixing]);
    command.arg("--second-tower").arg(support::root().join("tests/golden/mof/dino"));
    command.args(["--train", "embedded/mnist", "--limit", "8", "--batch-size", "4", "--epochs", "3", "--quiet"]);
    command.args(["--learning-rate", "2e-3", "--warmup-ratio", "0", "--prompt", "emt-open"]);
    command.args(["--eval-datasets", "none", "--save-every", "1", "--out"]).arg(out);
    command
}

#[test]
fn a_second_tower_is_mixed_in_resumed_and_evaluated() {
    let golden = support::root().join("tests/golden");
    let (base, tower) = (golden.join("fixtures/llava"), golden.join("mof/dino"));
    let folder = tempfile::tempdir().unwrap();
    let beside = "non_lora_trainables.safetensors";
    let mut eval = support::emt();
    eval.arg("eval").arg("--model").arg(&base).args(["--encoder", "none", "--no-base"]);
    eval.args(["--datasets", "embedded/mnist", "--prompt", "emt-open", "--limit", "4", "--max-new-tokens", "4"]);
    for (name, method, mixing, file) in [
        ("interleaved", "mof", "interleaved", beside),
        ("added", "mof", "additive:0.5", beside),
        ("with-lora", "lora+mof", "interleaved", "adapter_model.safetensors"),
        ("both", "linear+mof", "interleaved", beside),
        ("whole", "full+mof", "interleaved", "model.safetensors"),
    ] {
        let (whole, broken) = (folder.path().join(name), folder.path().join(format!("{name}-broken")));
        assert_done(&mut mixed(&base, method, mixing, &whole));
        finish_after_kills(&|| mixed(&base, method, mixing, &broken), &broken, 1);
        assert_equal_weights(&broken, &whole, file);
        let entry = &json(whole.join("config.json"))["mixture_of_features"];
        assert_eq!((&entry["mixing"], &entry["second_tower"]), (&mixing.into(), &tower.display().to_string().into()));
        eval.arg("--adapter").arg(format!("{name}={}", whole.display()));
    }
    let runs = folder.path().join("runs");
    assert_done(eval.args(["--quiet", "--out"]).arg(&runs));
    let n_tokens = |name: &str| {
        let text = std::fs::read_to_string(runs.join(name).join("trials.jsonl")).unwrap();
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        line["n_prompt_tokens"].as_u64().unwrap()
    };
    // Nine features of each tower take turns, or are added.
    assert_eq!(n_tokens("interleaved"), n_tokens("added") + 9);
    assert_eq!(n_tokens("interleaved"), n_tokens("whole"));
    // A checkpoint with a second tower is a model by itself: a second one is refused, and its projectors train without the flag.
    let (whole, further) = (folder.path().join("whole"), folder.path().join("further"));
    let refused = finish(&mut mixed(&whole, "mof", "interleaved", &further));
    assert!(refused.code == Some(2) && refused.stderr.contains("has a second tower"), "{}", refused.stderr);
    let mut command = support::emt();
    command.arg("finetune").arg("--model").arg(&whole).args(["--method", "mof", "--quiet", "--eval-datasets", "none"]);
    command.args(["--train", "embedded/mnist", "--limit", "8", "--prompt", "emt-open", "--out"]).arg(&further);
    assert_done(&mut command);
}

#[test]
fn a_second_tower_that_is_missing_or_has_no_place_is_refused() {
    let golden = support::root().join("tests/golden");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let tower = golden.join("mof/dino");
    let base = |model: &str| {
        let mut command = support::emt();
        command.arg("finetune").arg("--model").arg(golden.join(model)).args(["--train", "embedded/mnist", "--quiet"]);
        command.args(["--eval-datasets", "none", "--limit", "8", "--prompt", "emt-open", "--out"]).arg(&out);
        command
    };
    let (llava, qwen) = ("fixtures/llava", "fixtures/qwen2_vl");
    let named = ["--second-tower", tower.to_str().unwrap()];
    for (model, words, reason) in [
        (llava, &["--method", "mof"][..], "--second-tower DIR"),
        (llava, &["--method", "mof", "--mixing", "interleaved"], "--second-tower"),
        (llava, &["--method", "mof", "--second-tower", "nowhere"], "nowhere"),
        (llava, &["--method", "lora", named[0], named[1]], "leave it out, or --method mof"),
        (llava, &["--method", "mof", named[0], named[1], "--mixing", "half"], "additive:SHARE"),
        (llava, &["--method", "mof", named[0], named[1], "--mixing", "additive:0.5", "--projector", "frozen"], "train"),
        (qwen, &["--method", "mof", named[0], named[1]], "qwen2_vl"),
    ] {
        let finished = finish(base(model).args(words));
        assert_eq!(finished.code, Some(2), "{words:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(reason), "{words:?}: {}", finished.stderr);
    }
}

#[test]
fn every_method_leaves_an_adapter_that_eval_takes() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let mut adapters = Vec::new();
    for (method, files) in [
        ("lora", &["adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.safetensors"][..]),
        ("linear", &["mm_projector.safetensors", "mm_projector.bin", "peft/adapter_config.json"]),
        ("full", &["config.json", "model.safetensors", "tokenizer.json"]),
        ("prompt", &["adapter_config.json", "adapter_model.safetensors"]),
        ("p-tuning", &["adapter_config.json", "adapter_model.safetensors", "prompt_encoder.safetensors"]),
        ("prefix", &["adapter_config.json", "adapter_model.safetensors"]),
        ("moca", &["non_lora_trainables.safetensors"]),
        ("lora+prompt", &["adapter_config.json", "soft_prompt/adapter_config.json"]),
        ("full+moca", &["config.json", "model.safetensors"]),
    ] {
        let out = folder.path().join(method);
        assert_done(&mut finetune(&shared, method, &out));
        for file in files.iter().chain(&["emt.json", "training.jsonl", "loss.svg"]) {
            assert!(out.join(file).is_file(), "{method}: {file}");
            let is_of_adapter = !file.starts_with("training") && !file.ends_with("svg");
            assert!(!is_of_adapter || out.join("checkpoint-8").join(file).is_file(), "{method}: {file}");
        }
        let notes = json(out.join("emt.json"));
        assert_eq!((&notes["method"], &notes["tuned_on"][0]), (&method.into(), &"cifar10".into()));
        adapters.push(out.clone());
        adapters.push(out.join("checkpoint-3"));
        if method == "linear" {
            adapters.push(out.join("peft"));
        }
    }
    let mut command = support::emt();
    command.arg("eval").arg("--model").arg(shared.join("models/tiny-llava")).args(["--encoder", "none"]);
    command.arg("--data").arg(shared.join("data")).args(["--datasets", "cifar10", "--limit", "4", "--no-base"]);
    for (index, adapter) in adapters.iter().enumerate() {
        command.arg("--adapter").arg(format!("a{index}={}", adapter.display()));
    }
    let runs = folder.path().join("runs");
    assert_done(command.args(["--quiet", "--out"]).arg(&runs));
    let hash = |index: usize| json(runs.join(format!("a{index}/run.json")))["spec"]["model"]["adapter"].clone();
    // The projector alone and the same through PEFT are one adapter.
    assert_eq!(hash(2), hash(4));
    assert_ne!(hash(0), hash(1));
}

#[test]
fn the_curve_begins_with_the_base_and_marks_what_is_tuned_on() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("lora");
    let mut command = finetune(&shared, "lora", &out);
    command.args(["--eval-datasets", "cifar10,mnist", "--eval-limit", "10", "--epochs", "1"]);
    let finished = finish(&mut command);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(
        finished.stdout.contains("cifar10 (tuned on)") && finished.stdout.contains("epoch 1"),
        "{}",
        finished.stdout
    );
    let curve = json(out.join("curve.json"));
    assert_eq!(curve["schema"], "emt.curve/1");
    let datasets = curve["datasets"].as_array().unwrap();
    let tuned: Vec<bool> = datasets.iter().map(|dataset| dataset["is_tuned_on"].as_bool().unwrap()).collect();
    assert_eq!(tuned, [true, false]);
    for dataset in datasets {
        let epochs: Vec<u64> =
            dataset["points"].as_array().unwrap().iter().map(|point| point["epoch"].as_u64().unwrap()).collect();
        assert_eq!(epochs, [0, 1]);
    }
    assert!(out.join("eval/epoch-1/trials.jsonl").is_file() && out.join("curve.png").is_file());
    let base = json(out.join("eval/epoch-0/run.json"));
    assert!(base["spec"]["model"].get("adapter").is_none(), "{base}");
}

#[test]
fn a_training_goes_on_from_an_adapter() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    assert_done(&mut finetune(&shared, "lora", &first));
    let mut command = finetune(&shared, "lora", &second);
    assert_done(command.arg("--from-adapter").arg(&first).args(["--epochs", "1"]));
    let loss = |dir: &Path, line: usize| -> f64 {
        let text = std::fs::read_to_string(dir.join("training.jsonl")).unwrap();
        serde_json::from_str::<Value>(text.lines().nth(line).unwrap()).unwrap()["loss"].as_f64().unwrap()
    };
    assert!(loss(&second, 0) < 0.8 * loss(&first, 0), "{} {}", loss(&second, 0), loss(&first, 0));
    let mut command = finetune(&shared, "lora", &folder.path().join("third"));
    let finished = finish(command.arg("--from-adapter").arg(&first).args(["--rank", "8"]));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--rank 4 --alpha 16"), "{}", finished.stderr);
}

/// The flags that are wrong, and words that the message must hold.
#[test]
fn bad_input_is_refused_with_the_mend() {
    let shared = support::any_shared();
    let held_out = shared.join("data/imagenet20/val");
    let held_out = held_out.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 12] = [
        (&["--method", "qlora"], &["qlora", "linear, lora, full"]),
        (&["--train", "mnist"], &["mnist", "train", "hint"]),
        (&["--train", "nothing"], &["nothing", "cifar10"]),
        (&["--train", held_out], &["held out", "--split val"]),
        (&["--split", "dev"], &["dev", "it has"]),
        (&["--mix", "0.5,0.5"], &["--mix", "no effect on one dataset"]),
        (&["--mix", "much"], &["--mix", "no effect on one dataset"]),
        (&["--answer-template", "It is a thing."], &["{label}"]),
        (&["--learning-rate", "0"], &["--learning-rate", "above 0"]),
        (&["--dropout", "1"], &["--dropout", "below 1"]),
        (&["--epochs", "0"], &["--epochs", "at least 1"]),
        (&["--from-adapter", "nowhere"], &["nowhere", "no such folder"]),
    ];
    for (flags, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let finished = finish(finetune(&shared, "lora", &out).args(flags));
        assert_eq!(finished.code, Some(2), "{flags:?}: {}", finished.stderr);
        for word in words {
            assert!(finished.stderr.contains(word), "{flags:?}: {}", finished.stderr);
        }
        assert!(!out.join("checkpoint-8").exists());
    }
}

#[test]
fn methods_and_flags_that_make_no_sense_are_refused_with_the_mend() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let refused = |method: &str, flags: &[&str], reason: &str| {
        let out = folder.path().join(format!("{method}{}", flags.join("").replace(['/', ':'], "")));
        let mut command = finetune(&shared, method, &out);
        let finished = finish(command.args(flags));
        assert_eq!(finished.code, Some(2), "{method} {flags:?}");
        assert!(finished.stderr.contains(reason), "{method} {flags:?}: {}", finished.stderr);
    };
    refused("qlora", &[], "unknown method `qlora`");
    refused("full+lora", &[], "`full` trains what");
    refused("linear", &["--projector", "frozen"], "`linear` trains the projector");
    refused("lora", &["--lora-targets", "("], "no regular expression");
    refused("lora", &["--lora-targets", "nothing"], "leave no map");
    refused("lora", &["--freeze-layers", "99"], "leave no map");
    refused("lora", &["--virtual-tokens", "4"], "--virtual-tokens");
    refused("prompt", &["--virtual-tokens", "0"], "at least 1");
    refused("prompt", &["--virtual-token-start", "words"], "random, vocabulary, or text:TEXT");
    refused("prompt", &["--l2-sp", "1"], "virtual tokens have no value there");
    refused("lora", &["--replay", "mnist"], "as in mnist:0.25");
    refused("lora", &["--replay", "embedded/mnist:0.9"], "leaves none to learn from");
    refused("lora", &["--replay-weight", "1"], "there are none");
    refused("lora", &["--ewc", "1"], "--ewc-datasets A,B");
    refused("lora", &["--keep-base=-1"], "a weight above 0");
    refused("lora", &["--replay", "text:missing.jsonl:0.5"], "missing.jsonl");
    let texts = folder.path().join("texts.jsonl");
    std::fs::write(&texts, "{\"image\":\"a.png\",\"question\":\"a\",\"answer\":\"b\"}\n").unwrap();
    refused("lora", &["--replay", &format!("text:{}:0.5", texts.display())], "line 1: it is about an image");
}

#[test]
fn texts_are_mixed_with_images() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts.jsonl");
    let line = |n: usize| format!("{{\"question\":\"What is {n} and {n}?\",\"answer\":\"{}\"}}\n", 2 * n);
    std::fs::write(&texts, (1..9).map(line).collect::<String>()).unwrap();
    let out = folder.path().join("out");
    let source = format!("cifar10,text:{}", texts.display());
    assert_done(finetune(&shared, "lora", &out).args(["--train", &source, "--mix", "0.8,0.2"]));
    let datasets = json(out.join("training.json"))["spec"]["datasets"].clone();
    assert_eq!(
        (&datasets[1]["dataset"], &datasets[1]["split"], &datasets[1]["n_samples"]),
        (&"texts".into(), &"text".into(), &4.into())
    );
    assert_eq!(json(out.join("emt.json"))["tuned_on"], serde_json::json!(["cifar10"]));
}

#[test]
fn a_training_that_diverges_stops_at_the_step_and_keeps_the_last_checkpoint() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut command = finetune(&shared, "lora", &out);
    let finished = finish(command.args(["--learning-rate", "1e30", "--save-every", "1", "--max-grad-norm", "0"]));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("not finite at step 2"), "{}", finished.stderr);
    assert!(out.join("checkpoint-1/adapter_model.safetensors").is_file() && !out.join("checkpoint-2").exists());
}

#[test]
fn another_training_in_the_folder_is_refused_with_the_field_named() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    assert_done(finetune(&shared, "linear", &out).args(["--epochs", "1"]));
    let finished = finish(finetune(&shared, "linear", &out).args(["--epochs", "1", "--seed", "7"]));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("`seed` is 0 there and 7 here"), "{}", finished.stderr);
    let log = std::fs::read(out.join("training.jsonl")).unwrap();
    assert_done(finetune(&shared, "linear", &out).args(["--epochs", "1"]));
    assert_eq!(std::fs::read(out.join("training.jsonl")).unwrap(), log, "a finished training is left as it is");
}

/// A limit on the size of files is what a full disk looks like.
#[cfg(unix)]
#[test]
fn a_checkpoint_that_does_not_fit_is_told_and_the_earlier_one_is_kept() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    assert_done(finetune(&shared, "linear", &out).args(["--epochs", "1"]));
    let lora = folder.path().join("lora");
    let command = finetune(&shared, "lora", &lora);
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    // Blocks of 512 bytes: the log fits, a checkpoint does not.
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("trap '' XFSZ; ulimit -f 64; exec {}", words.join(" ")));
    limited.env("EMT_SHARED", &shared).current_dir(std::env::temp_dir());
    let finished = finish(&mut limited);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("checkpoint-3") && finished.stderr.contains("full"), "{}", finished.stderr);
    assert!(!lora.join("checkpoint-3").exists() && lora.join("training.jsonl").is_file());
    assert_done(&mut finetune(&shared, "lora", &lora));
}
