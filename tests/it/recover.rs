//! `emt recover`: strengths against recorded answers, a recovered adapter, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use emt::dataset::{Catalog, DataRoots, Dataset, OpenRequest, open};
use emt::domain::{ModelPart, SampleNames, Share, Strength};
use emt::eval::{AdapterRequest, EncoderChoice, SubjectsRequest};
use emt::model::checkpoint::weights::Hub;
use emt::study::{ComparatorChoice, ComparatorRequest, Evaluate, EvaluatedRun, RespondentRequest};
use serde_json::Value;

use super::support::{self, Finished, emt, finish};

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The settings of the recorded answers, by name.
fn settings(posthoc: &Path) -> BTreeMap<String, Value> {
    let lines = fs::read_to_string(posthoc.join("answers.jsonl")).unwrap();
    let setting = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        (value["setting"].as_str().unwrap().to_owned(), value)
    };
    lines.lines().map(setting).collect()
}

/// The strength of a setting such as `scale0.25`, `wiseft1` or `lines0.25+0.75`.
fn strength(setting: &Value) -> Strength {
    let share = |key: &str| Share::new(setting[key].as_f64().unwrap()).unwrap();
    match setting["method"].as_str() == Some("lines") {
        true => Strength::Lines { alpha: share("alpha"), beta: share("beta") },
        false => Strength::Scale(share("alpha")),
    }
}

/// tiny-llava with the tensors that full fine-tuning changed, in f32.
fn fully_tuned(shared: &Path, folder: &Path) -> PathBuf {
    let (base, dir) = (shared.join("models/tiny-llava"), folder.join("full-cifar10"));
    fs::create_dir_all(&dir).unwrap();
    for entry in fs::read_dir(&base).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
        }
    }
    let changed = fs::read(shared.join("fixtures/arms/posthoc/full-cifar10/model.safetensors")).unwrap();
    let original = fs::read(base.join("model.safetensors")).unwrap();
    let [changed, original] = [&changed, &original].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
    let in_f32 = |view: &safetensors::tensor::TensorView<'_>| -> Vec<u8> {
        match view.dtype() {
            safetensors::Dtype::F32 => view.data().to_vec(),
            safetensors::Dtype::BF16 => view.data().chunks_exact(2).flat_map(|pair| [0, 0, pair[0], pair[1]]).collect(),
            other => panic!("{other:?}"),
        }
    };
    let mut tensors = Vec::new();
    for (name, view) in original.tensors() {
        let laid = changed.tensor(&name).unwrap_or(view);
        tensors.push((name, laid.shape().to_vec(), in_f32(&laid)));
    }
    assert!(changed.names().iter().all(|name| original.tensor(name).is_ok()), "all names are tiny-llava's");
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
    dir
}

/// The datasets of the recorded answers.
const RECORDED: [&str; 4] = ["mnist", "cifar10", "cifar100", "imagenet20"];

/// The recorded images of the datasets `names`, as datasets and as names of samples.
fn recorded_images(shared: &Path, images: &Value, names: &[&str]) -> (Vec<Dataset>, SampleNames) {
    let mut ids = String::new();
    let mut datasets = Vec::new();
    let roots = DataRoots { data: Some(shared.join("data")), ..DataRoots::default() };
    for &name in names {
        let path = shared.join("data/imagenet20/val").display().to_string();
        let text = if name == "imagenet20" { &path } else { name };
        datasets.push(open(&Catalog::embedded(), &roots, &OpenRequest { text, ..OpenRequest::default() }).unwrap());
        for image in images[name].as_array().unwrap() {
            ids.push_str(&format!("{}\n", image["sample"].as_str().unwrap()));
        }
    }
    (datasets, SampleNames::parse("images.json", &ids).unwrap())
}

