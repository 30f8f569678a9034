//! `emt models`: what is known, offline and without any file.

use serde_json::Value;

use super::support::{self, emt, finish};

#[test]
fn models_encoders_comparators_and_templates_are_listed_with_what_was_verified() {
    let table = support::run(["models"]);
    assert_eq!((table.code, table.stderr.as_str()), (Some(0), ""));
    for part in
        ["models (", "encoders (", "comparators (", "templates (", "llava ", "vicuna_v1 ", "local: transformers"]
    {
        assert!(table.stdout.contains(part), "`{part}` is missing in:\n{}", table.stdout);
    }
    assert!(table.stdout.lines().all(|line| line == line.trim_end()), "{}", table.stdout);

    let listed = support::run(["models", "--format", "json"]);
    let document: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(document["schema"], "emt.models/1");
    let names = |section: &str| -> Vec<&str> {
        document[section].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect()
    };
    assert!(names("models").contains(&"llava") && names("encoders").contains(&"siglip"));
    assert!(names("comparators").contains(&"zero_shot") && names("templates").contains(&"llama_factory_llava"));
    let llava = document["models"].as_array().unwrap().iter().find(|entry| entry["name"] == "llava").unwrap();
    for part in ["about", "local", "adapter", "comparator"] {
        assert!(llava[part].as_str().is_some_and(|text| !text.is_empty()), "{llava}");
    }
    // Every name stands in the table, too.
    for section in ["models", "encoders", "comparators", "templates"] {
        names(section).iter().for_each(|name| assert!(table.stdout.contains(&format!("  {name} ")), "{name}"));
    }
}

#[test]
fn an_unknown_template_is_refused_with_the_known_ones() {
    let shared = support::any_shared();
    let mut command = emt();
    command.arg("eval").arg("--model").arg(shared.join("models/tiny-llava")).args(["--encoder", "none"]);
    command.arg("--data").arg(shared.join("data")).args(["--datasets", "mnist", "--limit", "2"]);
    let finished = finish(command.args(["--template", "ms_swift_lava", "--out", "nowhere"]));
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    for name in ["ms_swift_lava", "ms_swift_llava1_5_hf", "llama_factory_llava", "llava_hf"] {
        assert!(finished.stderr.contains(name), "{}", finished.stderr);
    }
}
