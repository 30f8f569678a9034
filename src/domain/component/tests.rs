use super::*;

#[test]
fn every_kind_of_canonical_name_has_its_component_and_layer() {
    for (name, component, layer) in [
        ("vision_tower.vision_model.encoder.layers.2.mlp.fc1", Some(Component::Tower), None),
        ("multi_modal_projector.linear_1.weight", Some(Component::Projector), None),
        ("language_model.embed_tokens", Some(Component::Embeddings), None),
        ("language_model.layers.11.self_attn.q_proj", Some(Component::Attention), Some(11)),
        ("language_model.layers.0.mlp.down_proj.weight", Some(Component::Mlp), Some(0)),
        ("language_model.layers.3.input_layernorm.weight", Some(Component::Norms), Some(3)),
        ("language_model.norm.weight", Some(Component::Norms), None),
        ("language_model.virtual_tokens", Some(Component::Embeddings), None),
        ("language_model.virtual_keys_and_values", Some(Component::Attention), None),
        ("language_model.layers.1.modality_layernorm.scale", Some(Component::Norms), Some(1)),
        ("lm_head.weight", Some(Component::Head), None),
        ("something.else", None, None),
    ] {
        assert_eq!((Component::of(name), layer_of(name)), (component, layer), "{name}");
    }
}

#[test]
fn a_part_uses_its_components_and_leaves_layers_out() {
    let attention = "language_model.layers.1.self_attn.q_proj";
    let part = |components: &[Component], layers: &[usize]| ModelPart {
        components: Some(components.iter().copied().collect()),
        without_layers: layers.iter().copied().collect(),
        ..ModelPart::default()
    };
    assert!(ModelPart::default().is_whole() && ModelPart::default().uses(attention));
    assert!(part(&[Component::Attention], &[]).uses(attention));
    assert!(!part(&[Component::Mlp], &[]).uses(attention));
    assert!(!part(&[Component::Attention], &[1]).uses(attention));
    assert_eq!(serde_json::to_value(ModelPart::default()).unwrap(), serde_json::json!({}));
}