/// Compares the answers of a run on a dataset with those that a setting recorded as `name`, where another rounding cannot change
/// them; returns how many.
fn compare_answers(run: &EvaluatedRun, dataset: &str, name: &str, images: &Value, setting: &Value) -> usize {
    let of_dataset = run.trials.iter().filter(|trial| trial.dataset == dataset);
    let answers: BTreeMap<&str, &str> =
        of_dataset.map(|trial| (trial.sample.as_str(), trial.text().unwrap_or_default())).collect();
    let mut n = 0;
    for (at, image) in images[name].as_array().unwrap().iter().enumerate() {
        if setting["least_gap"][name][at].as_f64().unwrap() < 1e-3 {
            continue;
        }
        let expected = setting["answers"][name][at].as_str().unwrap();
        let sample = image["sample"].as_str().unwrap();
        assert_eq!(answers[sample].trim(), expected.trim(), "{} {name} {sample}", setting["setting"]);
        n += 1;
    }
    n
}

/// The accuracy of a run on a dataset, in percent.
fn accuracy(run: &EvaluatedRun, name: &str) -> f64 {
    let summary = run.summary().unwrap();
    let dataset = summary.datasets.iter().find(|dataset| dataset.dataset == name).unwrap();
    dataset.model.as_ref().unwrap().accuracy.unwrap() * 100.0
}

#[test]
fn every_recorded_strength_gives_the_recorded_answers_and_the_known_point_keeps_both() {
    let Some(shared) = support::shared() else { return };
    let posthoc = shared.join("fixtures/arms/posthoc");
    let (settings, images) = (settings(&posthoc), read_json(&posthoc.join("images.json")));
    let folder = tempfile::tempdir().unwrap();
    let places = BTreeMap::from([
        ("lora-cifar10", shared.join("models/adapters/lora-cifar10")),
        ("lora-mnist", shared.join("models/adapters/lora-mnist")),
        ("lora-code", posthoc.join("lora-code")),
        ("full-cifar10", fully_tuned(&shared, folder.path())),
    ]);
    let is_wanted = |name: &str| [".scale", ".wiseft", ".lines"].iter().any(|method| name.contains(method));
    let wanted: Vec<(&String, &Value)> = settings.iter().filter(|(name, _)| is_wanted(name)).collect();
    assert_eq!(wanted.len(), 32);
    let adapter = |(name, setting): &(&String, &Value)| AdapterRequest {
        part: ModelPart { strength: Some(strength(setting)), ..ModelPart::default() },
        ..AdapterRequest::new(Some((*name).clone()), places[setting["tuned"].as_str().unwrap()].clone())
    };
    let adapters: Vec<AdapterRequest> = wanted.iter().map(adapter).collect();
    let (model, hub) = (shared.join("models/tiny-llava"), Hub::new(None, None, String::new(), |_| {}));
    let evaluate = |adapters: &[AdapterRequest], names: &[&str], question: &str| {
        let (datasets, samples) = recorded_images(&shared, &images, names);
        let subjects = SubjectsRequest { encoder: EncoderChoice::None, adapters, ..SubjectsRequest::new(&model, &hub) };
        let request = Evaluate {
            respondent: RespondentRequest::Checkpoint(subjects),
            comparator: ComparatorRequest { choice: ComparatorChoice::Nothing, ..ComparatorRequest::default() },
            samples: Some(samples),
            template: emt::prompting::load(question).unwrap(),
            ..Evaluate::new(&model, &hub, datasets, &folder.path().join("runs").join(names.join("-"))).unwrap()
        };
        request.run(&|| false, &mut ()).unwrap().unwrap()
    };
    let evaluation = evaluate(&adapters, &RECORDED, "emt");
    let mut n_compared = 0;
    for (run, (_, setting)) in evaluation.runs[1..].iter().zip(&wanted) {
        let pairs = evaluation.datasets.iter().zip(RECORDED);
        n_compared += pairs.map(|(own, name)| compare_answers(run, &own.name, name, &images, setting)).sum::<usize>();
    }
    assert!(n_compared > 8000, "{n_compared}");
    // What one adapter learnt is another question about the images of CIFAR-10.
    let question = folder.path().join("code.txt");
    fs::write(&question, images["code_question"].as_str().unwrap()).unwrap();
    let of_code: Vec<&(&String, &Value)> =
        wanted.iter().filter(|(_, setting)| setting["tuned"] == "lora-code").collect();
    let adapters: Vec<AdapterRequest> = of_code.iter().map(|one| adapter(one)).collect();
    let asked = evaluate(&adapters, &["cifar10"], &text(&question));
    let runs = asked.runs[1..].iter().zip(&of_code);
    let n_compared: usize =
        runs.map(|(run, (_, setting))| compare_answers(run, "cifar10", "code", &images, setting)).sum();
    assert!(n_compared > 400, "{n_compared}");
    let of = |name: &str| {
        let place = wanted.iter().position(|(known, _)| *known == name).unwrap();
        &evaluation.runs[1 + place]
    };
    let known = [
        (&evaluation.runs[0], 64.1, 68.8),
        (of("lora-cifar10.scale0.75"), 65.6, 71.9),
        (of("lora-cifar10.scale1"), 1.6, 67.2),
    ];
    for (run, mnist, cifar10) in known {
        assert!((accuracy(run, "mnist") - mnist).abs() < 0.1, "{} {mnist}", accuracy(run, "mnist"));
        assert!((accuracy(run, "cifar10") - cifar10).abs() < 0.1, "{} {cifar10}", accuracy(run, "cifar10"));
    }
}

