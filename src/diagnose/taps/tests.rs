//! Gradient maps and the Modality Integration Rate against transformers.

use std::path::Path;

use candle_core::Device;
use serde_json::Value;

use super::cam::site_values;
use super::watches::StateTap;
use super::*;
use crate::dataset::{self, Catalog, DataRoots, OpenRequest};
use crate::domain::Prompt;
use crate::model::Placement;
use crate::model::checkpoint::overlay::Overlay;
use crate::model::checkpoint::weights::testing::{golden, read_json, rgb_image, shared};
use crate::model::checkpoint::weights::{Adapter, Checkpoint};
use crate::model::families::{FAMILIES, OpenedModel, RenderedPrompt};
use crate::model::layers::{Site, Watch, Watched};
use crate::model::vision::preprocess::PixelLimits;
use crate::prompting;
use crate::stats::{CamWeights, cam_heat};

/// An image of the shared datasets, by an id such as `mnist/test/00003` or `imagenet20/val/alp/val_2354.JPEG`, with its dataset.
fn sample(shared: &Path, id: &str) -> (dataset::Dataset, RgbImage) {
    let mut parts = id.splitn(3, '/');
    let (name, split, rest) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let roots = DataRoots { data: Some(shared.join("data")), ..DataRoots::default() };
    let data = shared.join("data").join(name);
    let place = if name == "cifar100" { data.join("cifar100_test_png.zip") } else { data.join(split) };
    let folder = place.display().to_string();
    let (text, split) = if rest.contains('/') { (folder.as_str(), None) } else { (name, Some(split)) };
    let request = OpenRequest { text, split, labels_file: None, ..OpenRequest::default() };
    let dataset = dataset::open(&Catalog::embedded(), &roots, &request).unwrap();
    let position = dataset.samples.iter().position(|sample| sample.id.ends_with(&format!("/{rest}"))).unwrap();
    let image = dataset.read(position).unwrap();
    (dataset, image)
}

/// The small LLaVA, and the same with an adapter.
fn pair(shared: &Path, adapter: &Path) -> Pair {
    let base = Checkpoint::open(shared.join("models/tiny-llava")).unwrap();
    let opened = OpenedModel::open(&base, None, None).unwrap();
    let family = FAMILIES.iter().find(|family| family.name == opened.family).unwrap();
    let adapter = Adapter::open(adapter, family.canonical, &opened.weights).unwrap();
    let overlay = adapter.overlay(&Placement::cpu(), true).unwrap();
    let mut models = opened.load_all(vec![Overlay::default(), overlay], &Placement::cpu()).unwrap();
    Pair { candidate: models.pop(), base: models.pop().unwrap(), shares_tower: true }
}

