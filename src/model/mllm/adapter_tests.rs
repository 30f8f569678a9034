//! Adapters against the reference tensors of PEFT and of the original repository.

use super::tests::Loaded;
use super::*;
use crate::model::testing::{References, assert_close, ids};
use crate::model::weights::Adapter;
use crate::model::weights::testing::shared;

/// The base of `dir` under the adapter `adapter`.
fn load(dir: &std::path::Path, tower: Option<&std::path::Path>, adapter: &std::path::Path, is_merged: bool) -> Loaded {
    let template = tower.map(|_| "llava_v1");
    let checkpoint = Checkpoint::open(dir).unwrap();
    let tower = tower.map(|tower| Checkpoint::open(tower).unwrap());
    let opened = OpenedModel::open(&checkpoint, tower.as_ref(), template).unwrap();
    let adapter = Adapter::open(adapter, (family_of(&checkpoint).unwrap().canonical), &opened.weights).unwrap();
    assert!(!adapter.changes_nothing(&opened.weights).unwrap());
    let overlay = adapter.overlay(&Placement::cpu(), is_merged).unwrap();
    let mut models = opened.load_all(vec![Overlay::default(), overlay], &Placement::cpu()).unwrap();
    Loaded::new(models.pop().unwrap())
}

#[test]
fn every_variant_of_peft_meets_its_reference_beside_the_base_and_merged() {
    let Some(shared) = shared() else { return };
    let base = shared.join("fixtures/llava");
    let pixels = &References::open(&base)["pixel_values"];
    for variant in
        ["list", "regex_projector", "rslora_patterns", "dora", "all_linear_exclude", "bias_lora_only", "embeddings"]
    {
        let dir = shared.join("fixtures/llava_peft").join(variant);
        let expected = References::open(&dir);
        for (is_merged, name) in [(false, "adapter.first_logits"), (true, "merged_float32.first_logits")] {
            let loaded = load(&base, None, &dir, is_merged);
            let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
            let first = loaded.first_logits(&prompt, pixels);
            assert_close(&first, &expected[name], &format!("{variant} {name}"));
            let generated = loaded.generate(&[&prompt], pixels);
            assert_eq!(generated, ids(&expected["adapter.generated_ids"]), "{variant}");
        }
    }
}

#[test]
fn a_merged_checkpoint_is_an_adapter_of_what_differs() {
    let Some(shared) = shared() else { return };
    let base = shared.join("fixtures/llava");
    let pixels = &References::open(&base)["pixel_values"];
    let expected = References::open(&shared.join("fixtures/llava_peft/regex_projector"));
    for kind in ["float32", "bfloat16", "float16"] {
        let dir = shared.join(format!("fixtures/llava_peft/merged_{kind}_regex_projector"));
        let loaded = load(&base, None, &dir, false);
        let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
        let first = loaded.first_logits(&prompt, pixels);
        if kind == "float32" {
            assert_close(&first, &expected["merged_float32.first_logits"], kind);
        }
    }
}

#[test]
fn the_lora_folder_of_the_original_repository_meets_its_own_code() {
    let Some(shared) = shared() else { return };
    let root = shared.join("fixtures/llava_original");
    let expected = References::open(&root);
    let base = root.join("full_safetensors_sharded");
    for is_merged in [false, true] {
        let loaded = load(&base, Some(&root.join("clip-tower")), &root.join("llava-tiny-lora"), is_merged);
        let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
        let pixels = &expected["pixel_values"];
        assert_close(&loaded.first_logits(&prompt, pixels), &expected["lora_merged.first_logits"], "lora_merged");
        assert_eq!(loaded.generate(&[&prompt], pixels), ids(&expected["lora_merged.generated_ids"]));
    }
}