/// `emt recover` of the small model's adapter for CIFAR-10, with a policy that a hundred images can satisfy.
fn recover(folder: &Path, arguments: &[&str]) -> Finished {
    let (shared, policy) = (support::any_shared(), folder.join("policy.toml"));
    fs::write(&policy, "margin = 0.2\nalpha = 0.05\nmin_pairs = 40\n").unwrap();
    let mut command = emt();
    command.arg("recover").arg("--model").arg(shared.join("models/tiny-llava"));
    command.arg("--data").arg(shared.join("data")).arg("--policy").arg(policy).args(["--max-new-tokens", "12"]);
    finish(command.args(arguments))
}

fn lora() -> String {
    text(&support::any_adapters().join("lora-cifar10"))
}

/// The answers of a run, by sample.
fn answers(run: &Path) -> BTreeMap<String, Value> {
    let journal = fs::read_to_string(run.join("trials.jsonl")).unwrap();
    let trial = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        (value["sample"].as_str().unwrap().to_owned(), value["answer"].clone())
    };
    journal.lines().map(trial).collect()
}

#[test]
fn a_recovered_adapter_passes_on_images_that_its_choice_did_not_see_and_answers_as_it_was_confirmed() {
    if support::shared().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (adapter, place) = (lora(), text(&out));
    let common = ["--adapter", &adapter, "--new", "cifar10", "--old", "mnist", "--limit", "100", "--out", &place];
    let arguments = [&common[..], &["--methods", "scale", "--strengths", "0,0.5,0.75,1"]].concat();
    let finished = recover(folder.path(), &arguments);
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
    let recovery = read_json(&out.join("recovery.json"));
    assert_eq!((&recovery["schema"], &recovery["decision"]), (&"emt.recovery/1".into(), &"pass".into()));
    assert_eq!(recovery["points"].as_array().unwrap().len(), 4);
    assert_eq!(
        (&recovery["selection"]["n_samples"], &recovery["confirmation"]["n_samples"]),
        (&100.into(), &100.into())
    );
    let strength = recovery["chosen"]["strength"].as_f64().unwrap();
    assert!([0.5, 0.75].contains(&strength), "all of MNIST is lost at full strength: {recovery}");
    assert_eq!(read_json(&out.join("decision.json"))["decision"], "pass");
    for name in ["frontier.svg", "frontier.png", "recovery.html", "recovery.md", "selection.csv", "confirmation.csv"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    // The two halves have no image in common, and the choice saw only the first.
    let half =
        |name: &str| fs::read_to_string(out.join(name)).unwrap().lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let (selection, confirmation) = (half("selection.csv"), half("confirmation.csv"));
    assert!(selection.iter().all(|line| !confirmation.contains(line)), "{selection:?}");
    let of_points = answers(&out.join("runs/selection/scale-1"));
    assert!(confirmation.iter().all(|line| !of_points.contains_key(line.split(',').nth(1).unwrap())));
    // What was written answers as what was confirmed.
    let run = folder.path().join("again");
    let evaluated = finish(
        emt()
            .args(["eval", "--model", &text(&support::any_shared().join("models/tiny-llava")), "--encoder", "none"])
            .args(["--adapter", &text(&out.join("adapter")), "--no-base", "--datasets", "cifar10,mnist"])
            .args(["--data", &text(&support::any_shared().join("data")), "--max-new-tokens", "12"])
            .args(["--samples", &text(&out.join("confirmation.csv")), "--out", &text(&run)]),
    );
    assert_eq!(evaluated.code, Some(0), "{}", evaluated.stderr);
    let confirmed = answers(&out.join(format!("runs/confirmation/scale-{strength}")));
    assert!(answers(&run) == confirmed && confirmed.len() == 100);
    // The same command finds everything done.
    let before = fs::read(out.join("recovery.json")).unwrap();
    let again = recover(folder.path(), &arguments);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(fs::read(out.join("recovery.json")).unwrap() == before && again.stderr.contains("recorded already"));
    // Nothing passes at full strength alone, and what an earlier command wrote is gone.
    let failed = recover(folder.path(), &[&common[..], &["--methods", "scale", "--strengths", "1"]].concat());
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stdout.contains("No strength passes"), "{}", failed.stdout);
    assert!(read_json(&out.join("recovery.json"))["chosen"].is_null());
    assert!(!out.join("adapter").exists() && !out.join("decision.json").exists());
}