fn u32s(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn assert_near(found: f64, expected: f64, largest: f64, what: &str) {
    assert!((found - expected).abs() < 1e-4 * largest, "{what}: {found}, and the reference has {expected}");
}

#[test]
fn gradient_maps_are_those_of_transformers() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("fixtures/diagnose");
    let reference = read_json(&folder.join("cam.json"));
    let tensors = candle_core::safetensors::load(folder.join("cam.safetensors"), &Device::Cpu).unwrap();
    let pair = pair(&shared, &shared.join("models/adapters/lora-cifar10"));
    for (number, image) in reference["images"].as_array().unwrap().iter().enumerate() {
        let (dataset, pixels) = sample(&shared, image["sample"].as_str().unwrap());
        let prompt: Prompt = prompting::load("emt").unwrap().render(&dataset.noun, &dataset.labels).unwrap();
        for (name, model) in ["base", "lora-cifar10"].into_iter().zip([&pair.base, pair.candidate.as_ref().unwrap()]) {
            let rendered = model.dialogue.render_conversation(&Conversation::about_one_image(&prompt.text)).unwrap();
            let input = model.preprocessor.prepare(&pixels);
            let found = site_values(model, &rendered, &input, &u32s(&image["content_ids"])).unwrap();
            let sites: Vec<&str> = found.iter().map(|of| of.site.as_str()).collect();
            let expected =
                ["tower.0", "tower.1", "tower.2", "tower.3", "tower.4", "language.0", "language.1", "language.2"];
            assert_eq!(sites, expected);
            for (place, of) in found.iter().enumerate() {
                // The reference has the language model first.
                let at = (place + 3) % 8;
                let heats = tensors[&format!("{name}.{number}.logit.heat")].get(at).unwrap();
                for (kind, weights) in [(0, CamWeights::Paper), (1, CamWeights::Code)] {
                    let heat = cam_heat(&of.activations, &of.gradients, of.n_channels, weights).unwrap();
                    let expected = heats.get(kind).unwrap().to_vec1::<f32>().unwrap();
                    assert_eq!(heat.map.len(), expected.len());
                    for (found, expected) in heat.map.iter().zip(expected) {
                        // Maps are divided by their largest value, which may be small.
                        assert!((found - f64::from(expected)).abs() < 2e-3, "{name} {number} {} {kind}", of.site);
                    }
                }
                let short = of.site.replace("tower.", "vision").replace("language.", "lm");
                let Some(gradient) = tensors.get(&format!("{name}.{number}.logit.{short}.grad")) else { continue };
                let expected = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                for (found, expected) in of.gradients.iter().zip(expected) {
                    assert_near(*found, f64::from(expected), f64::from(largest), &of.site);
                }
            }
        }
    }
}

/// Adds a fixed tensor at the input of the feed-forward half of one layer.
struct Shift {
    layer: usize,
    added: Tensor,
}

impl Watch for Shift {
    fn visits(&self, site: Site, layer: usize) -> bool {
        (site, layer) == (Site::MlpInput, self.layer)
    }

    fn at(&mut self, _: Site, _: usize, x: Tensor) -> candle_core::Result<Tensor> {
        x + &self.added
    }
}

/// The sum of the answer's logits if `shift` is added in the tower or in the language model.
fn shifted_sum(
    model: &Model,
    prompt: &RenderedPrompt,
    image: &ImageInput,
    answer: &[u32],
    shift: (bool, Shift),
) -> f64 {
    let (is_tower, mut shift) = shift;
    let mut still = Shift { layer: usize::MAX, added: shift.added.clone() };
    let (tower, language) = if is_tower { (&mut shift, &mut still) } else { (&mut still, &mut shift) };
    let seen = model.mllm.see_watched(&[image], Watched::by(tower)).unwrap();
    let rows = model.rows(prompt, &seen).unwrap();
    let forced = passes::followed(model, &rows, &[&answer[..answer.len() - 1]]).unwrap();
    let hidden = passes::pass(model, &forced, language).unwrap().squeeze(0).unwrap();
    let wanted = hidden.narrow(0, rows[0].n_tokens() - 1, answer.len()).unwrap().contiguous().unwrap();
    let logits = numbers::rows(&model.mllm.decoder().logits(&wanted).unwrap()).unwrap();
    logits.iter().zip(answer).map(|(logits, &token)| f64::from(logits[token as usize])).sum()
}

