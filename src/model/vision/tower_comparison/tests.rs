use super::*;

#[test]
fn a_layer_is_named_up_to_its_number() {
    assert_eq!(layer_of("encoder.layers.5.mlp.fc1.weight"), "encoder.layers.5");
    assert_eq!(layer_of("embeddings.class_embedding"), "embeddings");
    assert_eq!(layer_of("post_layernorm.weight"), "post_layernorm");
}

#[test]
fn changes_are_told_by_median_and_largest_layer() {
    let comparison = |layers: &[(&str, f64)], tower_equal| TowerComparison {
        relation: EncoderRelation::Ancestor,
        tower_equal,
        largest_change: Some(0.5),
        layers: layers.iter().map(|&(layer, change)| (layer.to_owned(), change)).collect(),
    };
    let layers = [("embeddings", 0.0), ("encoder.layers.0", 0.25), ("encoder.layers.1", 0.5), ("norm", 0.125)];
    let change = comparison(&layers, false).change().unwrap();
    assert_eq!((change.median, change.largest, change.largest_layer.as_str()), (0.1875, 0.5, "encoder.layers.1"));
    assert_eq!(comparison(&layers[..1], true).change(), None);
    assert_eq!(comparison(&[], false).change(), None);
}
