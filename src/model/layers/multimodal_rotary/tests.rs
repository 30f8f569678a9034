use super::*;

fn read(json: &serde_json::Value) -> Result<MultimodalRotaryConfig> {
    let config = Config::new(json, "config.json");
    MultimodalRotaryConfig::from_config(&config, 16, Sections::InRuns, 1e6, [2, 3, 3])
}

#[test]
fn frequencies_are_shared_out_in_runs_or_in_turns() {
    assert_eq!(axes_of([2, 1, 2], Sections::InRuns), [0, 0, 1, 2, 2]);
    assert_eq!(axes_of([4, 2, 2], Sections::Interleaved), [0, 1, 2, 0, 1, 2, 0, 0]);
}

#[test]
fn every_spelling_of_the_angles_means_the_same() {
    let section = serde_json::json!([2, 3, 3]);
    for json in [
        serde_json::json!({}),
        serde_json::json!({"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": section}}),
        serde_json::json!({"rope_theta": 1e6,
            "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": section}}),
        serde_json::json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "type": "mrope",
            "mrope_section": section}}),
    ] {
        assert_eq!(read(&json).unwrap(), read(&serde_json::json!({})).unwrap(), "{json}");
    }
}

#[test]
fn angles_that_are_not_supported_are_refused_by_name() {
    let yarn = serde_json::json!({"rope_scaling": {"rope_type": "yarn", "mrope_section": [2, 3, 3]}});
    assert!(read(&yarn).unwrap_err().to_string().contains("yarn"));
    for sections in [serde_json::json!([2, 3]), serde_json::json!([2, 3, 4]), serde_json::json!("x")] {
        let json = serde_json::json!({"rope_scaling": {"type": "mrope", "mrope_section": sections}});
        assert!(read(&json).unwrap_err().to_string().contains("mrope_section"), "{json}");
    }
}

#[test]
fn equal_positions_turn_as_in_one_dimension() {
    let config = read(&serde_json::json!({})).unwrap();
    let rotary = MultimodalRotary::new(&config, &Placement::cpu()).unwrap();
    let flat = Tensor::new(&[[0u32, 5, 7]], &Device::Cpu).unwrap();
    let three = Tensor::stack(&[&flat, &flat, &flat], 0).unwrap();
    let (one, other) = (rotary.rows(&flat).unwrap(), rotary.rows(&three).unwrap());
    assert_eq!(one.0.to_vec3::<f32>().unwrap(), other.0.to_vec3::<f32>().unwrap());
    let expected = (7.0 * frequencies(1e6, 8)[3]).cos();
    assert_eq!(one.0.to_vec3::<f32>().unwrap()[0][2][3], expected);
}