#[test]
fn gradients_agree_with_central_differences_in_the_tower_and_in_the_language_model() {
    let Some(shared) = shared() else { return };
    let pair = pair(&shared, &shared.join("models/adapters/lora-cifar10"));
    let (model, (dataset, pixels)) = (&pair.base, sample(&shared, "cifar10/test/00001"));
    let prompt: Prompt = prompting::load("emt").unwrap().render(&dataset.noun, &dataset.labels).unwrap();
    let rendered = model.dialogue.render_conversation(&Conversation::about_one_image(&prompt.text)).unwrap();
    let (input, answer) = (model.preprocessor.prepare(&pixels), [641]);
    let found = site_values(model, &rendered, &input, &answer).unwrap();
    let n_image = found[0].gradients.len() / found[0].n_channels;
    for (site, is_tower, layer) in [("tower.2", true, 2), ("language.1", false, 1)] {
        let of = found.iter().find(|of| of.site == site).unwrap();
        let (n_before, n_tokens) = match is_tower {
            true => (1, n_image + 1),
            false => {
                let rows = model.rows(&rendered, &model.mllm.see(&[&input]).unwrap()).unwrap();
                (rows[0].spans.image_positions()[0], rows[0].n_tokens())
            }
        };
        let norm = of.gradients.iter().map(|value| value * value).sum::<f64>().sqrt();
        let step = 0.05 / norm;
        let moved = |sign: f64| {
            let mut added = vec![0f32; n_tokens * of.n_channels];
            for (place, gradient) in of.gradients.iter().enumerate() {
                added[n_before * of.n_channels + place] = (sign * step * gradient) as f32;
            }
            let added = Tensor::from_vec(added, (1, n_tokens, of.n_channels), &Device::Cpu).unwrap();
            shifted_sum(model, &rendered, &input, &answer, (is_tower, Shift { layer, added }))
        };
        let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
        assert!(
            (slope - norm * norm).abs() < 0.02 * norm * norm,
            "{site}: {slope}, and the gradient says {}",
            norm * norm
        );
    }
}

