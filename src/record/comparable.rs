//! The fields that decide whether two runs may be compared.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::compare::{GENERATION_CONFIG, LABEL_SCORING};
use crate::domain::{DatasetSpec, Mode, ProbeShots, RunSpec, ServedSpec, SubjectPrompt};

/// Returns the `comparable` object of `run.json`: one key per field, named as in `--allow-different`.
///
/// `split`, `label_set`, `prompt_text` and `prompt_ids` are by dataset, the prompts also by subject and mode.
/// `preprocessing` is by subject, `generation_limits` by mode and `comparator` by dataset. A comparison of two runs can
/// therefore leave out what only one of them has. The fields are effects, not file bytes: weights, adapter, merge state
/// and layout are not included.
///
/// A run that decodes by checkpoint settings in addition to the limits has `generation_config`, by mode; a run without
/// it uses none.
///
/// A run that scores labels has `label_scoring`, by mode, unless its version is 1.
///
/// A served model also has `served`: how it is asked, and how its server treats a fixed prompt.
///
/// Image positions in a prompt's ids are collapsed into one `"image"`, since their number follows from the tower.
pub fn comparable(spec: &RunSpec) -> Map<String, Value> {
    let datasets = |field: &dyn Fn(&DatasetSpec) -> Value| -> Value {
        spec.datasets.iter().map(|dataset| (dataset.dataset.clone(), field(dataset))).collect::<Map<_, _>>().into()
    };
    let mut preprocessing = Map::new();
    preprocessing.insert("model".into(), spec.model.preprocessing.clone());
    if let Some(encoder) = &spec.encoder {
        preprocessing.insert("encoder".into(), encoder.preprocessing.clone());
    }
    let mut generation_limits = Map::new();
    if spec.modes.contains(&Mode::Generate) {
        generation_limits.insert("generate".into(), json!({ "max_new_tokens": spec.max_new_tokens }));
    }
    let judges: Vec<Value> = spec
        .judges
        .iter()
        .map(|judge| match &judge.prompt {
            Some(prompt) => json!({ "judge": judge.judge, "model": judge.model, "prompt": prompt }),
            None => json!({ "judge": judge.judge, "model": judge.model }),
        })
        .collect();
    // The parameters of a probe are under `comparator` only, so that one field differs and not two.
    let texts = |prompt: &SubjectPrompt| (prompt.mode != Mode::Probe).then(|| prompt.text.clone().into());
    let fields: [(&str, Value); 11] = [
        ("split", datasets(&|dataset| dataset.split.clone().into())),
        ("label_set", datasets(&|dataset| dataset.label_set.clone().into())),
        ("prompt_text", datasets(&|dataset| by_subject(&dataset.prompts, texts))),
        (
            "prompt_ids",
            datasets(&|dataset| by_subject(&dataset.prompts, |prompt| Some(with_placeholder(prompt.ids.as_deref()?)))),
        ),
        ("preprocessing", preprocessing.into()),
        ("sample_seed", spec.sample_seed.into()),
        ("generation_limits", generation_limits.into()),
        ("compute_type", spec.computing.compute_type().into()),
        ("device_kind", spec.computing.device_kind().into()),
        ("judges", judges.into()),
        (COMPARATOR, comparators(spec)),
    ];
    let served = spec.model.served.as_ref().map(|served| ("served", of_server(served)));
    let generates = spec.modes.contains(&Mode::Generate) && !spec.model.generation_config.is_null();
    let generation = generates.then(|| (GENERATION_CONFIG, json!({ "generate": spec.model.generation_config })));
    let scores = spec.modes.contains(&Mode::Score) && spec.label_scoring_version != 1;
    let scoring = scores.then(|| (LABEL_SCORING, json!({ "score": spec.label_scoring_version })));
    fields
        .into_iter()
        .chain(generation)
        .chain(scoring)
        .chain(served)
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Removes the values of datasets that are not in `names` from `comparable`.
pub fn keep_datasets(comparable: &mut Map<String, Value>, names: &BTreeSet<String>) {
    for field in ["split", "label_set", "prompt_text", "prompt_ids", COMPARATOR] {
        if let Some(Value::Object(datasets)) = comparable.get_mut(field) {
            datasets.retain(|dataset, _| names.contains(dataset));
        }
    }
}

/// The properties that two servers must share. The model's name and its answer to the probe are not included.
fn of_server(served: &ServedSpec) -> Value {
    let mut fields = Map::new();
    fields.insert("request".into(), served.request.clone());
    fields.insert("n_probe_tokens".into(), served.n_probe_tokens.into());
    if let Some(label_scoring) = &served.label_scoring {
        fields.insert("label_scoring".into(), label_scoring.clone().into());
    }
    fields.into()
}

/// The key of the models' comparators.
pub(super) const COMPARATOR: &str = "comparator";

/// By dataset `"zero_shot"`, or the probe's classifier and shots; datasets without either are left out.
pub(super) fn comparators(spec: &RunSpec) -> Value {
    let of_dataset = |dataset: &DatasetSpec| {
        let mode = dataset.comparator()?;
        let probe = spec.probe.as_ref().filter(|_| mode == Mode::Probe);
        Some(match probe.and_then(|probe| Some((probe, probe.datasets.get(&dataset.dataset)?))) {
            Some((probe, shots)) => {
                let ProbeShots { split, shots, content } = shots;
                json!({"mode": mode, "classifier": probe.classifier, "split": split, "shots": shots, "content": content})
            }
            None => json!(mode),
        })
    };
    let datasets = spec.datasets.iter();
    datasets.filter_map(|dataset| Some((dataset.dataset.clone(), of_dataset(dataset)?))).collect::<Map<_, _>>().into()
}

/// `{subject: {mode: field}}`; prompts without the field are left out.
pub(super) fn by_subject(prompts: &[SubjectPrompt], field: impl Fn(&SubjectPrompt) -> Option<Value>) -> Value {
    let mut subjects = Map::new();
    for prompt in prompts {
        let Some(value) = field(prompt) else { continue };
        let modes = subjects.entry(name(prompt.subject)).or_insert_with(|| Value::Object(Map::new()));
        modes[name(prompt.mode)] = value;
    }
    subjects.into()
}

/// Returns a unit variant's name in serde's form.
fn name(variant: impl serde::Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(Value::String(name)) => name,
        other => unreachable!("a unit variant is written as a string, not {other:?}"),
    }
}

