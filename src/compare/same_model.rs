//! Whether two runs are of the same model.

use serde_json::json;

use super::{FieldDifference, LABEL_SCORING};
use crate::domain::{ModelSpec, RunSpec};

/// The fields of `comparable` that decide what a model answers.
const DECIDE_ANSWERS: [&str; 8] = [
    "prompt_text",
    "prompt_ids",
    "preprocessing",
    "generation_limits",
    "compute_type",
    "device_kind",
    LABEL_SCORING,
    "served",
];

/// Whether `baseline` and `candidate` asked the same model in the same way. A comparison would then find no forgetting,
/// whatever the candidate has forgotten. `differences` are those of [`field_differences`](super::field_differences).
///
/// Models are equal if the hashes of tensors and adapter are, and the settings if both runs record them. The
/// checkpoint's name does not matter, nor whether the adapter was merged. Tokenizer and chat template count by their
/// effect on the prompts' tokens, so that copies saved by another program are recognised. A served model is identified
/// by its name and its answer to the probe, if both runs record one.
/// same each time.
pub fn is_same_model(baseline: &RunSpec, candidate: &RunSpec, differences: &[FieldDifference]) -> bool {
    has_same_weights(&baseline.model, &candidate.model) && !differences.iter().any(decides_answers)
}

/// Returns `blake3:…` of the model of `spec`, independent of what it is asked and how: its tensors, its adapter and its
/// settings. Whether the adapter is merged does not matter. For a served model the key is `served:` and the hash of its
/// name and its answer to the probe. `None` if the weights are unknown.
pub fn model_key(spec: &RunSpec) -> Option<String> {
    let model = &spec.model;
    let (prefix, parts) = match &model.served {
        Some(served) => ("served:", json!([served.model, served.probe_answer])),
        None => {
            model.weights.as_ref()?;
            let mut parts = json!([model.weights, model.adapter, model.settings, model.generation_config]);
            if let (Some(strength), Some(parts)) = (model.strength(), parts.as_array_mut()) {
                parts.push(json!(strength));
            }
            ("", parts)
        }
    };
    Some(format!("{prefix}blake3:{}", blake3::hash(parts.to_string().as_bytes()).to_hex()))
}

/// Whether a difference affects the model's own answers, and not only the encoder or the judges.
fn decides_answers(difference: &FieldDifference) -> bool {
    let place = &difference.place;
    let is_of_encoder = place == "encoder" || place.starts_with("encoder.") || place.contains(".encoder.");
    DECIDE_ANSWERS.contains(&difference.field.as_str()) && !is_of_encoder
}

fn has_same_weights(before: &ModelSpec, after: &ModelSpec) -> bool {
    match (&before.served, &after.served) {
        (None, None) => {
            let settings = before.settings.as_ref().zip(after.settings.as_ref());
            let has_same_settings = settings.is_none_or(|(before, after)| before == after);
            let is_as_strong = before.strength() == after.strength();
            before.weights == after.weights && before.adapter == after.adapter && is_as_strong && has_same_settings
        }
        (Some(before), Some(after)) => {
            let answers = before.probe_answer.as_ref().zip(after.probe_answer.as_ref());
            before.model == after.model && answers.is_none_or(|(before, after)| before == after)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::compare::testing::spec;
    use crate::domain::ServedSpec;

    fn with(change: impl FnOnce(&mut ModelSpec)) -> RunSpec {
        let mut spec = spec(true);
        spec.model.weights = Some("blake3:base".into());
        change(&mut spec.model);
        spec
    }

    fn differs(field: &str, place: &str) -> FieldDifference {
        let (baseline, candidate) = (Value::Null, Value::Bool(true));
        FieldDifference { field: field.into(), place: place.into(), baseline, candidate }
    }

    #[test]
    fn copies_renamed_merged_and_saved_again_are_the_same_model() {
        let base = with(|_| {});
        for (what, copy) in [
            ("itself", with(|_| {})),
            ("another name", with(|model| model.name = "elsewhere".into())),
            ("other tokenizer files with the same tokens", with(|model| model.tokenizer = Some("blake3:x".into()))),
            ("another template file with the same prompt", with(|model| model.chat_template = None)),
        ] {
            assert!(is_same_model(&base, &copy, &[]), "{what}");
        }
        let tuned = with(|model| model.adapter = Some("blake3:lora".into()));
        let merged = RunSpec { model: ModelSpec { merged: true, ..tuned.model.clone() }, ..tuned.clone() };
        assert!(is_same_model(&tuned, &merged, &[]));
        assert_eq!(model_key(&tuned), model_key(&merged));
        assert!(model_key(&tuned).is_some() && model_key(&tuned) != model_key(&base));
        assert!(!is_same_model(&base, &tuned, &[]) && !is_same_model(&tuned, &base, &[]));
        assert!(!is_same_model(&base, &with(|model| model.weights = Some("blake3:other".into())), &[]));
        let set = |base: u64| with(|model| model.settings = Some(json!({ "rotary_base": base })));
        assert!(is_same_model(&set(1), &set(1), &[]) && !is_same_model(&set(1), &set(2), &[]));
        assert!(is_same_model(&set(1), &base, &[]), "a run of an earlier version does not tell");
    }

    #[test]
    fn the_same_weights_asked_in_another_way_are_not_the_same() {
        let base = with(|_| {});
        for (field, place, is_same) in [
            ("prompt_ids", "mnist.model.generate", false),
            ("prompt_text", "mnist.encoder.zero_shot", true),
            ("preprocessing", "model", false),
            ("preprocessing", "encoder", true),
            ("compute_type", "", false),
            ("judges", "", true),
            ("comparator", "mnist", true),
        ] {
            assert_eq!(is_same_model(&base, &base, &[differs(field, place)]), is_same, "{field} {place}");
        }
    }

    #[test]
    fn served_models_are_told_apart_by_name_and_by_their_answer_to_the_probe() {
        let served = |name: &str, answer: Option<&str>| {
            with(|model| {
                model.weights = None;
                model.served = Some(ServedSpec {
                    model: name.into(),
                    request: json!({}),
                    n_probe_tokens: Some(34),
                    probe_answer: answer.map(str::to_owned),
                    label_scoring: None,
                });
            })
        };
        let base = served("base", Some("blake3:cat"));
        assert!(is_same_model(&base, &served("base", Some("blake3:cat")), &[]));
        assert!(is_same_model(&base, &served("base", None), &[]), "nothing tells them apart");
        assert!(!is_same_model(&base, &served("base", Some("blake3:dog")), &[]));
        assert!(!is_same_model(&base, &served("tuned", Some("blake3:cat")), &[]));
        assert!(!is_same_model(&base, &with(|_| {}), &[]));
    }
}
