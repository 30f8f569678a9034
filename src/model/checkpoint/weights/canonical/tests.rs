use super::*;

#[track_caller]
fn check(key: &str, expected: &str) {
    assert_eq!(canonical_llava(key), Canonical::Keep(expected.to_owned()), "{key}");
}

#[test]
fn every_stem_of_llava_has_one_name() {
    for stem in
        ["language_model.model.", "model.language_model.", "model.language_model.model.", "model.", "language_model."]
    {
        let leaf = "layers.2.self_attn.q_proj.weight";
        check(&format!("{stem}{leaf}"), &format!("language_model.{leaf}"));
        check(&format!("{stem}norm.weight"), "language_model.norm.weight");
    }
    for stem in [
        "vision_tower.vision_model.",
        "model.vision_tower.vision_model.",
        "vision_tower.",
        "model.vision_tower.",
        "model.vision_tower.vision_tower.vision_model.",
    ] {
        check(&format!("{stem}pre_layrnorm.weight"), "vision_tower.pre_layrnorm.weight");
        check(&format!("{stem}encoder.layers.0.mlp.fc1.bias"), "vision_tower.encoder.layers.0.mlp.fc1.bias");
    }
    check("language_model.lm_head.weight", "lm_head.weight");
    check("lm_head.weight", "lm_head.weight");
    check("model.mm_projector.0.weight", "multi_modal_projector.linear_1.weight");
    check("model.mm_projector.2.bias", "multi_modal_projector.linear_2.bias");
    check("mm_projector.weight", "multi_modal_projector.linear_1.weight");
    check("model.image_newline", "image_newline");
}

#[test]
fn every_stem_of_qwen_has_one_name() {
    let check = |key: &str, expected: &str| {
        assert_eq!(canonical_qwen_vl(key), Canonical::Keep(expected.to_owned()), "{key}");
    };
    for stem in ["model.", "model.language_model.", "language_model.", "model.model.", ""] {
        let leaf = "layers.2.self_attn.q_proj.bias";
        check(&format!("{stem}{leaf}"), &format!("language_model.{leaf}"));
        check(&format!("{stem}norm.weight"), "language_model.norm.weight");
        check(&format!("{stem}embed_tokens.weight"), "language_model.embed_tokens.weight");
    }
    for stem in ["visual", "model.visual", "model.model.visual", "model.language_model.visual"] {
        check(&format!("{stem}.blocks.1.attn.qkv.weight"), "vision_tower.blocks.1.attn.qkv.weight");
        check(&format!("{stem}.patch_embed.proj.weight"), "vision_tower.patch_embed.proj.weight");
        check(&format!("{stem}.merger.mlp.2.bias"), "multi_modal_projector.mlp.2.bias");
        let leaf = "deepstack_merger_list.0.norm.weight";
        check(&format!("{stem}.{leaf}"), &format!("multi_modal_projector.{leaf}"));
    }
    check("lm_head.weight", "lm_head.weight");
    check("model.lm_head.weight", "lm_head.weight");
    assert_eq!(canonical_qwen_vl("visual.rotary_pos_emb.inv_freq"), Canonical::Ignore);
}

#[test]
fn what_is_computed_or_unused_is_left_out_by_name() {
    for key in [
        "vision_tower.vision_model.embeddings.position_ids",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.vision_tower.vision_model.head.probe",
    ] {
        assert_eq!(canonical_llava(key), Canonical::Ignore, "{key}");
    }
    check("model.mm_projector.1.weight", "model.mm_projector.1.weight");
    check("something.else", "something.else");
}

#[test]
fn a_second_tower_has_one_name_in_every_layout() {
    let names = ["q", "k", "v"].map(|w| format!("vision_tower.dino.encoder.layers.3.self_attn.{w}_proj.bias"));
    for stem in ["", "model.dino_tower.vision_tower."] {
        let canonical = |key: &str| match stem {
            "" => canonical_dinov2(key),
            stem => canonical_llava(&format!("{stem}{key}")),
        };
        assert_eq!(canonical("blocks.3.attn.qkv.bias"), Canonical::Rows(names.clone().into()));
        for (key, name) in [
            ("blocks.3.ls2.gamma", "encoder.layers.3.layer_scale2"),
            ("blocks.3.mlp.fc1.weight", "encoder.layers.3.mlp.fc1.weight"),
            ("pos_embed", "embeddings.position_embedding"),
            ("patch_embed.proj.bias", "embeddings.patch_embedding.bias"),
        ] {
            assert_eq!(canonical(key), Canonical::Keep(format!("vision_tower.dino.{name}")), "{stem}{key}");
        }
        for key in ["mask_token", "norm.weight"] {
            assert_eq!(canonical(key), Canonical::Ignore, "{stem}{key}");
        }
    }
    let of_transformers = "encoder.layer.3.attention.attention.key.bias";
    assert_eq!(canonical_dinov2(of_transformers), Canonical::Keep(names[1].clone()));
    assert_eq!(canonical_llava("model.dino_tower.clip_vision_tower.vision_model.x"), Canonical::Ignore);
    check("model.dino_mm_projector.2.bias", "multi_modal_projector.dino.linear_2.bias");
    check("dino_mm_projector.weight", "multi_modal_projector.dino.linear_1.weight");
}

#[test]
fn open_clip_splits_the_fused_projection() {
    assert_eq!(
        canonical_open_clip("transformer.resblocks.1.attn.in_proj_bias"),
        Canonical::Rows(["q", "k", "v"].map(|w| format!("text_model.encoder.layers.1.self_attn.{w}_proj.bias")).into())
    );
    assert_eq!(canonical_open_clip("visual.proj"), Canonical::Transposed("visual_projection.weight".to_owned()));
}
