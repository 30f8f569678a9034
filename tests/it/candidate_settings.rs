//! Candidates with settings of their own: beside their base they run as they run alone.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use emt::model::checkpoint::weights::{Miniature, open_checkpoint};
use serde_json::{Value, json};

use super::support::{self, Finished};

/// The files of the miniature's model.
const FILES: [&str; 8] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The miniature as a folder, and images that are wider than high.
struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A copy of the base that `edit` changes; its weights too, where `is_tuned`.
    fn candidate(&self, name: &str, is_tuned: bool, edit: impl FnOnce(&Path)) -> PathBuf {
        let dir = self.path(name);
        std::fs::create_dir_all(&dir).unwrap();
        for file in FILES {
            std::fs::copy(self.path("base").join(file), dir.join(file)).unwrap();
        }
        if is_tuned {
            change_head(&dir.join("model.safetensors"));
        }
        edit(&dir);
        dir
    }
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        std::fs::create_dir_all(&base).unwrap();
        let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap();
        for file in FILES {
            std::fs::write(base.join(file), checkpoint.read_file(file).unwrap().unwrap()).unwrap();
        }
        for index in 0..4_u32 {
            let class = if index % 2 == 0 { "cat" } else { "dog" };
            let path = folder.path().join(format!("set/val/{class}/{index}.png"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let picture = image::RgbImage::from_fn(56, 40, |x, y| {
                image::Rgb([x * 4 + index * 17, y * 6, (x * y + index * 60) % 256].map(|value| (value % 256) as u8))
            });
            picture.save(path).unwrap();
        }
        Made { folder }
    })
}

/// Turns the last bit of every value of `lm_head.weight`, which lies in half precision.
fn change_head(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + n_header]).unwrap();
    let name = header.as_object().unwrap().keys().find(|name| name.ends_with("lm_head.weight")).unwrap();
    let at = |index: usize| header[name]["data_offsets"][index].as_u64().unwrap() as usize + 8 + n_header;
    bytes[at(0)..at(1)].iter_mut().step_by(2).for_each(|byte| *byte ^= 8);
    std::fs::write(path, bytes).unwrap();
}

/// Changes a JSON file of a folder.
fn change(dir: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

fn eval(model: &Path, out: &Path, arguments: &[&str]) -> Finished {
    let mut command = support::emt();
    command.arg("eval").arg("--model").arg(model).arg("--out").arg(out);
    command.arg("--datasets").arg(made().path("set/val"));
    command.args(["--encoder", "none", "--max-new-tokens", "6", "--batch-size", "3"]).args(arguments);
    support::finish(&mut command)
}

fn trials(run: &Path) -> String {
    std::fs::read_to_string(run.join("trials.jsonl")).unwrap()
}

type Edit = fn(&Path);

/// Each with the setting that the table names.
const OWN_SETTINGS: [(&str, &str, Edit); 10] = [
    ("feature-layer", "vision_feature_layer -2 -> -1", |dir| {
        change(dir, "config.json", |config| config["vision_feature_layer"] = json!(-1));
    }),
    ("strategy", r#"vision_feature_select_strategy "default" -> "full""#, |dir| {
        change(dir, "config.json", |config| config["vision_feature_select_strategy"] = json!("full"));
    }),
    ("rotary-base", "text_config.rope_parameters.rope_theta 10000.0 -> 50000.0", |dir| {
        change(dir, "config.json", |config| config["text_config"]["rope_parameters"]["rope_theta"] = json!(50000.0));
    }),
    ("scaling", "text_config.rope_parameters.factor absent -> 2.0", |dir| {
        change(dir, "config.json", |config| {
            config["text_config"]["rope_parameters"] =
                json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0});
        });
    }),
    ("norm-epsilon", "text_config.rms_norm_eps", |dir| {
        change(dir, "config.json", |config| config["text_config"]["rms_norm_eps"] = json!(0.01));
    }),
    ("padding", "preprocessing.pad_to_square", |dir| {
        change(dir, "processor_config.json", |config| {
            config["image_processor"]["image_processor_type"] = json!("LlavaImageProcessor");
            config["image_processor"]["do_pad"] = json!(true);
        });
    }),
    ("crop", "preprocessing.", |dir| {
        change(dir, "processor_config.json", |config| {
            config["image_processor"]["size"] = json!({"height": 32, "width": 32});
            config["image_processor"]["do_center_crop"] = json!(false);
        });
    }),
    ("mean-and-std", "preprocessing.mean", |dir| {
        change(dir, "processor_config.json", |config| {
            config["image_processor"]["image_mean"] = json!([0.5, 0.5, 0.5]);
            config["image_processor"]["image_std"] = json!([0.5, 0.5, 0.5]);
        });
    }),
    ("end-tokens", "eos_token_id", |dir| {
        change(dir, "generation_config.json", |config| config["eos_token_id"] = json!([2, 30]));
    }),
    ("template", "another chat template", |dir| {
        let path = dir.join("chat_template.jinja");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("ASSISTANT:"));
        std::fs::write(path, text.replace("ASSISTANT:", "ANSWER:")).unwrap();
    }),
];

