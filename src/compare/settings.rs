//! The settings in which two models differ.

use std::collections::BTreeMap;

use serde_json::Value;

use super::FieldDifference;

/// The [`FieldDifference::field`] of a setting.
const FIELD: &str = "settings";

/// Returns the settings in which `candidate` differs from `baseline`, sorted by path
/// (`text_config.rope_parameters.rope_theta`). A setting that a model lacks is null.
pub fn setting_differences(baseline: &Value, candidate: &Value) -> Vec<FieldDifference> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten("", baseline, &mut before);
    flatten("", candidate, &mut after);
    let places: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |of: &BTreeMap<String, Value>, place: &String| of.get(place).cloned().unwrap_or(Value::Null);
    places
        .into_iter()
        .filter(|place| before.get(*place) != after.get(*place))
        .map(|place| FieldDifference {
            field: FIELD.to_owned(),
            place: place.clone(),
            baseline: value(&before, place),
            candidate: value(&after, place),
        })
        .collect()
}

/// The same for display: a tower layer is counted from the end, such as -2 instead of hidden state 23 of 24.
pub fn shown_setting_differences(baseline: &Value, candidate: &Value) -> Vec<FieldDifference> {
    let mut differences = setting_differences(baseline, candidate);
    for difference in &mut differences {
        let Some(above) = difference.place.strip_suffix("vision_feature_layer") else { continue };
        for (value, settings) in [(&mut difference.baseline, baseline), (&mut difference.candidate, candidate)] {
            let mut found = BTreeMap::new();
            flatten("", settings, &mut found);
            let n_layers = found.get(&format!("{above}vision_config.num_hidden_layers")).and_then(Value::as_i64);
            if let Some(n_layers) = n_layers {
                *value = from_the_end(value, n_layers);
            }
        }
    }
    differences
}

/// Counts hidden states of a tower from the end; the first is its embedding. A list of one becomes that one.
fn from_the_end(value: &Value, n_layers: i64) -> Value {
    match value {
        Value::Array(states) => match states.as_slice() {
            [one] => from_the_end(one, n_layers),
            several => several.iter().map(|state| from_the_end(state, n_layers)).collect(),
        },
        state => state.as_i64().map_or_else(|| state.clone(), |state| (state - n_layers - 1).into()),
    }
}

/// Returns the differences as `text_config.rms_norm_eps 1e-5 -> 0.01`, separated by commas.
pub fn settings_in_words(differences: &[FieldDifference]) -> String {
    let of = |value: &Value| if value.is_null() { "absent".to_owned() } else { shortest(value) };
    let told = |one: &FieldDifference| format!("{} {} -> {}", one.place, of(&one.baseline), of(&one.candidate));
    differences.iter().map(told).collect::<Vec<_>>().join(", ")
}

/// A value as JSON; 32-bit numbers have the fewest digits that distinguish them.
fn shortest(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(shortest).collect::<Vec<_>>().join(", ")),
        Value::Number(number) => match number.as_f64().map(|wide| (wide, wide as f32)) {
            Some((wide, narrow)) if number.is_f64() && f64::from(narrow) == wide => format!("{narrow:?}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn flatten(place: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    let Value::Object(fields) = value else {
        if value.is_null() {
            return;
        }
        found.insert(place.to_owned(), value.clone());
        return;
    };
    for (key, value) in fields {
        let below = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
        flatten(&below, value, found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_differ_by_their_paths_and_what_one_lacks_is_absent() {
        let base = json!({"a": {"x": 1, "y": [1, 2]}, "b": true});
        let tuned = json!({"a": {"x": 2, "y": [1, 2], "z": 0.5}, "b": true});
        let found = setting_differences(&base, &tuned);
        assert_eq!(settings_in_words(&found), "a.x 1 -> 2, a.z absent -> 0.5");
        assert!(setting_differences(&base, &base).is_empty());
        let tower =
            |states: &[usize]| json!({"vision_config": {"num_hidden_layers": 24}, "vision_feature_layer": states});
        let told = |before, after| settings_in_words(&shown_setting_differences(&tower(before), &tower(after)));
        assert_eq!(told(&[23], &[22]), "vision_feature_layer -2 -> -3");
        assert_eq!(told(&[23], &[3, 24]), "vision_feature_layer -2 -> [-22, -1]");
        let of = |mean: f32| json!({"mean": [f64::from(mean), 0.5], "crop": null});
        let found = setting_differences(&of(0.48145467), &json!({"mean": [0.5, 0.5], "crop": {"height": 32}}));
        assert_eq!(settings_in_words(&found), "crop.height absent -> 32, mean [0.48145467, 0.5] -> [0.5, 0.5]");
    }
}
