//! Tests of `image_attention`.

use std::path::Path;

use super::*;
use crate::dataset::{self, Catalog, DataRoots, OpenRequest};
use crate::domain::{Conversation, RgbImage};
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{read_json, shared};
use crate::model::checkpoint::weights::{Checkpoint, Miniature, open_checkpoint};
use crate::model::families::{Model, OpenedModel};
use crate::model::layers::Watched;
use crate::model::testing::assert_close;
use crate::prompting;

/// The logits of the next token after prompts about `images`.
fn logits(model: &Model, question: &str, images: &[RgbImage], attention: ImageAttention) -> Vec<Vec<f32>> {
    let prompt = model.dialogue.render_conversation(&Conversation::about_one_image(question)).unwrap();
    let inputs: Vec<_> = images.iter().map(|image| model.preprocessor.prepare(image)).collect();
    let seen = model.mllm.see(&inputs.iter().collect::<Vec<_>>()).unwrap();
    let rows = model.rows(&prompt, &seen).unwrap();
    let mut watch = RestrictedAttention::new(attention, &rows);
    let watch = watch.as_mut().map_or_else(Watched::by_none, |watch| Watched::by(watch));
    model.mllm.read(None, &rows, 1, watch).unwrap().next_logits(model.mllm.decoder()).unwrap()
}

fn pictures() -> [RgbImage; 2] {
    [7919, 104_729].map(|step| {
        let numbers = (0..32 * 32 * 3).map(|number| (number * step % 251) as u8).collect();
        RgbImage::new(32, 32, numbers).unwrap()
    })
}

#[test]
fn without_any_position_pixels_change_nothing_and_with_all_positions_nothing_changes() {
    let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap();
    let model = OpenedModel::open(&checkpoint, None, None).unwrap().load(&Placement::cpu()).unwrap();
    let pass = |attention| logits(&model, "What is it?", &pictures(), attention);
    let blind = pass(ImageAttention::Truncated { from_layer: 0, n_kept: 0 });
    assert_eq!(blind[0], blind[1], "to the bit");
    let full = pass(ImageAttention::Full);
    assert_ne!(full[0], full[1]);
    for from_layer in [1, 2] {
        let all = pass(ImageAttention::Truncated { from_layer, n_kept: 10_000 });
        for (all, full) in all.iter().flatten().zip(full.iter().flatten()) {
            assert!((all - full).abs() < 1e-3, "{all} {full}");
        }
    }
    let of_no_layer = pass(ImageAttention::SelfOnly(Some([9, 10])));
    assert_eq!(of_no_layer, full);
    assert_ne!(pass(ImageAttention::SelfOnly(None)), full);
}

#[test]
fn restricted_models_say_what_those_of_transformers_say() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("fixtures/diagnose");
    let model = Checkpoint::open(shared.join("models/tiny-llava")).unwrap();
    let model = OpenedModel::open(&model, None, None).unwrap().load(&Placement::cpu()).unwrap();
    let read = |name: &str| candle_core::safetensors::load(folder.join(name), &Device::Cpu).unwrap();
    let (truncated, own) = (read("truncation.safetensors"), read("ee.safetensors"));
    let settings = read_json(&folder.join("truncation.json"))["settings"].clone();
    for name in ["mnist", "cifar10"] {
        let roots = DataRoots { data: Some(shared.join("data")), ..DataRoots::default() };
        let request = OpenRequest { text: name, split: Some("test"), ..OpenRequest::default() };
        let dataset = dataset::open(&Catalog::embedded(), &roots, &request).unwrap();
        let images: Vec<RgbImage> = (0..4).map(|position| dataset.read(position).unwrap()).collect();
        let prompt = prompting::load("emt").unwrap().render(&dataset.noun, &dataset.labels).unwrap();
        let check = |attention: ImageAttention, expected: &Tensor, what: &str| {
            let found = logits(&model, &prompt.text, &images, attention);
            assert_close(&Tensor::new(found, &Device::Cpu).unwrap(), expected, &format!("{name} {what}"));
        };
        for setting in settings.as_array().unwrap() {
            let [from_layer, n_kept]: [usize; 2] = serde_json::from_value(setting.clone()).unwrap();
            if n_kept == 64 {
                continue;
            }
            let expected = &truncated[&format!("base.{name}.L{from_layer}.K{n_kept}.first_logits")];
            check(ImageAttention::Truncated { from_layer, n_kept }, expected, &format!("{setting}"));
        }
        for (layers, key) in [(None, "all"), (Some([0, 2]), "early")] {
            let expected = &own[&format!("base.{name}.{key}.first_logits")];
            check(ImageAttention::SelfOnly(layers), expected, key);
        }
    }
}