#[test]
fn candidates_with_settings_of_their_own_run_beside_their_base_as_alone() {
    let made = made();
    let candidates: Vec<PathBuf> =
        OWN_SETTINGS.iter().map(|(name, _, edit)| made.candidate(&format!("of-{name}"), true, edit)).collect();
    let together = made.path("together");
    let adapters: Vec<String> =
        candidates.iter().flat_map(|dir| ["--adapter".to_owned(), dir.display().to_string()]).collect();
    let arguments: Vec<&str> = adapters.iter().map(String::as_str).chain(["--modes", "generate,score"]).collect();
    let finished = eval(&made.path("base"), &together, &arguments);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let base = trials(&together.join("base"));
    for ((name, told, _), dir) in OWN_SETTINGS.iter().zip(&candidates) {
        let alone = made.path(&format!("alone-{name}"));
        let run = eval(dir, &alone, &["--quiet", "--modes", "generate,score"]);
        assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
        let beside = trials(&together.join(dir.file_name().unwrap()));
        assert!(beside == trials(&alone), "{name}: the run beside the base is not the run made alone");
        if *name != "end-tokens" {
            assert!(beside != base, "{name}: the setting has an effect");
        }
        let line = finished.stderr.lines().find(|line| line.contains(&format!("of-{name} runs with its own settings")));
        assert!(line.is_some_and(|line| line.contains(told)), "{name}: {}", finished.stderr);
    }
    // The table names what is no image preparation: that is compared field by field.
    assert!(finished.stdout.contains("of-rotary-base"), "{}", finished.stdout);
    assert!(finished.stdout.contains("rope_theta 10000.0 -> 50000.0"), "{}", finished.stdout);
}

#[test]
fn a_candidate_of_equal_weights_is_no_base_where_its_settings_differ_and_is_told_apart() {
    let made = made();
    let arguments = |dir: &Path| ["--adapter".to_owned(), dir.display().to_string(), "--no-base".to_owned()];
    let run = |name: &str, dir: &Path| {
        let arguments = arguments(dir);
        eval(&made.path("base"), &made.path(name), &arguments.each_ref().map(String::as_str))
    };
    let same = made.candidate("equal", false, |_| {});
    let refused = run("equal-run", &same);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("changes nothing"), "{}", refused.stderr);
    let theta = |value: f64| {
        move |dir: &Path| {
            change(dir, "config.json", |config| config["text_config"]["rope_parameters"]["rope_theta"] = json!(value));
        }
    };
    let (one, other) = (made.candidate("theta", false, theta(2e4)), made.candidate("theta-2", false, theta(3e4)));
    let finished = run("theta-run", &one);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    // Its weights are the other's: only the settings tell them apart.
    let again = run("theta-run", &other);
    assert_eq!(again.code, Some(2), "{}", again.stderr);
    assert!(again.stderr.contains("own_settings") && again.stderr.contains("rope_theta"), "{}", again.stderr);
}

