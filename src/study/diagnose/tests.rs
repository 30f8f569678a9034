//! Diagnoses against reference values of transformers and peft, and planted causes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{DiagnosisPlan, LookInside, MirPairs};
use crate::assets::passages::passages;
use crate::dataset::{Catalog, DataRoots, Dataset, OpenRequest, open};
use crate::diagnose::taps::{FlowRule, MirMethod};
use crate::diagnose::{DatasetDiagnosis, Diagnosis, ImageDiagnosis, Probe, SwapShare, WeightChanges, weights};
use crate::domain::Cause;
use crate::eval::{AdapterRequest, EncoderChoice, SubjectsRequest};
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{read_json, shared};
use crate::model::checkpoint::weights::{Adapter, Checkpoint, Hub};
use crate::model::families::{FAMILIES, OpenedModel};
use crate::prompting;
use crate::study::{ComparatorChoice, ComparatorRequest, Evaluate, RespondentRequest};

/// The first samples in the order of the file, as the references have them.
fn first_samples(shared: &Path, name: &str, n: usize) -> Dataset {
    let roots = DataRoots { data: Some(shared.join("data")), ..DataRoots::default() };
    let request = OpenRequest { text: name, split: Some("test"), ..OpenRequest::default() };
    let mut dataset = open(&Catalog::embedded(), &roots, &request).unwrap();
    dataset.samples.truncate(n);
    assert!(dataset.samples[n - 1].id.ends_with(&format!("{:05}", n - 1)), "{}", dataset.samples[n - 1].id);
    dataset
}

fn diagnosed(
    shared: &Path,
    adapter: PathBuf,
    (datasets, n): (&[&str], usize),
    probes: &str,
) -> (Diagnosis, Vec<ImageDiagnosis>) {
    diagnosed_by(FlowRule::PAPER, shared, adapter, (datasets, n), probes)
}

fn diagnosed_by(
    flow: FlowRule,
    shared: &Path,
    adapter: PathBuf,
    (datasets, n): (&[&str], usize),
    probes: &str,
) -> (Diagnosis, Vec<ImageDiagnosis>) {
    let (model, hub) = (shared.join("models/tiny-llava"), Hub::new(None, None, String::new(), |_| {}));
    let subjects = |adapters, allows_idle| SubjectsRequest {
        encoder: EncoderChoice::None,
        adapters,
        has_base: true,
        allows_idle,
        ..SubjectsRequest::new(&model, &hub)
    };
    let adapter = [AdapterRequest::new(Some("candidate".to_owned()), adapter)];
    let plan = DiagnosisPlan::new(&subjects(&adapter, false), Probe::parse_list(probes).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let datasets = datasets.iter().map(|name| first_samples(shared, name, n)).collect();
    let request = Evaluate {
        respondent: RespondentRequest::Checkpoint(subjects(&plan.adapters, true)),
        comparator: ComparatorRequest { choice: ComparatorChoice::Nothing, ..ComparatorRequest::default() },
        ..Evaluate::new(&model, &hub, datasets, folder.path()).unwrap()
    };
    let evaluation = request.run(&|| false, &mut ()).unwrap().unwrap();
    let request = LookInside {
        subjects: subjects(&adapter, false),
        template: &prompting::load("emt").unwrap(),
        max_new_tokens: 32,
        batch_size: None,
        placement: &Placement::cpu(),
        flow,
        mir: MirPairs { method: MirMethod::Exact, texts: passages(), images: None },
        dir: folder.path(),
    };
    let inside = plan.look_inside(request, &evaluation, &mut |_| true).unwrap().unwrap();
    plan.conclude(&evaluation, &inside).unwrap()
}

fn share<'a>(dataset: &'a DatasetDiagnosis, component: &str) -> &'a SwapShare {
    dataset.swap.iter().find(|share| share.component == component).unwrap()
}

/// Asserts that an accuracy over 64 images differs by at most `n` images from the reference's.
fn assert_within_images(n: f64, found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() * 64.0 <= n + 0.01, "{what}: {found}, and the reference has {expected}");
}

/// Broken models say `cat cat of a cat`. The rules and the reference, which looks for labels as whole words, read a few such
/// answers differently.
const N_READ_DIFFERENTLY: f64 = 4.0;

