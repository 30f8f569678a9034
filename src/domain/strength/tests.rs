use super::*;

fn share(value: f64) -> Share {
    Share::new(value).unwrap()
}

#[test]
fn lines_grow_over_the_layers_of_the_language_model_and_nowhere_else() {
    let lines = Strength::lines(share(0.25));
    let layer = |layer: usize| format!("language_model.layers.{layer}.self_attn.q_proj");
    for (at, expected) in [(0, 0.25), (1, 0.4375), (2, 0.625), (4, 1.0)] {
        assert!((lines.of(&layer(at), 5) - expected).abs() < 1e-12, "{at}");
    }
    for elsewhere in [
        "multi_modal_projector.linear_2.weight",
        "vision_tower.vision_model.encoder.layers.3.mlp.fc1",
        "language_model.norm.weight",
        "lm_head.weight",
    ] {
        assert_eq!(lines.of(elsewhere, 5), 0.25, "{elsewhere}");
    }
    assert_eq!(lines.of(&layer(0), 1), 0.25, "a single layer is the first");
    assert_eq!(Strength::Scale(share(0.3)).of(&layer(4), 5), 0.3);
}

#[test]
fn the_ends_are_the_base_and_the_candidate() {
    assert!(Strength::Scale(Share::ALL).is_whole() && Strength::lines(Share::ALL).is_whole());
    assert!(Strength::Scale(Share::NONE).is_none());
    assert!(!Strength::lines(Share::NONE).is_none(), "the last layer keeps its change");
    assert!(!Strength::lines(Share::NONE).is_whole());
}

#[test]
fn a_share_is_written_as_it_was_typed_and_read_back() {
    let lines = Strength::lines(share(0.9));
    let json = serde_json::to_string(&lines).unwrap();
    assert_eq!(json, r#"{"lines":{"alpha":0.9,"beta":0.1}}"#);
    assert_eq!(serde_json::from_str::<Strength>(&json).unwrap(), lines);
    assert_eq!(serde_json::to_string(&Strength::Scale(share(0.75))).unwrap(), r#"{"scale":0.75}"#);
    for broken in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(Share::new(broken).is_err(), "{broken}");
    }
    assert!(serde_json::from_str::<Strength>(r#"{"scale":2}"#).is_err());
}
