use super::*;

#[test]
fn an_unknown_device_or_type_is_named_with_the_choices() {
    assert!(Placement::new("gpu", "auto").unwrap_err().to_string().contains("cuda:1"));
    assert!(Placement::new("cpu", "int8").unwrap_err().to_string().contains("bf16"));
}

#[test]
fn only_the_matrices_of_a_language_models_layers_are_rounded() {
    let placement = Placement::new("cpu", "bf16+int8").unwrap();
    assert_eq!(placement.compute_type(), "bf16+int8");
    assert_eq!(Placement::new("cpu", "auto+int8").unwrap().compute_type(), "f32+int8");
    assert!(placement.rounds("language_model.layers.31.mlp.down_proj.weight", &[4096, 11008]));
    assert!(!placement.rounds("language_model.layers.31.input_layernorm.weight", &[4096]));
    for name in ["language_model.embed_tokens.weight", "lm_head.weight", "vision_tower.layers.0.mlp.fc1.weight"] {
        assert!(!placement.rounds(name, &[64, 64]), "{name}");
    }
    assert!(!Placement::cpu().rounds("language_model.layers.31.mlp.down_proj.weight", &[4096, 11008]));
}

#[test]
fn a_cpu_computes_in_f32_by_default() {
    assert_eq!(Placement::new("cpu", "auto").unwrap().compute_type(), "f32");
}