#[test]
fn every_planted_cause_is_named_and_its_restores_are_those_of_the_reference() {
    let Some(shared) = shared() else { return };
    let planted = shared.join("fixtures/diagnose/planted");
    for name in [
        "alignment_noise",
        "alignment_rotation",
        "language_attention",
        "language_mlp_last",
        "mixed",
        "perception",
        "prior",
        "setup_template",
        "wording",
    ] {
        let reference = read_json(&planted.join(name).join("planted.json"));
        let judged: Vec<&str> =
            reference["judge_on"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        let (diagnosis, images) = diagnosed(&shared, planted.join(name), (&judged, 64), "quick");
        for (dataset, set) in diagnosis.datasets.iter().zip(&judged) {
            let expected = &reference["datasets"][set];
            let what = format!("{name} on {set}");
            assert_within_images(0.0, dataset.baseline_accuracy, expected["baseline"].as_f64().unwrap(), &what);
            let after = expected["candidate"].as_f64().unwrap();
            assert_within_images(N_READ_DIFFERENTLY, dataset.candidate_accuracy.unwrap(), after, &what);
            let named: Vec<&str> = dataset.named.iter().map(|cause| cause.name()).collect();
            assert_eq!(named.join("+"), reference["cause"].as_str().unwrap(), "{what}: {:#?}", dataset.causes);
            assert_eq!(dataset.causes.iter().map(|cause| cause.n).sum::<usize>(), dataset.n_lost, "{what}");
            let fall = dataset.baseline_accuracy - dataset.candidate_accuracy.unwrap();
            for component in dataset.swap.iter().filter(|share| share.shapley.is_some()) {
                let recovered = component.restore.recovered.unwrap();
                let of_reference = expected["restore"][&component.component].as_f64().unwrap();
                let n_apart = (recovered - of_reference).abs() * fall * 64.0;
                assert!(n_apart <= N_READ_DIFFERENTLY, "{what}: {component:?}");
            }
            let is_of_set = |image: &&ImageDiagnosis| image.dataset == *set && image.lost;
            assert_eq!(images.iter().filter(is_of_set).count(), dataset.n_lost);
        }
    }
}

#[test]
fn restoring_and_keeping_components_gives_the_answers_of_transformers() {
    let Some(shared) = shared() else { return };
    let reference = read_json(&shared.join("fixtures/diagnose/swap.json"));
    let (name, adapter) = ("lora-cifar10", shared.join("models/adapters/lora-cifar10"));
    let (diagnosis, images) = diagnosed(&shared, adapter, (&["mnist"], 64), "swap,reliance");
    let variants = &reference["adapters"][name]["variants"];
    let answers = |variant: &str| variants[variant]["mnist"]["answer"].as_array().unwrap().clone();
    let gaps = |variant: &str| variants[variant]["mnist"]["min_gap"].as_array().unwrap().clone();
    let by_sample: BTreeMap<&str, &ImageDiagnosis> =
        images.iter().map(|image| (image.sample.as_str(), image)).collect();
    for (place, sample) in reference["sets"]["mnist"]["samples"].as_array().unwrap().iter().enumerate() {
        let image = by_sample[sample.as_str().unwrap()];
        for (variant, found) in [("base", &image.baseline_answer), ("tuned", &image.candidate_answer)] {
            if gaps(variant)[place].as_f64().unwrap() > 1e-3 {
                assert_eq!(Value::from(found.as_str()), answers(variant)[place], "{variant} {sample}");
            }
        }
    }
    let dataset = &diagnosis.datasets[0];
    for (component, group) in [("attention", "attn"), ("mlp", "mlp")] {
        let keep = variants[&format!("keep {group}")]["mnist"]["accuracy"].as_f64().unwrap();
        assert_within_images(1.0, share(dataset, component).keep.as_ref().unwrap().accuracy, keep, component);
    }
    for layer in 0..4 {
        let restore = variants[&format!("restore layer{layer}")]["mnist"]["accuracy"].as_f64().unwrap();
        let name = format!("layer.{layer}");
        assert_within_images(1.0, share(dataset, &name).restore.accuracy, restore, &name);
    }
}

#[test]
fn changes_of_weights_are_those_of_the_reference() {
    let Some(shared) = shared() else { return };
    let reference = read_json(&shared.join("fixtures/diagnose/drift.json"));
    let opened = OpenedModel::open(&Checkpoint::open(shared.join("models/tiny-llava")).unwrap(), None, None).unwrap();
    for (name, folder) in [
        ("lora-cifar10", "models/adapters/lora-cifar10"),
        ("linear-mnist", "models/adapters/linear-mnist"),
        ("lora-mnist", "models/adapters/lora-mnist"),
        ("both-cifar10", "fixtures/diagnose/adapters/both-cifar10"),
    ] {
        let adapter = Adapter::open(&shared.join(folder), FAMILIES[0].canonical, &opened.weights).unwrap();
        let WeightChanges { modules, .. } = weights::changes(&adapter, &opened.weights).unwrap();
        let expected = reference["weight_change"][name].as_object().unwrap();
        assert_eq!(modules.len(), expected.len(), "{name}");
        for (key, of_reference) in expected {
            let plain = key.trim_start_matches("model.");
            let module = modules.iter().find(|one| one.module == plain || format!("{}.weight", one.module) == plain);
            let module = module.unwrap_or_else(|| panic!("{name} lacks {plain}"));
            let is_close = |found: Option<f64>, field: &str| match of_reference[field].as_f64() {
                Some(expected) => found.is_some_and(|found| (found / expected - 1.0).abs() < 1e-4),
                None => true,
            };
            assert!(is_close(module.relative_change, "relative_change"), "{name} {module:?} {of_reference}");
            assert!(is_close(module.effective_rank, "effective_rank_change"), "{name} {module:?} {of_reference}");
        }
    }
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn mean(values: &Value) -> f64 {
    let values = numbers(values);
    values.iter().sum::<f64>() / values.len() as f64
}

/// Asserts that a mean of log-probabilities, or a share, is the reference's.
fn assert_value(found: Option<f64>, expected: f64, what: &str) {
    let found = found.unwrap_or_else(|| panic!("{what} is missing"));
    assert!(
        (found - expected).abs() < 1e-4 + 1e-4 * expected.abs(),
        "{what}: {found}, and the reference has {expected}"
    );
}

#[test]
fn a_candidate_that_still_chooses_the_label_lost_its_wording_whatever_part_restores_it() {
    let Some(shared) = shared() else { return };
    let adapter = shared.join("fixtures/diagnose/adapters/both-cifar10");
    let (diagnosis, images) = diagnosed(&shared, adapter, (&["mnist"], 64), "quick");
    let dataset = &diagnosis.datasets[0];
    // The reference's choices: swap.json.
    assert_eq!((dataset.choice_accuracy_baseline, dataset.choice_accuracy_candidate), (Some(0.609375), Some(0.578125)));
    assert_eq!(dataset.named, [Cause::Wording]);
    assert_eq!(images.iter().filter(|image| image.lost).count(), dataset.n_lost);
}

#[test]
fn lens_patch_and_knockout_are_those_of_transformers() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("fixtures/diagnose");
    let [lens, patch, knockout] =
        ["lens", "patch", "knockout"].map(|name| read_json(&folder.join(format!("{name}.json"))));
    let sets = ["mnist", "cifar10"];
    for (name, adapter) in [
        ("lora-cifar10", shared.join("models/adapters/lora-cifar10")),
        ("both-cifar10", folder.join("adapters/both-cifar10")),
    ] {
        let (diagnosis, _) = diagnosed(&shared, adapter, (&sets, 16), "lens,patch,knockout");
        for dataset in &diagnosis.datasets {
            let of = |reference: &Value| reference["sets"][dataset.dataset.as_str()].clone();
            let (lens, patch, knockout) = (of(&lens), of(&patch), of(&knockout));
            assert_eq!(dataset.layers.len(), 5);
            for layer in &dataset.layers {
                let (state, at) =
                    (layer.layer, |what: &str| format!("{name} {} {what} {}", dataset.dataset, layer.layer));
                let (base, tuned) = (&lens["base"][state], &lens[name][state]);
                assert_value(layer.lens_baseline, mean(&base["first_log_prob"]), &at("lens of the base"));
                assert_value(layer.lens_candidate, mean(&tuned["first_log_prob"]), &at("lens"));
                assert_value(layer.decision_baseline, mean(&base["decision_log_prob"]), &at("decision of the base"));
                assert_value(layer.decision_candidate, mean(&tuned["decision_log_prob"]), &at("decision"));
                assert_value(layer.rank_baseline, mean(&base["first_rank"]), &at("rank of the base"));
                assert_value(layer.rank_candidate, mean(&tuned["first_rank"]), &at("rank"));
                let patched = |rows: &str, of: &str| mean(&patch[name]["into_tuned"][rows][state][of]);
                assert_value(layer.patch_image, patched("image", "first_log_prob"), &at("patched image"));
                assert_value(layer.patch_last, patched("last", "first_log_prob"), &at("patched last row"));
                let decision = patched("image", "decision_log_prob");
                assert_value(layer.patch_image_decision, decision, &at("patched image, decision"));
                let decision = patched("last", "decision_log_prob");
                assert_value(layer.patch_last_decision, decision, &at("patched last row, decision"));
                if state < 4 {
                    assert_eq!(layer.knockout_layers, Some(1));
                    let cut = |model: &str, of: &str| mean(&knockout[model]["last"][state][of]);
                    let window = &knockout[name]["last"][state]["window"];
                    assert_eq!(*window, serde_json::json!([state, state + 1]));
                    assert_value(layer.knockout_baseline, cut("base", "first_log_prob"), &at("knockout of the base"));
                    assert_value(layer.knockout_candidate, cut(name, "first_log_prob"), &at("knockout"));
                    let decision = cut(name, "decision_log_prob");
                    assert_value(layer.knockout_candidate_decision, decision, &at("knockout, decision"));
                } else {
                    assert_eq!(layer.knockout_baseline, None);
                }
            }
        }
    }
}

#[test]
fn drift_flow_and_similarity_are_those_of_transformers() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("fixtures/diagnose");
    let [drift, flow] = ["drift", "flow"].map(|name| read_json(&folder.join(format!("{name}.json"))));
    let adapter = |name: &str| shared.join("models/adapters").join(name);
    let name = "lora-cifar10";
    for rule in
        ["mean", "mean,raw", "max", "max,raw", "mean,no-sink", "mean,raw,no-sink", "max,no-sink", "max,raw,no-sink"]
    {
        let rule = FlowRule::parse(rule).unwrap();
        let (diagnosis, _) = diagnosed_by(rule, &shared, adapter(name), (&["mnist", "cifar10"], 4), "flow");
        let heads = if rule.is_max { "heads=max" } else { "heads=mean" };
        let heads = format!("{heads}, sink={}", if rule.is_without_sink { "excluded" } else { "kept" });
        let shares = if rule.is_raw { "raw" } else { "renorm" };
        for dataset in &diagnosis.datasets {
            for layer in dataset.layers.iter().take(4) {
                for (model, found) in [("base", layer.flow_baseline), (name, layer.flow_candidate)] {
                    let expected = &flow["content_mean"][model][dataset.dataset.as_str()][heads.as_str()][shares];
                    let (found, expected) = (found.unwrap(), numbers(&expected[layer.layer]));
                    for (found, expected) in [found.system, found.image, found.user].into_iter().zip(expected) {
                        assert_value(Some(found), expected, &format!("{model} {} {}", dataset.dataset, layer.layer));
                    }
                }
            }
        }
    }
    for name in ["lora-cifar10", "linear-mnist"] {
        let (diagnosis, _) = diagnosed(&shared, adapter(name), (&["mnist", "cifar10"], 64), "similarity");
        for dataset in &diagnosis.datasets {
            let expected = &drift["sets"][dataset.dataset.as_str()][name]["cka"];
            assert_value(dataset.similarity_tower, expected["tower"].as_f64().unwrap(), "tower");
            for layer in &dataset.layers {
                let found = [("image_mean", layer.similarity_image), ("last", layer.similarity_last)];
                for (rows, found) in found {
                    let site = format!("{rows} {}", layer.layer);
                    match expected[&site].as_f64() {
                        Some(expected) => assert_value(found, expected, &format!("{name} {} {site}", dataset.dataset)),
                        None => assert_eq!(found, None, "{site}"),
                    }
                }
            }
        }
        let (diagnosis, _) = diagnosed(&shared, adapter(name), (&["mnist", "cifar10"], 16), "drift");
        for dataset in &diagnosis.datasets {
            let expected = &drift["sets"][dataset.dataset.as_str()][name];
            for at in &dataset.drift {
                let of = |kind: &str| -> Vec<f64> {
                    let images = expected[kind].as_array().unwrap();
                    images.iter().filter_map(|rows| rows.get(at.position)?.as_f64()).collect()
                };
                let (forward, reverse) = (of("kl_base_tuned"), of("kl_tuned_base"));
                assert_eq!(at.n, forward.len());
                let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
                assert_value(Some(at.kl), mean(&forward), &format!("{name} {} {}", dataset.dataset, at.position));
                assert_value(Some(at.kl_reverse), mean(&reverse), &format!("{name} {}", dataset.dataset));
            }
            assert!(dataset.drift.len() > 1);
        }
    }
}

