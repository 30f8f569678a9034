//! Bad input: one clear error with the file, the place and the mend; a bad image among good ones is only unscored.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use emt::model::Placement;
use emt::model::checkpoint::weights::Checkpoint;
use emt::model::families::OpenedModel;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::eval::{eval, succeed, trials};
use super::support::{self, emt, finish};

/// The command must end with exit code 2 and one error that says all of `parts`.
pub(super) fn refuse(command: &mut Command, parts: &[&str]) {
    let finished = finish(command);
    assert_eq!(finished.code, Some(2), "{}\n{}", finished.stdout, finished.stderr);
    let errors: Vec<&str> = finished.stderr.split("error: ").skip(1).collect();
    let [error] = errors.as_slice() else { panic!("not one error: {}", finished.stderr) };
    for part in parts {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert_eq!(finished.stdout, "", "a failure has no result");
}

/// `emt eval` without an encoder, on four digits unless other datasets are given.
pub(super) fn eval_alone(model: &Path, data: &Path, datasets: &str, out: &Path) -> Command {
    let mut command = emt();
    command.arg("eval").arg("--model").arg(model).args(["--encoder", "none"]).arg("--data").arg(data);
    command.args(["--datasets", datasets, "--limit", "4", "--out"]).arg(out);
    command
}

/// A copy of the small model that may be spoilt.
pub(super) fn copy_of_model(shared: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join("model");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(shared.join("models/tiny-llava")).unwrap() {
        let entry = entry.unwrap();
        // Its bytes only: the original may be read-only.
        fs::write(copy.join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
    copy
}

/// The header of a safetensors file, and the bytes behind it.
pub(super) fn parts_of(safetensors: &[u8]) -> (Value, &[u8]) {
    let n_bytes = u64::from_le_bytes(safetensors[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&safetensors[8..8 + n_bytes]).unwrap(), &safetensors[8 + n_bytes..])
}

pub(super) fn joined(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn png(level: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let pixel = |x: u32, y: u32| image::Rgb([level.wrapping_mul(x as u8 + 1), y as u8 * 9, level]);
    image::RgbImage::from_fn(24, 24, pixel).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Files below `root`, folders included.
fn write(root: &Path, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn zip(path: &Path, files: &[(&str, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn a_damaged_checkpoint_is_refused_with_its_file() {
    let shared = support::any_shared();
    let data = shared.join("data");
    let spoilt = |spoil: &dyn Fn(&Path, Vec<u8>), parts: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let model = copy_of_model(&shared, folder.path());
        let weights = model.join("model.safetensors");
        spoil(&weights, fs::read(&weights).unwrap());
        let out = folder.path().join("run");
        refuse(&mut eval_alone(&model, &data, "mnist", &out), parts);
        assert!(!out.join("summary.json").exists());
    };

    // One of two shards was not downloaded.
    let shard = "model-00002-of-00002.safetensors";
    let without_shard = |path: &Path, bytes: Vec<u8>| {
        let (header, _) = parts_of(&bytes);
        let names: Vec<&String> = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__").collect();
        let map: serde_json::Map<String, Value> = names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                ((*name).clone(), if index % 2 == 0 { "model-00001-of-00002.safetensors" } else { shard }.into())
            })
            .collect();
        fs::rename(path, path.with_file_name("model-00001-of-00002.safetensors")).unwrap();
        fs::write(path.with_extension("safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    };
    spoilt(&without_shard, &["1 of 2 shards", shard, "hint:"]);

    // A matrix that lies the other way round: as many bytes, another shape.
    let turned = |path: &Path, bytes: Vec<u8>| {
        let (mut header, data) = parts_of(&bytes);
        let (_, tensor) = header
            .as_object_mut()
            .unwrap()
            .iter_mut()
            .find(|(name, _)| {
                name.ends_with("multi_modal_projector.linear_1.weight") || name.ends_with("mlp.up_proj.weight")
            })
            .unwrap();
        tensor["shape"].as_array_mut().unwrap().reverse();
        let bytes = joined(&header, data);
        fs::write(path, bytes).unwrap();
    };
    spoilt(&turned, &["model.safetensors", "weight", "shape", "hint:"]);

    let truncated = |path: &Path, bytes: Vec<u8>| fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    spoilt(&truncated, &["model.safetensors", "truncated", "hint:"]);

    let renamed = |path: &Path, bytes: Vec<u8>| {
        let (header, data) = parts_of(&bytes);
        let header = header.to_string().replace("q_proj", "quarrel");
        let bytes = joined(&serde_json::from_str(&header).unwrap(), data);
        fs::write(path, bytes).unwrap();
    };
    spoilt(&renamed, &["q_proj", "hint:"]);

    // Code in a pickle: named, and never run.
    let with_code = |path: &Path, _: Vec<u8>| {
        fs::remove_file(path).unwrap();
        let marker = path.with_file_name("marker");
        let command = format!("touch {}", marker.display());
        let pickle =
            [b"\x80\x02cos\nsystem\n(X", &(command.len() as u32).to_le_bytes()[..], command.as_bytes(), b"tR."];
        zip(&path.with_file_name("pytorch_model.bin"), &[("archive/data.pkl", pickle.concat())]);
    };
    spoilt(&with_code, &["pytorch_model.bin", "os.system", "hint:"]);
}

#[test]
fn code_in_a_pickled_dataset_is_refused_and_never_run() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("marker");
    let pickle = format!("cos\nsystem\n(S'touch {}'\ntR.", marker.display());
    write(folder.path(), &[("cifar-10-batches-py/test_batch", pickle.into_bytes())]);
    let model = shared.join("models/tiny-llava");
    let mut command = eval_alone(&model, folder.path(), "cifar10", &folder.path().join("run"));
    refuse(&mut command, &["test_batch", "os.system", "hint:"]);
    assert!(!marker.exists());
}

#[test]
fn a_dataset_that_cannot_be_evaluated_is_refused_with_its_name() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let model = shared.join("models/tiny-llava");
    let out = root.join("run");
    let refused = |datasets: &str, parts: &[&str]| {
        refuse(&mut eval_alone(&model, root, datasets, &out), parts);
    };
    let path = |name: &str| root.join(name).display().to_string();

    write(root, &[("unreadable/cat/1.png", b"no image".to_vec()), ("unreadable/dog/1.jpg", Vec::new())]);
    refused(&path("unreadable"), &["no image of", "unreadable", "emt data verify"]);
    fs::remove_dir_all(&out).unwrap();

    write(root, &[("single/cat/1.png", png(1)), ("single/cat/2.png", png(2))]);
    refused(&path("single"), &["single", "at least two classes", "cat"]);

    refused("mnits", &["unknown dataset `mnits`", "mnist"]);
    refused("mnist", &["`mnist`", "t10k-images", "hint: emt data fetch mnist"]);
    refused("./nowhere", &["./nowhere", "no such folder"]);

    let escaping = [("../cat/1.png", png(1)), ("../dog/1.png", png(2)), ("bird/1.png", png(3)), ("cow/1.png", png(4))];
    zip(&root.join("escaping.zip"), &escaping);
    refused(&path("escaping.zip"), &["escaping.zip", "../cat/1.png", "hint:"]);
    let mut tar = tar::Builder::new(fs::File::create(root.join("escaping.tar")).unwrap());
    for (name, bytes) in &escaping {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        // `append_data` would refuse such a name itself.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, bytes.as_slice()).unwrap();
    }
    tar.finish().unwrap();
    refused(&path("escaping.tar"), &["escaping.tar", "../cat/1.png", "hint:"]);
    assert!(!out.exists(), "nothing is written for what cannot be begun");
}

#[test]
fn what_does_not_fit_the_model_or_the_machine_is_refused_with_both_figures() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (shared.join("models/tiny-llava"), folder.path().join("run"));
    let digits = || eval_alone(&model, &shared.join("data"), "mnist", &out);
    let prompt = folder.path().join("long.txt");
    fs::write(&prompt, "What is the number in the image? ".repeat(400)).unwrap();
    refuse(digits().arg("--prompt").arg(&prompt), &["`mnist`", "positions", "the model has", "hint:"]);
    refuse(digits().args(["--max-new-tokens", "100000"]), &["up to 100000", "the model has", "hint:"]);
    refuse(digits().args(["--batch-size", "100000000"]), &["GiB needed", "GiB free", "--batch-size"]);
    refuse(digits().args(["--batch-size", "0"]), &["--batch-size", "at least 1"]);
    refuse(digits().args(["--prompt", "emt-close"]), &["emt-close", "emt-open", "hint:"]);
    refuse(digits().args(["--device", "abacus"]), &["abacus", "hint:"]);
    refuse(digits().args(["--judge", "llm"]), &["--judge-url"]);
    assert!(!out.exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let (model, data) = (shared.join("models/tiny-llava"), shared.join("data"));
    let inside_a_file = folder.path().join("file/run");
    refuse(&mut eval_alone(&model, &data, "mnist", &inside_a_file), &["failed to write", "file", "run"]);
    // Whoever runs the tests, the kernel's own folders take no file.
    if cfg!(target_os = "linux") {
        let out = Path::new("/sys/kernel/run");
        refuse(&mut eval_alone(&model, &data, "mnist", out), &["/sys/kernel/run", "read-only", "hint:", "--out"]);
    }
}

/// A limit on the size of files stands for a disk that fills up while the run goes on.
#[cfg(unix)]
#[test]
fn a_full_disk_is_named_and_the_run_goes_on_once_there_is_room() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let (broken, whole) = (folder.path().join("broken/run"), folder.path().join("whole/run"));
    let arguments = ["--limit", "60", "--batch-size", "4"];
    let inner = eval(&shared, "cifar10", &broken);
    // The signal that comes with the limit is ignored, as is no signal of a full disk.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 40; exec \"$0\" \"$@\""]).arg(inner.get_program());
    limited.args(inner.get_args()).args(arguments);
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    refuse(&mut limited, &["trials.jsonl", "disk is full", "hint: free some disk space"]);
    let n_recorded = trials(&broken).len();
    assert!((1..120).contains(&n_recorded), "{n_recorded}");

    succeed(eval(&shared, "cifar10", &broken).args(arguments));
    succeed(eval(&shared, "cifar10", &whole).args(arguments));
    assert!(trials(&broken) == trials(&whole));
}

#[test]
fn one_bad_image_among_good_ones_is_unscored_with_a_warning() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let good = png(7);
    // A header that promises 60,000 x 60,000 pixels; the checksum of the changed chunk is right.
    let mut bomb = good.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let mut crc = flate2::Crc::new();
    crc.update(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let mut files = vec![
        ("pets/val/cat/0_empty.png", Vec::new()),
        ("pets/val/cat/1_cut.png", good[..good.len() / 2].to_vec()),
        ("pets/val/dog/2_bomb.png", bomb),
        ("pets/val/dog/3_text.jpg", b"<html>not found</html>".to_vec()),
    ];
    for name in ["pets/val/cat/4.png", "pets/val/cat/5.png", "pets/val/dog/6.png"] {
        files.push((name, png(name.len() as u8)));
    }
    write(folder.path(), &files);
    let out = folder.path().join("run");
    let mut command = eval(&shared, &folder.path().join("pets/val").display().to_string(), &out);
    let finished = succeed(command.args(["--modes", "generate,score"]));
    let bad = ["cat/0_empty.png", "cat/1_cut.png", "dog/2_bomb.png", "dog/3_text.jpg"];
    for name in bad {
        let warning = finished.stderr.lines().find(|line| line.starts_with("warning: ") && line.contains(name));
        assert!(warning.is_some_and(|line| line.contains("counts as unscored")), "{name}: {}", finished.stderr);
    }
    for trial in trials(&out) {
        let is_bad = bad.iter().any(|name| trial["sample"].as_str().unwrap().ends_with(name));
        assert_eq!(trial["outcome"] == "unscored", is_bad, "{trial}");
        assert_eq!(trial["reason"] == "image_unreadable", is_bad, "{trial}");
        assert_eq!(trial["content"].as_str().unwrap().starts_with("file:"), is_bad, "{trial}");
    }
    let summary: Value = serde_json::from_str(&fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
    let dataset = &summary["datasets"][0];
    assert_eq!((&dataset["n_samples"], &dataset["model"]["n_unscored"]), (&json!(7), &json!(4)));
    assert_eq!((&dataset["model_score"]["n_trials"], &dataset["model_score"]["n_unscored"]), (&json!(7), &json!(4)));
    assert_eq!((&dataset["encoder"]["n_unscored"], &dataset["pairs"]["unscored"]), (&json!(4), &json!(4)));
}

/// The places of all values in a document, itself included.
fn pointers(value: &Value, here: &str, all: &mut Vec<String>) {
    all.push(here.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| pointers(value, &format!("{here}/{key}"), all)),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .take(3)
                .for_each(|(index, value)| pointers(value, &format!("{here}/{index}"), all));
        }
        _ => {}
    }
}

/// Opens and loads the checkpoint, which may fail in any way but a panic.
fn open_and_load(model: &Path) {
    let Ok(checkpoint) = Checkpoint::open(model) else { return };
    let Ok(opened) = OpenedModel::open(&checkpoint, None, None) else { return };
    let _ = opened.dialogue.render("What is the object in the image?");
    let _ = (opened.plan.n_positions(), opened.plan.n_image_positions_max(), opened.plan.n_numbers_per_row(100));
    let _ = opened.load(&Placement::cpu());
}

#[test]
fn any_value_in_a_checkpoints_configuration_is_a_model_or_an_error() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    check_any_value(&copy_of_model(&shared, folder.path()));
}

#[test]
fn any_value_in_the_configuration_of_a_qwen_is_a_model_or_an_error() {
    for family in ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"] {
        let folder = tempfile::tempdir().unwrap();
        let fixture = support::root().join("tests/golden/fixtures").join(family);
        for name in ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"] {
            fs::copy(fixture.join(name), folder.path().join(name)).unwrap();
        }
        for name in ["processor_config.json", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixture.join(name), folder.path().join(name)).unwrap();
        }
        check_any_value(folder.path());
    }
}

/// Opens and loads `model` with hostile values in its files, and with files that end early.
fn check_any_value(model: &Path) {
    let hostile = [
        json!(null),
        json!(true),
        json!("text"),
        json!(""),
        json!(-1),
        json!(0),
        json!(1),
        json!(7),
        json!(2_147_483_647),
        json!(4_294_967_296_u64),
        json!(1e300),
        json!([]),
        json!([1, "x"]),
        json!({}),
        json!({"a": 1}),
    ];
    let files = ["config.json", "processor_config.json", "generation_config.json", "tokenizer_config.json"];
    let documents = files.map(|name| {
        let bytes = fs::read(model.join(name)).unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let mut places = Vec::new();
        pointers(&document, "", &mut places);
        (name, bytes, document, places)
    });
    let changes = (0..files.len(), any::<prop::sample::Index>(), any::<prop::sample::Index>());
    proptest!(|((file, place, value) in changes)| {
        let (name, original, document, places) = &documents[file];
        let mut changed = document.clone();
        *changed.pointer_mut(&places[place.index(places.len())]).unwrap() = hostile[value.index(hostile.len())].clone();
        fs::write(model.join(name), changed.to_string()).unwrap();
        open_and_load(model);
        fs::write(model.join(name), &original[..place.index(original.len())]).unwrap();
        open_and_load(model);
        fs::write(model.join(name), original).unwrap();
    });
}

#[test]
fn kernels_that_do_not_exist_are_refused_by_name() {
    let mut command = emt();
    command.args(["data", "list"]).env("EMT_KERNELS", "sse9");
    refuse(&mut command, &["EMT_KERNELS", "`sse9`", "hint: scalar, avx2"]);
}
