//! The identity of a run, as one hash.

use serde_json::{Map, Value};

use crate::domain::RunSpec;

/// Returns `blake3:` and the hash of the specification in canonical JSON (sorted keys, no white space).
///
/// Display names and fields that follow from the hashed ones are left out: the names of model and encoder, the
/// encoder's relation to the model's tower, a probe's tower, and the settings that come with the weights (a candidate's
/// settings that differ from its base's are hashed). The environment is not part of a specification.
pub fn identity(spec: &RunSpec) -> String {
    let text = sorted(&identifying(spec)).to_string();
    format!("blake3:{}", blake3::hash(text.as_bytes()).to_hex())
}

/// The fields of `spec` that decide its identity.
pub(super) fn identifying(spec: &RunSpec) -> Value {
    let mut value = serde_json::to_value(spec).expect("a specification is plain data");
    let left_out = [
        ("model", &["name", "settings"][..]),
        ("encoder", &["name", "relation", "tower_equal", "tower_change"][..]),
        ("probe", &["tower"][..]),
    ];
    for (part, fields) in left_out {
        if let Some(Value::Object(part)) = value.get_mut(part) {
            for field in fields {
                part.remove(*field);
            }
        }
    }
    value
}

/// Returns the value with the keys of every object in byte order.
pub(super) fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect::<Map<_, _>>())
        }
        Value::Array(array) => Value::Array(array.iter().map(sorted).collect()),
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{computing, probe, spec};
    use super::*;
    use crate::domain::{ProbeClassifier, ProbeSpec};

    #[test]
    fn names_for_people_do_not_make_another_run() {
        let mut renamed = spec();
        renamed.model.name = "elsewhere/the-same-weights".into();
        renamed.encoder.as_mut().unwrap().name = "another name".into();
        assert_eq!(identity(&renamed), identity(&spec()));
        let on = |tower: &str| RunSpec { probe: Some(ProbeSpec { tower: tower.into(), ..probe() }), ..spec() };
        assert_eq!(identity(&on("blake3:a")), identity(&on("blake3:b")), "it follows from weights and adapter");
    }

    #[test]
    fn every_other_field_makes_another_run() {
        let changes: [fn(&mut RunSpec); 15] = [
            |spec| spec.model.weights = Some("blake3:x".into()),
            |spec| spec.model.adapter = Some("blake3:a".into()),
            |spec| spec.model.merged = true,
            |spec| spec.model.tokenizer = None,
            |spec| spec.model.chat_template = None,
            |spec| spec.model.preprocessing["size"] = 336.into(),
            |spec| spec.encoder = None,
            |spec| spec.datasets[0].split = "train".into(),
            |spec| spec.datasets[0].prompts[0].text.push('x'),
            |spec| spec.max_new_tokens += 1,
            |spec| spec.computing = computing("bf16", "cpu"),
            |spec| spec.judges[0].model = "rules/2".into(),
            |spec| spec.label_scoring_version = 2,
            |spec| spec.probe = Some(probe()),
            |spec| spec.probe = Some(ProbeSpec { classifier: ProbeClassifier::Knn, ..probe() }),
        ];
        let mut seen = vec![identity(&spec())];
        for change in changes {
            let mut changed = spec();
            change(&mut changed);
            let hash = identity(&changed);
            assert!(!seen.contains(&hash));
            seen.push(hash);
        }
    }

    #[test]
    fn the_order_of_keys_does_not_matter() {
        let mut reordered = spec();
        let Value::Object(parameters) = &spec().model.preprocessing else { panic!("parameters are an object") };
        reordered.model.preprocessing =
            Value::Object(parameters.iter().rev().map(|(key, value)| (key.clone(), value.clone())).collect());
        assert_ne!(reordered.model.preprocessing.to_string(), spec().model.preprocessing.to_string());
        assert_eq!(identity(&reordered), identity(&spec()));
    }

    /// Resuming across versions of `emt` depends on it.
    #[test]
    fn the_identity_of_a_known_run_stays_as_it_is() {
        assert_eq!(identity(&spec()), "blake3:6d4f07ae013ba65032dac4e599b265b2551ec3e3c83341631ed4113f52f03fb4");
    }
}