/// Greedy answers by a reference's rule: the set of labels that are named as whole words is the gold label.
fn reference_accuracy(answers: &Value, labels: &Value) -> f64 {
    let (answers, labels) = (answers.as_array().unwrap(), labels.as_array().unwrap());
    let is_right = |(answer, label): (&Value, &Value)| answer.as_str().unwrap().trim() == label.as_str().unwrap();
    answers.iter().zip(labels).filter(|pair| is_right(*pair)).count() as f64 / labels.len() as f64
}

#[test]
fn truncated_and_composite_models_answer_as_those_of_transformers() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("fixtures/diagnose");
    let [truncation, composite] = ["truncation", "ee"].map(|name| read_json(&folder.join(format!("{name}.json"))));
    let adapter = shared.join("models/adapters/lora-cifar10");
    let (diagnosis, _) = diagnosed(&shared, adapter.clone(), (&["mnist", "cifar10"], 16), "truncation");
    for dataset in &diagnosis.datasets {
        let (of_set, found) = (&truncation["sets"][dataset.dataset.as_str()], dataset.truncation.as_ref().unwrap());
        assert_eq!(
            (found.from_layer.as_slice(), found.n_kept.as_slice()),
            (&[0, 1, 2, 3][..], &[0, 8, 16, 32, 64][..])
        );
        for case in of_set["base"].as_array().unwrap() {
            let at = |name: &str| case[name].as_u64().unwrap() as usize;
            let place = |list: &[usize], value: usize| list.iter().position(|&other| other == value).unwrap();
            let (row, column) = (place(&found.from_layer, at("L")), place(&found.n_kept, at("K")));
            let accuracy = found.accuracy_baseline[row][column].unwrap();
            let expected = reference_accuracy(&case["answer"], &of_set["labels"]);
            // The rules also accept an answer in other words.
            assert!((accuracy - expected).abs() * 16.0 <= 1.01, "{} {case}: {accuracy}", dataset.dataset);
        }
        assert_eq!(found.accuracy_baseline[0][1], None, "layer 0 has nothing to choose by");
        let blind = dataset.reliance.as_ref().unwrap().baseline.blind_accuracy;
        assert_eq!(found.accuracy_baseline[0][0], Some(blind));
    }
    let (diagnosis, _) = diagnosed(&shared, adapter, (&["mnist", "cifar10"], 8), "composite,merge");
    for dataset in &diagnosis.datasets {
        let of_set = &composite["sets"][dataset.dataset.as_str()];
        let found = dataset.composite.unwrap();
        let expected = reference_accuracy(&of_set["base.all"]["answer"], &of_set["labels"]);
        assert!((found.accuracy_baseline - expected).abs() * 8.0 <= 1.01, "{found:?}, {expected}");
        assert!(found.operations_self < found.operations_full && found.operations_self > 0.5 * found.operations_full);
        let merged: Vec<(&str, usize)> = dataset.merge.iter().map(|of| (of.dtype.as_str(), of.n_equal)).collect();
        assert_eq!(merged[0], ("f32", 8));
        assert_eq!(merged.len(), 3);
    }
}