#[test]
fn a_failed_gate_names_the_command_and_a_diagnosis_adds_what_leaves_the_guilty_part_out() {
    let Some(shared) = support::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "margin = 0.2\nalpha = 0.05\nmin_pairs = 40\n").unwrap();
    let common = |command: &str| {
        let mut words = emt();
        words.current_dir(folder.path()).arg(command).arg("--model").arg(shared.join("models/tiny-llava"));
        words.args(["--adapter", &lora(), "--data"]).arg(shared.join("data")).args(["--max-new-tokens", "12"]);
        words
    };
    let mut gate = common("gate");
    gate.args(["--datasets", "mnist,cifar10", "--tuned-on", "cifar10", "--limit", "60", "--policy", &text(&policy)]);
    let failed = finish(gate.args(["--runs", "runs", "--encoder", "none"]));
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    let named = failed.stdout.lines().find(|line| line.trim().starts_with("emt recover --model")).unwrap();
    assert!(named.contains("--new cifar10 --old mnist") && named.contains("--policy"), "{named}");
    let mut diagnose = common("diagnose");
    diagnose.args(["--datasets", "mnist", "--limit", "30", "--probes", "quick", "--out", "diagnosis"]);
    let diagnosed = finish(&mut diagnose);
    assert_eq!(diagnosed.code, Some(0), "{}", diagnosed.stderr);
    let diagnosis = text(&folder.path().join("diagnosis"));
    let out = folder.path().join("out");
    let adapter = lora();
    let words = ["--adapter", &adapter, "--new", "cifar10", "--old", "mnist", "--limit", "100", "--out", &text(&out)];
    let more = ["--methods", "scale", "--strengths", "1", "--diagnosis", &diagnosis];
    let recovered = recover(folder.path(), &[&words[..], &more].concat());
    assert!(matches!(recovered.code, Some(0 | 3)), "{}\n{}", recovered.stdout, recovered.stderr);
    let points = &read_json(&out.join("recovery.json"))["points"];
    let component = |point: &Value| point["component"].as_str().map(str::to_owned);
    let components: Vec<Option<String>> = points.as_array().unwrap().iter().map(component).collect();
    assert_eq!(components, [None, Some("attention".to_owned())]);
    // All of the fall comes back with the base's attention.
    let of_old = |point: usize| points[point]["old"]["accuracy"].as_f64().unwrap();
    assert!(of_old(0) < 0.1 && of_old(1) > 0.5, "{points}");
}

