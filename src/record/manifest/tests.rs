use super::super::testing::manifest;
use super::*;

#[test]
fn a_manifest_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    manifest().write(dir.path()).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap().unwrap(), manifest());
}

#[test]
fn a_run_that_does_not_say_what_it_compares_with_is_given_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut older = manifest();
    older.comparable.shift_remove(COMPARATOR);
    older.write(dir.path()).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap().unwrap(), manifest());
}

#[test]
fn the_fields_stand_in_the_order_of_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    manifest().write(dir.path()).unwrap();
    let value: Value = serde_json::from_slice(&fs::read(dir.path().join(NAME)).unwrap()).unwrap();
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["schema", "trials", "identity", "spec", "comparable", "environment", "prompts", "state"]);
    assert_eq!(value["state"], "running");
    assert_eq!(value["prompts"]["mnist"]["model"]["generate"]["ids"], serde_json::json!([1, null, null, 5]));
}

#[test]
fn a_newer_schema_is_refused_by_name_with_the_version_that_wrote_it() {
    for field in ["schema", "trials"] {
        let dir = tempfile::tempdir().unwrap();
        manifest().write(dir.path()).unwrap();
        let path = dir.path().join(NAME);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let newer = value[field].as_str().unwrap().replace("/1", "/2");
        value[field] = newer.clone().into();
        value["environment"]["emt"] = "7.8.9".into();
        value.as_object_mut().unwrap().remove("spec");
        fs::write(&path, value.to_string()).unwrap();
        let message = Manifest::read(dir.path()).unwrap_err().to_string();
        assert!(message.contains(&newer) && message.contains("7.8.9"), "{message}");
    }
}

#[test]
fn a_manifest_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["", "[]", "{\"schema\":3}", "{\"schema\":\"other/9\",\"trials\":\"emt.trial/1\"}", "{\"schema\":"] {
        fs::write(dir.path().join(NAME), text).unwrap();
        let error = Manifest::read(dir.path()).unwrap_err();
        assert!(matches!(error, RecordError::BrokenManifest { .. }), "{error}");
    }
}
