//! Comparison with the `reference2` files of families that cut images into tiles.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::tests::{forward_image, generate_n};
use super::{ImageEmbedding, Model};
use crate::model::checkpoint::weights::testing::{read_json, rgb_image};
use crate::model::language::Pass;
use crate::model::layers::{Site, Watch, Watched, left_padded_mask};
use crate::model::run::prefix::{Padding, batch};
use crate::model::testing::{References, assert_close, ids};
use crate::model::vision::preprocess::ImageInput;

/// The residual stream after each layer, and of every pass.
#[derive(Default)]
pub(super) struct Residuals(Vec<(usize, Tensor)>);

impl Watch for Residuals {
    fn visits(&self, site: Site, _: usize) -> bool {
        site == Site::Residual
    }

    fn at(&mut self, _: Site, layer: usize, x: Tensor) -> candle_core::Result<Tensor> {
        self.0.push((layer, x.clone()));
        Ok(x)
    }
}

impl Residuals {
    /// The state after `layer`, with the rows of all passes in their order.
    fn after(&self, layer: usize) -> Option<Tensor> {
        let parts: Vec<&Tensor> = self.0.iter().filter(|(of, _)| *of == layer).map(|(_, x)| x).collect();
        (!parts.is_empty()).then(|| Tensor::cat(&parts, 0).unwrap())
    }
}

fn first_image(model: &Model, input: &ImageInput) -> ImageEmbedding {
    model.mllm.embed_images(&model.mllm.see(&[input]).unwrap()).unwrap().remove(0)
}

/// Checks every tensor of `reference2` in the folder `dir`. `last_state` computes the tower's last state of an image,
/// and `project` the features `(tiles, positions, hidden)` of what the projector reads.
pub(super) fn check(
    dir: &Path,
    model: &Model,
    last_state: impl Fn(&ImageInput) -> Tensor,
    project: impl Fn(&Tensor) -> Tensor,
    tower_layers: usize,
) {
    let known = read_json(&dir.join("reference2.json"));
    let expected = References::open_second(dir);
    let prompt = model.dialogue.render(known["question"].as_str().unwrap()).unwrap();
    let images = known["images"].as_array().unwrap();
    assert_eq!(images.len(), 5);
    for (index, image) in images.iter().enumerate() {
        let name = |name: &str| format!("{index}.{name}");
        let input = model.preprocessor.prepare(&rgb_image(&dir.join(image.as_str().unwrap())));
        let pixels = &expected[&name("pixel_values")];
        let tiles = Tensor::from_vec(input.values.clone(), pixels.dims(), &Device::Cpu).unwrap();
        assert_close(&tiles, pixels, &name("pixel_values"));
        assert_close(&last_state(&input), &expected[&name("vision_last_hidden_state")], &name("last state"));
        let mut watch = Residuals::default();
        let seen = model.mllm.see_watched(&[&input], Watched::by(&mut watch)).unwrap();
        let features = project(&seen[0].states[0]);
        assert_close(&features, &expected[&name("image_features_projected")], &name("features"));

        let embedded = first_image(model, &input);
        let places: Vec<u32> = match embedded.ids.is_empty() {
            true => (0..embedded.embeddings.dim(0).unwrap() as u32).collect(),
            false => (0..).zip(&embedded.ids).filter(|(_, id)| id.is_none()).map(|(place, _)| place).collect(),
        };
        assert_eq!(places.len() as u64, known["image_tokens"][index].as_u64().unwrap(), "{index}");
        let packed = embedded.embeddings.index_select(&Tensor::new(places, &Device::Cpu).unwrap(), 0).unwrap();
        assert_close(&packed, &expected[&name("packed_image_features")], &name("packed"));
        let row = model.place(&prompt, std::slice::from_ref(&embedded)).unwrap();
        assert_eq!(vec![row.ids.clone()], ids(&expected[&name("input_ids")]), "{index}");
        let (_, logits) = forward_image(model, &prompt, &embedded);
        let last = logits.narrow(1, logits.dim(1).unwrap() - 1, 1).unwrap().squeeze(1).unwrap();
        assert_close(&last, &expected[&name("last_logits")], &name("last_logits"));
        let generated = ids(&expected[&name("generated_ids")]);
        let images = std::slice::from_ref(&embedded);
        assert_eq!(generate_n(model, &[&prompt], images, 12), generated, "{index}");
        if index == 0 {
            assert_close(&logits, &expected["0.all_logits"], "0.all_logits");
            let embeddings = row.embeddings.unsqueeze(0).unwrap();
            assert_close(&embeddings, &expected["0.lm_inputs_embeds"], "0.lm_inputs_embeds");
            let layers: Vec<usize> = (0..tower_layers)
                .filter(|&layer| {
                    let state = watch.after(layer);
                    state.is_some_and(|state| {
                        assert_close(&state, &expected[&format!("0.vision_layer_{layer}")], "a layer of the tower");
                        true
                    })
                })
                .collect();
            assert!(layers.len() >= 2, "{layers:?}");
            check_steps(model, row, &generated[0], &expected);
        }
    }
}

/// Checks the states after each layer of the language model, and the logits of each step.
fn check_steps(model: &Model, row: crate::model::run::prefix::PromptRow, generated: &[u32], expected: &References) {
    let n_prompt = row.n_tokens();
    let said = model.mllm.decoder().embed(&generated[..generated.len() - 1]).unwrap();
    let row = row.followed_by(&said).unwrap();
    let n = row.n_tokens();
    let input = batch(&[row], n, Padding::Left).unwrap();
    let mask = left_padded_mask(&[0], n, n, DType::F32, &Device::Cpu).unwrap();
    let language = model.mllm.decoder();
    let mut watch = Residuals::default();
    let hidden = language.forward(Pass::new(&input).masked(&mask).watched(&mut Watched::by(&mut watch))).unwrap();
    for layer in 0..2 {
        let state = watch.after(layer).unwrap().narrow(1, 0, n_prompt).unwrap();
        assert_close(&state, &expected[&format!("0.lm_layer_{layer}")], "a layer of the language model");
    }
    let steps = hidden.narrow(1, n_prompt - 1, generated.len()).unwrap().contiguous().unwrap();
    assert_close(&language.logits(&steps).unwrap(), &expected["0.step_logits"], "0.step_logits");
}
