use serde_json::json;

use super::*;

#[test]
fn files_have_two_fields_of_either_kind() {
    let local = Computing::Local { compute_type: "f32+int8".into(), device_kind: "cpu".into() };
    for (computing, fields) in [
        (local, json!({"compute_type": "f32+int8", "device_kind": "cpu"})),
        (Computing::Served, json!({"compute_type": "served", "device_kind": "served"})),
    ] {
        assert_eq!(serde_json::to_value(&computing).unwrap(), fields);
        assert_eq!(serde_json::from_value::<Computing>(fields).unwrap(), computing);
    }
}