fn with_placeholder(ids: &[Option<u32>]) -> Value {
    let mut written: Vec<Value> = Vec::with_capacity(ids.len());
    for id in ids {
        if let Some(id) = id {
            written.push((*id).into());
        } else if written.last().is_none_or(|last| !last.is_string()) {
            written.push("image".into());
        }
    }
    written.into()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{computing, spec, with_probe};
    use super::*;
    use crate::domain::{ProbeClassifier, ProbeSpec};

    #[test]
    fn image_positions_are_one_placeholder() {
        let fields = comparable(&spec());
        assert_eq!(fields["prompt_ids"]["mnist"]["model"]["generate"], json!([1, "image", 5]));
        assert!(fields["prompt_ids"]["mnist"].get("encoder").is_none(), "a caption template has no ids");
    }

    #[test]
    fn weights_adapter_and_merge_state_do_not_count() {
        let mut other = spec();
        other.model.weights = Some("blake3:other".into());
        other.model.adapter = Some("blake3:adapter".into());
        other.model.merged = true;
        assert_eq!(comparable(&other), comparable(&spec()));
    }

    #[test]
    fn servers_are_compared_by_what_they_do_and_not_by_the_model_behind() {
        let served = |model: &str, n_probe_tokens| {
            let mut spec = spec();
            let request = json!({ "temperature": 0 });
            let (probe_answer, label_scoring) = (Some(format!("blake3:{model}")), None);
            spec.model.served =
                Some(ServedSpec { model: model.into(), request, n_probe_tokens, probe_answer, label_scoring });
            comparable(&spec)
        };
        assert_eq!(served("base", Some(34)), served("tuned", Some(34)));
        assert_ne!(served("base", Some(34)), served("base", Some(35)));
        assert!(!comparable(&spec()).contains_key("served"), "a local model has no such key");
    }

    #[test]
    fn each_field_has_a_key_of_its_own() {
        let changes: [(&str, fn(&mut RunSpec)); 11] = [
            ("split", |spec| spec.datasets[0].split = "train".into()),
            ("label_set", |spec| spec.datasets[0].label_set.push('x')),
            ("prompt_text", |spec| spec.datasets[0].prompts[0].text.push('x')),
            ("prompt_ids", |spec| spec.datasets[0].prompts[0].ids = Some(vec![Some(2)])),
            ("preprocessing", |spec| spec.model.preprocessing["size"] = 336.into()),
            ("sample_seed", |spec| spec.sample_seed += 1),
            ("generation_limits", |spec| spec.max_new_tokens += 1),
            ("compute_type", |spec| spec.computing = computing("bf16", "cpu")),
            ("device_kind", |spec| spec.computing = computing("f32", "cuda")),
            ("judges", |spec| spec.judges[0].model = "rules/2".into()),
            ("comparator", |spec| spec.datasets[0].prompts.truncate(1)),
        ];
        let before = comparable(&spec());
        assert_eq!(before.len(), changes.len());
        for (key, change) in changes {
            let mut changed = spec();
            change(&mut changed);
            let after = comparable(&changed);
            let mut differing: Vec<&String> = before.keys().filter(|key| before[*key] != after[*key]).collect();
            // Without an encoder's prompt, its text is also missing.
            differing.retain(|field| key != "comparator" || *field != "prompt_text");
            assert_eq!(differing, [key]);
        }
    }

    #[test]
    fn a_probe_is_comparable_by_classifier_and_shots_and_not_by_its_tower() {
        let with = |change: fn(&mut ProbeSpec)| {
            let mut spec = with_probe();
            change(spec.probe.as_mut().unwrap());
            comparable(&spec)
        };
        let before = with(|_| {});
        assert_eq!(before[COMPARATOR]["mnist"]["mode"], "probe");
        assert_eq!(before[COMPARATOR]["mnist"]["shots"], json!([1, 5, 16]));
        assert!(before["prompt_text"]["mnist"].get("encoder").is_none());
        assert_eq!(with(|probe| probe.tower = "blake3:changed".into()), before);
        let shots = |probe: &mut ProbeSpec| probe.datasets.get_mut("mnist").unwrap().content.push('x');
        for change in [shots, |probe: &mut ProbeSpec| probe.classifier = ProbeClassifier::Logistic] {
            let after = with(change);
            let differing: Vec<&String> = before.keys().filter(|key| before[*key] != after[*key]).collect();
            assert_eq!(differing, [COMPARATOR]);
        }
        assert_eq!(comparable(&spec())[COMPARATOR], json!({"mnist": "zero_shot", "cifar10": "zero_shot"}));
    }
}