#[test]
fn choices_under_several_wordings_are_those_of_the_reference() {
    let Some(shared) = shared() else { return };
    let reference = read_json(&shared.join("fixtures/diagnose/wording.json"));
    let models = pair(&shared, &shared.join("models/adapters/lora-cifar10"));
    for (name, model) in [("base", &models.base), ("lora-cifar10", models.candidate.as_ref().unwrap())] {
        for set in ["mnist", "cifar10"] {
            let of_set = &reference["sets"][set];
            let ids: Vec<&str> = of_set["samples"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
            let (dataset, _) = sample(&shared, ids[0]);
            let images: Vec<_> =
                (0..ids.len()).map(|position| model.preprocessor.prepare(&dataset.read(position).unwrap())).collect();
            let seen = model.mllm.see(&images.iter().collect::<Vec<_>>()).unwrap();
            let prompt = prompting::load("emt").unwrap().render(&dataset.noun, &dataset.labels).unwrap();
            let conversation = Conversation::about_one_image(&prompt.text);
            let labels: Vec<&str> = dataset.labels.names().collect();
            // Wordings with an article depend on the label.
            let wordings = of_set[name].as_object().unwrap().iter().filter(|(wording, _)| !wording.contains("{a}"));
            for (wording, expected) in wordings {
                let words = if wording.is_empty() { String::new() } else { format!("{wording} ") };
                let worded: Vec<String> = labels.iter().map(|label| format!("{words}{label}")).collect();
                let question = Question::new(model, &conversation, &worded, "").unwrap();
                let rows = model.rows(&question.prompt, &seen).unwrap();
                let rows = passes::followed(model, &rows, &vec![question.shared.as_slice(); rows.len()]).unwrap();
                let logits = passes::last_logits(
                    model,
                    &rows,
                    &mut Shift {
                        layer: usize::MAX,
                        added: Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap(),
                    },
                )
                .unwrap();
                let choice = |logits: &Vec<f32>| {
                    let of = |label: &usize| logits[question.decision[*label] as usize];
                    labels[(0..labels.len()).max_by(|a, b| of(a).total_cmp(&of(b))).unwrap()]
                };
                let found: Vec<&str> = logits.iter().map(choice).collect();
                let expected: Vec<&str> =
                    expected["choice"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
                assert_eq!(found, expected, "{name} {set} `{wording}`");
            }
        }
    }
}

#[test]
fn the_modality_integration_rate_is_that_of_the_reference_by_both_methods() {
    let Some(shared) = shared() else { return };
    let reference = read_json(&shared.join("fixtures/diagnose/mir.json"));
    let pairs: Vec<(RgbImage, String)> = reference["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (sample(&shared, pair["sample"].as_str().unwrap()).1, pair["text"].as_str().unwrap().to_owned()))
        .collect();
    let name = "lora-cifar10";
    let models = pair(&shared, &shared.join("models/adapters").join(name));
    for (method, key) in [(MirMethod::Exact, "exact_replace"), (MirMethod::Published, "fast_replace")] {
        let found = mir(&models, &pairs, method).unwrap();
        for (model, rate) in [("base", found.baseline), (name, found.candidate)] {
            let expected = reference["models"][model]["mir"][key].as_f64().unwrap();
            assert_near(rate.unwrap(), expected, 1.0, &format!("{model} {key}"));
        }
        for (layer, expected) in found.layers.iter().zip(reference["models"][name]["layers"].as_array().unwrap()) {
            let of = &expected["replace"];
            let terms = ["mean_gap", "trace_vision", "trace_text"].map(|term| of[term].as_f64().unwrap());
            for (found, expected) in layer.terms_candidate.unwrap().iter().zip(terms) {
                assert_near(*found, expected, expected.abs().max(1e-3), &format!("layer {} {key}", layer.layer));
            }
        }
        if method == MirMethod::Exact {
            let expected = reference["models"]["base"]["fid_0"].as_f64().unwrap();
            assert_near(found.layers[0].baseline, expected, expected, "fid of the embeddings");
        }
    }
    assert!(mir(&models, &pairs[..1], MirMethod::Exact).unwrap_err().to_string().contains("too few"));
}

/// A small model of our own, within its own pixel limits if it has some.
fn small_model(dir: &Path) -> Model {
    let size = read_json(&dir.join("processor_config.json"))["image_processor"]["size"].clone();
    let limits = PixelLimits {
        min_pixels: size["shortest_edge"].as_u64().filter(|_| !size["longest_edge"].is_null()),
        max_pixels: size["longest_edge"].as_u64().filter(|_| !size["shortest_edge"].is_null()),
    };
    let checkpoint = Checkpoint::open(dir).unwrap();
    let opened = OpenedModel::open_within(&checkpoint, None, None, &limits, Default::default()).unwrap();
    opened.load(&Placement::cpu()).unwrap()
}

#[test]
fn lens_and_flow_of_other_families_are_those_of_transformers() {
    let reference = read_json(&golden("inside.json"));
    let tokens = u32s(&reference["tokens"]);
    for (family, expected) in reference["families"].as_object().unwrap() {
        let dir = golden("fixtures").join(family);
        let model = small_model(&dir);
        let mut images: Vec<_> =
            std::fs::read_dir(dir.join("images")).unwrap().map(|file| file.unwrap().path()).collect();
        images.sort();
        let seen = model.mllm.see(&[&model.preprocessor.prepare(&rgb_image(&images[0]))]).unwrap();
        let text = read_json(&dir.join("reference.json"))["prompts"]["prompt."].as_str().unwrap().to_owned();
        let rows = model.rows(&model.dialogue.prompt_of(text, None).unwrap(), &seen).unwrap();
        // An answer of one token asks for the attention of the prompt's last row.
        let mut tap = StateTap::new(&rows, Some((&[vec![0]], FlowRule::PAPER)));
        passes::pass(&model, &rows, &mut tap).unwrap();
        let (lens, flow) = (expected["lens"].as_array().unwrap(), expected["flow"].as_array().unwrap());
        assert_eq!((tap.last.len(), tap.flow.len()), (lens.len(), flow.len()), "{family}");
        for (state, (hidden, expected)) in tap.last.iter().zip(lens).enumerate() {
            let logits = numbers::rows(&model.mllm.decoder().lens(hidden).unwrap()).unwrap();
            for (&token, expected) in tokens.iter().zip(expected.as_array().unwrap()) {
                let (found, _) = numbers::log_probability_and_rank(&logits[0], token);
                let expected = expected.as_f64().unwrap();
                assert_near(found, expected, expected.abs().max(1.0), &format!("{family}, lens of state {state}"));
            }
        }
        for (layer, (found, expected)) in tap.flow.iter().zip(flow).enumerate() {
            for (found, expected) in found[0].iter().zip(expected.as_array().unwrap()) {
                assert_near(*found, expected.as_f64().unwrap(), 1.0, &format!("{family}, flow of layer {layer}"));
            }
        }
    }
}