#[test]
fn a_whole_checkpoint_is_recovered_as_one() {
    let Some(shared) = support::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (tuned, out) = (text(&fully_tuned(&shared, folder.path())), folder.path().join("out"));
    let words = ["--adapter", &tuned, "--new", "cifar10", "--old", "mnist", "--limit", "100", "--out", &text(&out)];
    let recovered =
        recover(folder.path(), &[&words[..], &["--methods", "interpolate", "--strengths", "0.25,0.5"]].concat());
    assert_eq!(recovered.code, Some(0), "{}\n{}", recovered.stdout, recovered.stderr);
    let recovery = read_json(&out.join("recovery.json"));
    assert_eq!(recovery["points"][0]["method"], "interpolate");
    let strength = recovery["chosen"]["strength"].as_f64().unwrap();
    assert!(out.join("model/config.json").is_file() && out.join("model/model.safetensors").is_file());
    let evaluated = finish(
        emt()
            .args(["eval", "--model", &text(&out.join("model")), "--encoder", "none", "--datasets", "cifar10,mnist"])
            .args(["--data", &text(&shared.join("data")), "--max-new-tokens", "12"])
            .args(["--samples", &text(&out.join("confirmation.csv")), "--out", &text(&folder.path().join("again"))]),
    );
    assert_eq!(evaluated.code, Some(0), "{}", evaluated.stderr);
    let confirmed = answers(&out.join(format!("runs/confirmation/interpolate-{strength}")));
    assert!(answers(&folder.path().join("again")) == confirmed && confirmed.len() == 100);
}

#[test]
fn what_cannot_be_recovered_is_refused_before_anything_is_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let (adapter, out) = (lora(), text(&folder.path().join("out")));
    let whole = text(&support::any_shared().join("models/tiny-llava"));
    let data = ["--new", "cifar10", "--old", "mnist", "--out", &out];
    let own = |arguments: &[&str]| [arguments, &data].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    for (arguments, words) in [
        (own(&["--adapter", &adapter, "--methods", "interpolate"]), "--methods scale"),
        (own(&["--adapter", &adapter, "--methods", "halve"]), "scale, lines, interpolate"),
        (own(&["--adapter", &adapter, "--strengths", "0.5,2"]), "`2` is not a number from 0 to 1"),
        (own(&["--adapter", &whole]), "changes nothing"),
        (own(&["--adapter", &adapter, "--limit", "1"]), "--limit must be at least 2"),
        (own(&["--adapter", &adapter, "--diagnosis", "nowhere"]), "--diagnosis"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let finished = recover(folder.path(), &arguments);
        assert_eq!(finished.code, Some(2), "{arguments:?} {}", finished.stdout);
        assert!(finished.stderr.contains(words), "{arguments:?}: {}", finished.stderr);
    }
    let twice =
        recover(folder.path(), &["--adapter", &adapter, "--new", "cifar10", "--old", "cifar10,mnist", "--out", &out]);
    assert_eq!(twice.code, Some(2), "{}", twice.stdout);
    assert!(twice.stderr.contains("cifar10") && twice.stderr.contains("--old"), "{}", twice.stderr);
    assert!(!Path::new(&out).join("runs").exists(), "nothing was evaluated");
}