#[test]
fn a_lora_folder_is_evaluated_with_the_processor_that_its_trainer_saved_in_it() {
    let made = made();
    let lora = made.path("lora");
    let mut command = support::emt();
    command.arg("finetune").arg("--model").arg(made.path("base")).arg("--out").arg(&lora);
    command.args(["--method", "lora", "--rank", "2", "--learning-rate", "0.01", "--epochs", "1", "--batch-size", "2"]);
    command.args(["--eval-datasets", "none", "--split", "val"]).arg("--train").arg(made.path("set/val"));
    let trained = support::finish(&mut command);
    assert_eq!(trained.code, Some(0), "{}", trained.stderr);
    let lora = if lora.join("adapter_config.json").is_file() { lora } else { made.path("lora/adapter") };
    let adapter = lora.display().to_string();
    let plain = eval(&made.path("base"), &made.path("lora-plain"), &["--adapter", &adapter, "--no-base"]);
    assert_eq!(plain.code, Some(0), "{}", plain.stderr);
    std::fs::copy(made.path("base/processor_config.json"), lora.join("processor_config.json")).unwrap();
    let same = eval(&made.path("base"), &made.path("lora-same"), &["--adapter", &adapter, "--no-base"]);
    assert_eq!(same.code, Some(0), "{}", same.stderr);
    assert_eq!(trials(&made.path("lora-same")), trials(&made.path("lora-plain")));
    assert!(!same.stderr.contains("its own settings"), "{}", same.stderr);
    let mean = |dir: &Path| {
        change(dir, "processor_config.json", |config| config["image_processor"]["image_mean"] = json!([0.5, 0.5, 0.5]));
    };
    mean(&lora);
    let own = eval(&made.path("base"), &made.path("lora-own"), &["--adapter", &adapter, "--no-base"]);
    assert_eq!(own.code, Some(0), "{}", own.stderr);
    assert!(own.stderr.contains("preprocessing.mean"), "{}", own.stderr);
    // What a base with the same processor would do with the adapter alone.
    std::fs::remove_file(lora.join("processor_config.json")).unwrap();
    let base = made.candidate("base-of-mean", false, mean);
    let right = eval(&base, &made.path("lora-right"), &["--adapter", &adapter, "--no-base"]);
    assert_eq!(right.code, Some(0), "{}", right.stderr);
    assert_eq!(trials(&made.path("lora-own")), trials(&made.path("lora-right")));
    assert_ne!(trials(&made.path("lora-own")), trials(&made.path("lora-plain")));
}

#[test]
fn a_gate_refuses_another_preparation_before_it_asks_and_names_other_settings_in_its_table() {
    let made = made();
    let gate = |candidate: &Path, runs: &str, arguments: &[&str]| {
        let mut command = support::emt();
        command.arg("gate").arg("--model").arg(made.path("base")).arg("--adapter").arg(candidate);
        command.arg("--runs").arg(made.path(runs)).arg("--datasets").arg(made.path("set/val"));
        command.args(["--encoder", "none", "--max-new-tokens", "6"]).args(arguments);
        support::finish(&mut command)
    };
    let mean = made.candidate("gate-mean", true, OWN_SETTINGS[7].2);
    let refused = gate(&mean, "gate-1", &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("--allow-different preprocessing"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("look:"), "nothing was asked: {}", refused.stderr);
    let allowed = gate(&mean, "gate-2", &["--allow-different", "preprocessing"]);
    assert!(allowed.code.is_some_and(|code| code != 2), "{}", allowed.stderr);
    let theta = made.candidate("gate-theta", true, OWN_SETTINGS[2].2);
    let decided = gate(&theta, "gate-3", &[]);
    assert!(decided.code.is_some_and(|code| code != 2), "{}", decided.stderr);
    assert!(decided.stdout.contains("rope_theta 10000.0 -> 50000.0"), "{}", decided.stdout);
    // The comparison of the recorded runs says so, too.
    let run = |name: &str| made.path("gate-3").join(name);
    let mut command = support::emt();
    command.arg("report").arg(run("gate-theta")).arg("--baseline").arg(run("base")).arg("--out").arg(made.path("page"));
    let report = support::finish(&mut command);
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    assert!(report.stdout.contains("rope_theta 10000.0 -> 50000.0"), "{}", report.stdout);
}
