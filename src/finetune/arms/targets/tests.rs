use super::*;

const Q: &str = "language_model.layers.1.self_attn.q_proj";
const GATE: &str = "language_model.layers.1.mlp.gate_proj";
const DOWN: &str = "language_model.layers.1.mlp.down_proj";

#[test]
fn targets_choose_maps_by_kind_pattern_and_layer() {
    for (targets, n_frozen, expected) in [
        ("all", 0, [true, true, true]),
        ("attention", 0, [true, false, false]),
        ("gate-up", 0, [false, true, false]),
        (r"layers\.1\..*(q|down)_proj$", 0, [true, false, true]),
        ("all", 2, [false, false, false]),
        ("all", 1, [true, true, true]),
    ] {
        let chosen = Chosen::new(&Targets::from(targets.to_owned()), n_frozen).unwrap();
        assert_eq!([Q, GATE, DOWN].map(|module| chosen.has_map(module).unwrap()), expected, "{targets} {n_frozen}");
    }
    let error = Chosen::new(&Targets::Matching("(".to_owned()), 0).err().unwrap();
    assert!(format!("{error:#}").contains("gate-up"), "{error:#}");
}

#[test]
fn norms_embeddings_and_head_train_only_with_all_layers() {
    let has = |targets: &str, n_frozen, name: &str, shape: &[usize]| {
        Chosen::new(&Targets::from(targets.to_owned()), n_frozen).unwrap().has_tensor(name, shape).unwrap()
    };
    for name in ["language_model.embed_tokens.weight", "lm_head.weight", "language_model.norm.weight"] {
        assert!(has("all", 0, name, &[4, 4]) && !has("all", 1, name, &[4, 4]) && !has("attention", 0, name, &[4, 4]));
    }
    let norm = "language_model.layers.1.input_layernorm.weight";
    assert!(has("all", 1, norm, &[4]) && !has("all", 2, norm, &[4]) && !has("attention", 0, norm, &[4]));
    assert!(has("attention", 0, &format!("{Q}.bias"), &[4]) && !has("gate-up", 0, &format!("{Q}.bias"), &[4]));
}
