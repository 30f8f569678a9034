//! What a watch sees and changes, and the spans of a prompt's tokens, compared with transformers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor, Var};
use serde_json::Value;

use super::*;
use crate::dataset::{self, Catalog, DataRoots, OpenRequest};
use crate::domain::{Conversation, Turn};
use crate::model::checkpoint::weights::testing::{fixtures, read_json, rgb_image, shared};
use crate::model::checkpoint::weights::{Miniature, open_checkpoint};
use crate::model::language::Pass;
use crate::model::layers::{Mask, PassShape, Site, Watch, causal_mask};
use crate::model::run::prefix::{Padding, batch};
use crate::model::testing::assert_close;
use crate::model::text::template::AroundAnswer;
use crate::model::text::tokenizer::PromptPiece;

fn miniature() -> Model {
    let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap();
    OpenedModel::open(&checkpoint, None, None).unwrap().load(&Placement::cpu()).unwrap()
}

/// A prompt about `image`, with a text after it.
fn row_about(model: &Model, image: &crate::domain::RgbImage) -> PromptRow {
    let seen = model.mllm.see(&[&model.preprocessor.prepare(image)]).unwrap();
    let embedded = model.mllm.embed_images(&seen).unwrap();
    let prompt = model.dialogue.render("What is it?").unwrap();
    let answer = model.mllm.decoder().embed(&[5, 9]).unwrap();
    model.place(&prompt, &embedded).unwrap().followed_by(&answer).unwrap()
}

fn picture() -> crate::domain::RgbImage {
    let numbers = (0..40 * 30 * 3).map(|number| (number * 7919 % 251) as u8).collect();
    crate::domain::RgbImage::new(40, 30, numbers).unwrap()
}

/// Logits `(tokens, vocabulary)` of a whole row.
fn logits(model: &Model, row: &PromptRow, watch: Watched<'_>) -> Tensor {
    let (language, n_tokens) = (model.mllm.decoder(), row.n_tokens());
    let input = batch(std::slice::from_ref(row), n_tokens, Padding::Left).unwrap();
    let mask = causal_mask(n_tokens, input.embeddings.dtype(), input.embeddings.device()).unwrap();
    let mut watch = watch;
    let hidden = language.forward(Pass::new(&input).masked(&mask).watched(&mut watch)).unwrap();
    language.logits(&hidden).unwrap().squeeze(0).unwrap()
}

fn bits(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn furthest(a: &Tensor, b: &Tensor) -> f32 {
    bits(a).iter().zip(bits(b)).fold(0f32, |furthest, (a, b)| furthest.max((a - b).abs()))
}

/// The largest difference as a share of the largest number.
fn share(a: &Tensor, b: &Tensor) -> f32 {
    furthest(a, b) / bits(b).iter().fold(f32::MIN_POSITIVE, |largest, number| largest.max(number.abs()))
}

/// Visits everything, or nothing.
struct Idle {
    visits: bool,
}

impl Watch for Idle {
    fn visits(&self, _: Site, _: usize) -> bool {
        self.visits
    }
}

/// Records what it sees.
#[derive(Default)]
struct Recorder {
    wants_weights: bool,
    seen: BTreeMap<(Site, usize), Tensor>,
    weights: BTreeMap<usize, Vec<Tensor>>,
    shapes: Vec<PassShape>,
}

impl Watch for Recorder {
    fn begins(&mut self, shape: PassShape) {
        self.shapes.push(shape);
    }

    fn at(&mut self, site: Site, layer: usize, x: Tensor) -> candle_core::Result<Tensor> {
        self.seen.insert((site, layer), x.clone());
        Ok(x)
    }

    fn wants_weights(&self, _: usize) -> bool {
        self.wants_weights
    }

    fn weights(&mut self, layer: usize, probabilities: &Tensor) -> candle_core::Result<()> {
        self.weights.entry(layer).or_default().push(probabilities.clone());
        Ok(())
    }
}

/// Adds to one site of one layer.
struct Adds {
    site: Site,
    layer: usize,
    added: Tensor,
}

impl Watch for Adds {
    fn visits(&self, site: Site, layer: usize) -> bool {
        (site, layer) == (self.site, self.layer)
    }

    fn at(&mut self, _: Site, _: usize, x: Tensor) -> candle_core::Result<Tensor> {
        x.broadcast_add(&self.added)
    }
}

/// Hides positions from rows in some layers.
struct Cuts {
    layers: Range<usize>,
    mask: Mask,
}

impl Watch for Cuts {
    fn visits(&self, _: Site, _: usize) -> bool {
        false
    }

    fn mask(&mut self, layer: usize) -> candle_core::Result<Option<Mask>> {
        Ok(self.layers.contains(&layer).then(|| self.mask.clone()))
    }
}

/// The mask of a prompt in which the rows selected by `is_cut` see no position of `hidden`.
fn cut(n_tokens: usize, hidden: &Range<usize>, is_cut: impl Fn(usize) -> bool) -> Mask {
    Mask::of([1, n_tokens, n_tokens], DType::F32, &Device::Cpu, |_, query, key| {
        key <= query && !(is_cut(query) && hidden.contains(&key))
    })
    .unwrap()
}

#[test]
fn a_watch_that_changes_nothing_changes_no_logit() {
    let model = miniature();
    let row = row_about(&model, &picture());
    let without = logits(&model, &row, Watched::by_none());
    let idle = logits(&model, &row, Watched::by(&mut Idle { visits: false }));
    assert_eq!(bits(&idle), bits(&without), "the same kernels run");
    let visited = logits(&model, &row, Watched::by(&mut Idle { visits: true }));
    assert!(share(&visited, &without) < 1e-5, "{}", share(&visited, &without));
    let mut recorder = Recorder { wants_weights: true, ..Recorder::default() };
    let recorded = logits(&model, &row, Watched::by(&mut recorder));
    assert!(share(&recorded, &without) < 1e-5, "{}", share(&recorded, &without));
}

#[test]
fn a_watch_visits_every_site_of_every_layer_and_probabilities_sum_to_one() {
    let model = miniature();
    let row = row_about(&model, &picture());
    let n_tokens = row.n_tokens();
    let mut recorder = Recorder { wants_weights: true, ..Recorder::default() };
    logits(&model, &row, Watched::by(&mut recorder));
    assert_eq!(recorder.shapes, [PassShape { n_rows: 1, n_tokens, n_positions: n_tokens }]);
    let n_layers = recorder.weights.len();
    let expected = |site: &Site| match site {
        Site::Embeddings => vec![0],
        Site::FinalNorm => vec![n_layers],
        _ => (0..n_layers).collect(),
    };
    let expected = Site::ALL.iter().flat_map(|site| expected(site).into_iter().map(move |layer| (*site, layer)));
    assert!(n_layers > 1 && recorder.seen.keys().copied().eq(expected), "{:?}", recorder.seen.keys());
    for (layer, weights) in &recorder.weights {
        let sums = weights[0].sum(D::Minus1).unwrap();
        assert!(furthest(&sums, &sums.ones_like().unwrap()) < 1e-5, "layer {layer}");
        let of_first = bits(&weights[0].narrow(2, 0, 1).unwrap().narrow(3, 1, n_tokens - 1).unwrap());
        assert!(of_first.iter().all(|&weight| weight == 0.0), "no token sees a later one, layer {layer}");
    }
    // A layer's contribution is the difference between the streams after and before it.
    let at = |site, layer| recorder.seen[&(site, layer)].clone();
    let sum = (at(Site::Residual, 0) + at(Site::AttentionOutput, 1)).unwrap();
    assert!(share(&(sum + at(Site::MlpOutput, 1)).unwrap(), &at(Site::Residual, 1)) < 1e-5);
}

#[test]
fn what_a_watch_changes_the_pass_goes_on_with_and_a_changed_shape_is_refused() {
    let model = miniature();
    let row = row_about(&model, &picture());
    let without = logits(&model, &row, Watched::by_none());
    let size = row.embeddings.dim(1).unwrap();
    let added = Tensor::full(0.5f32, size, &Device::Cpu).unwrap();
    for site in Site::ALL {
        let mut adds = Adds { site, layer: usize::from(site == Site::Residual), added: added.clone() };
        if site == Site::FinalNorm {
            let mut recorder = Recorder::default();
            logits(&model, &row, Watched::by(&mut recorder));
            adds.layer = recorder.seen.keys().map(|(_, layer)| *layer).max().unwrap();
        }
        let changed = logits(&model, &row, Watched::by(&mut adds));
        assert!(furthest(&changed, &without) > 1e-3, "{site:?}");
    }
    let mut adds =
        Adds { site: Site::Residual, layer: 0, added: Tensor::zeros((2, 1, 1), DType::F32, &Device::Cpu).unwrap() };
    let input = batch(std::slice::from_ref(&row), row.n_tokens(), Padding::Left).unwrap();
    let error = model.mllm.decoder().forward(Pass::new(&input).watched(&mut Watched::by(&mut adds))).unwrap_err();
    assert!(error.to_string().contains("Residual of layer 0"), "{error}");
}

#[test]
fn gradients_flow_to_what_a_watch_adds_at_any_layer() {
    let model = miniature();
    let row = row_about(&model, &picture());
    for (site, layer) in [(Site::Embeddings, 0), (Site::MlpInput, 1), (Site::Residual, 0)] {
        let zero = Var::zeros((1, row.n_tokens(), row.embeddings.dim(1).unwrap()), DType::F32, &Device::Cpu).unwrap();
        let value = |added: Tensor| {
            let logits = logits(&model, &row, Watched::by(&mut Adds { site, layer, added }));
            logits.get(row.n_tokens() - 1).unwrap().get(7).unwrap()
        };
        let gradients = value(zero.as_tensor().clone()).backward().unwrap();
        let gradient = gradients.get(&zero).expect("a gradient");
        // Along the gradient, the logit rises by its squared norm.
        let step = 1e-2 / gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let moved = |sign: f64| value((gradient * (sign * f64::from(step))).unwrap()).to_scalar::<f32>().unwrap();
        let found = (moved(1.0) - moved(-1.0)) / (2.0 * step);
        let expected = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((found - expected).abs() < 2e-2 * expected, "{site:?} {layer}: {found} {expected}");
    }
}

#[test]
fn a_watch_looks_into_a_prompt_and_into_each_step_of_an_answer() {
    let model = miniature();
    let seen = model.mllm.see(&[&model.preprocessor.prepare(&picture())]).unwrap();
    let images = model.mllm.embed_images(&seen).unwrap();
    let prompt = model.dialogue.render("What is it?").unwrap();
    let row = model.place(&prompt, &images).unwrap();
    let decoding = Decoding { eos_ids: vec![u32::MAX], ..model.dialogue.decoding(4) };
    let rows = [row.clone(), row.clone()];
    let n = row.n_tokens();
    let language = model.mllm.decoder();
    let plain = model.generate(Prefix::read(language, None, &rows, 4).unwrap(), &decoding).unwrap();
    let mut recorder = Recorder { wants_weights: true, ..Recorder::default() };
    let prefix = Prefix::read_watched(language, None, &rows, 4, Watched::by(&mut recorder)).unwrap();
    let watched = model.generate_watched(prefix, &decoding, Watched::by(&mut recorder)).unwrap();
    let ids = |rows: Vec<Result<Generation, LogitsNotFinite>>| {
        rows.into_iter().map(|row| row.unwrap().ids).collect::<Vec<_>>()
    };
    assert_eq!(ids(watched), ids(plain));
    let sizes: Vec<_> = recorder.shapes.iter().map(|shape| (shape.n_rows, shape.n_tokens, shape.n_positions)).collect();
    assert_eq!(sizes, [(2, n, n), (2, 1, n + 1), (2, 1, n + 2), (2, 1, n + 3)]);
    assert_eq!(recorder.weights[&0].last().unwrap().dims()[2..], [1, n + 3]);
}

#[test]
fn a_tower_is_watched_as_a_language_model_is() {
    let model = miniature();
    let input = model.preprocessor.prepare(&picture());
    let plain = model.mllm.see(&[&input]).unwrap().remove(0);
    let mut recorder = Recorder { wants_weights: true, ..Recorder::default() };
    let seen = model.mllm.see_watched(&[&input], Watched::by(&mut recorder)).unwrap().remove(0);
    assert!(share(&seen.states[0], &plain.states[0]) < 1e-5);
    assert!(recorder.weights.len() > 1);
    for weights in recorder.weights.values() {
        let sums = weights[0].sum(D::Minus1).unwrap();
        assert!(furthest(&sums, &sums.ones_like().unwrap()) < 1e-5);
    }
    let added = Tensor::full(0.5f32, plain.states[0].dim(D::Minus1).unwrap(), &Device::Cpu).unwrap();
    let mut adds = Adds { site: Site::Residual, layer: 0, added };
    let changed = model.mllm.see_watched(&[&input], Watched::by(&mut adds)).unwrap().remove(0);
    assert!(furthest(&changed.states[0], &plain.states[0]) > 1e-2);
}

#[test]
fn towers_of_every_family_are_watched_without_a_change() {
    for dir in ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "llava_onevision"].into_iter().flat_map(fixtures) {
        let name = dir.display();
        let model = fixture(&dir);
        let input = model.preprocessor.prepare(&picture());
        let plain = model.mllm.see(&[&input]).unwrap().remove(0);
        let mut recorder = Recorder { wants_weights: true, ..Recorder::default() };
        let seen = model.mllm.see_watched(&[&input], Watched::by(&mut recorder)).unwrap().remove(0);
        for (seen, plain) in seen.states.iter().zip(&plain.states) {
            assert!(share(seen, plain) < 1e-5, "{name}: {}", share(seen, plain));
        }
        assert!(recorder.weights.values().flatten().count() > 0, "{name}");
        for weights in recorder.weights.values().flatten() {
            let sums = weights.sum(D::Minus1).unwrap();
            assert!(furthest(&sums, &sums.ones_like().unwrap()) < 1e-5, "{name}");
        }
    }
}

/// A fixture's model, within its own pixel limits if it has some.
fn fixture(dir: &Path) -> Model {
    let processor = dir.join("processor_config.json");
    let size = if processor.exists() { read_json(&processor)["image_processor"]["size"].clone() } else { Value::Null };
    let limits = PixelLimits {
        min_pixels: size["shortest_edge"].as_u64().filter(|_| !size["longest_edge"].is_null()),
        max_pixels: size["longest_edge"].as_u64().filter(|_| !size["shortest_edge"].is_null()),
    };
    let checkpoint = Checkpoint::open(dir).unwrap();
    let opened = OpenedModel::open_within(&checkpoint, None, None, &limits, Default::default()).unwrap();
    opened.load(&Placement::cpu()).unwrap()
}

fn u32s(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn range(value: &Value) -> Range<usize> {
    let [start, end]: [usize; 2] = serde_json::from_value(value.clone()).unwrap();
    start..end
}

fn ranges(value: &Value) -> Vec<Range<usize>> {
    value.as_array().unwrap().iter().map(range).collect()
}

/// An image of the shared datasets, by an id such as `mnist/test/00003`.
fn sample(shared: &Path, id: &str) -> crate::domain::RgbImage {
    let mut parts = id.split('/');
    let (name, split, number) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let roots = DataRoots { data: Some(shared.join("data")), ..DataRoots::default() };
    let request = OpenRequest { text: name, split: Some(split), labels_file: None, ..OpenRequest::default() };
    dataset::open(&Catalog::embedded(), &roots, &request).unwrap().read(number.parse().unwrap()).unwrap()
}

fn reference_image(shared: &Path, name: &str) -> crate::domain::RgbImage {
    if name.ends_with(".png") { rgb_image(&shared.join(name)) } else { sample(shared, name) }
}

#[test]
fn the_spans_of_prompts_of_every_family_are_those_of_transformers() {
    let Some(shared) = shared() else { return };
    let spans = read_json(&shared.join("fixtures/diagnose/spans.json"));
    for (family, cases) in spans["families"].as_object().unwrap() {
        let folder = if family == "tiny-llava" { "models" } else { "fixtures" };
        let model = fixture(&shared.join(folder).join(family));
        for case in cases["cases"].as_array().unwrap() {
            let images = case["images"].as_array().unwrap();
            let inputs: Vec<ImageInput> = images
                .iter()
                .map(|image| model.preprocessor.prepare(&reference_image(&shared, image.as_str().unwrap())))
                .collect();
            let seen = model.mllm.see(&inputs.iter().collect::<Vec<_>>()).unwrap();
            let images = model.mllm.embed_images(&seen).unwrap();
            let text = case["prompt"].as_str().unwrap();
            let prompt = model.dialogue.prompt_of(text.to_owned(), None).unwrap();
            let question = spans["question"].as_str().unwrap().to_owned();
            let turns = vec![Turn { n_images: images.len(), text: question, answer: None }];
            let rendered = model.dialogue.render_conversation(&Conversation { turns }).unwrap();
            assert_eq!((&rendered.text, &rendered.pieces), (&prompt.text, &prompt.pieces), "{family}");
            let row = model.place(&prompt, &images).unwrap();
            let ids = u32s(&case["ids"]);
            let n_prompt = case["n_prompt"].as_u64().unwrap() as usize;
            assert_eq!(row.ids, ids[..n_prompt], "{family}");
            let row = row.followed_by(&model.mllm.decoder().embed(&ids[n_prompt..]).unwrap()).unwrap();
            let expected = &case["spans"];
            let images: Vec<_> = expected["images"].as_array().unwrap().iter().map(ranges).collect();
            let found = &row.spans;
            assert_eq!(found.images, images, "{family}");
            let parts =
                [("bos", &found.bos), ("system", &found.system), ("user", &found.user), ("answer", &found.answer)];
            for (name, found) in parts {
                assert_eq!(*found, range(&expected[name]), "{family} {name}");
            }
            assert_eq!(found.between(), ranges(&expected["between"]), "{family}");
            assert_eq!(found.n_tokens(), ids.len());
            let error = model.place(&prompt, &[]).unwrap_err();
            assert!(error.to_string().contains("0 images do not fill"), "{error}");
        }
    }
}

/// The prompt of `ids`, in which `image_id` marks image positions.
fn prompt_of_ids(ids: &[u32], image_id: u32) -> RenderedPrompt {
    let of_run = |run: &[u32]| match run[0] == image_id {
        true => PromptPiece::Image,
        false => PromptPiece::Text(run.to_vec()),
    };
    RenderedPrompt {
        tiled_pieces: None,
        text: String::new(),
        pieces: ids.chunk_by(|a, b| (*a == image_id) == (*b == image_id)).map(of_run).collect(),
        ids: ids.iter().map(|&id| Some(id).filter(|&id| id != image_id)).collect(),
        around_answer: AroundAnswer { before: String::new(), after: String::new() },
        image_id: Some(image_id),
        question_ids: Vec::new(),
        has_bos: true,
    }
}

/// A prompt of `ids` about `image`, with `answer` after it.
fn forced(model: &Model, image: &crate::domain::RgbImage, ids: &[u32], image_id: u32, answer: &[u32]) -> PromptRow {
    let seen = model.mllm.see(&[&model.preprocessor.prepare(image)]).unwrap();
    let row = model.place(&prompt_of_ids(ids, image_id), &model.mllm.embed_images(&seen).unwrap()).unwrap();
    if answer.is_empty() { row } else { row.followed_by(&model.mllm.decoder().embed(answer).unwrap()).unwrap() }
}

const TINY_LLAVA_IMAGE: u32 = 1000;

#[test]
fn the_streams_and_probabilities_that_a_watch_sees_are_those_of_transformers() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("fixtures/diagnose");
    let model = fixture(&shared.join("models/tiny-llava"));
    let hidden = candle_core::safetensors::load(folder.join("hidden.safetensors"), &Device::Cpu).unwrap();
    let flow = candle_core::safetensors::load(folder.join("flow.safetensors"), &Device::Cpu).unwrap();
    let described = read_json(&folder.join("hidden.json"));
    let of_flow = read_json(&folder.join("flow.json"));
    for (number, image) in described["images"].as_array().unwrap().iter().enumerate() {
        let (ids, answer) = (u32s(&image["ids"]), u32s(&image["answer_ids"]));
        let n_prompt = image["n_prompt"].as_u64().unwrap() as usize;
        let name = image["sample"].as_str().unwrap();
        let row = forced(&model, &sample(&shared, name), &ids[..n_prompt], TINY_LLAVA_IMAGE, &answer);
        let mut recorder = Recorder { wants_weights: true, ..Recorder::default() };
        logits(&model, &row, Watched::by(&mut recorder));
        let at = |site, layer| recorder.seen[&(site, layer)].squeeze(0).unwrap();
        let expected = &hidden[&format!("base.{number}.h")];
        for state in 0..=4 {
            let found = if state == 0 { at(Site::Embeddings, 0) } else { at(Site::Residual, state - 1) };
            assert_close(&found, &expected.get(state).unwrap(), &format!("{name}, state {state}"));
        }
        assert_close(&at(Site::FinalNorm, 4), &hidden[&format!("base.{number}.norm")], name);

        let images = of_flow["images"].as_array().unwrap();
        let place = images.iter().position(|of_flow| of_flow["sample"] == image["sample"]);
        let Some(expected) = place.and_then(|place| flow.get(&format!("base.{place}.attention"))) else { continue };
        let first = n_prompt - 1;
        for (layer, weights) in &recorder.weights {
            let rows = weights[0].squeeze(0).unwrap().narrow(1, first, answer.len()).unwrap();
            assert_close(&rows, &expected.get(*layer).unwrap(), &format!("{name}, attention of layer {layer}"));
        }
    }
    let model = fixture(&shared.join("fixtures/qwen2_5_vl"));
    for (number, case) in of_flow["qwen2_5_vl"].as_array().unwrap().iter().enumerate() {
        let (ids, answer) = (u32s(&case["ids"]), u32s(&case["answer_ids"]));
        let n_prompt = case["n_prompt"].as_u64().unwrap() as usize;
        let image = reference_image(&shared, case["image"].as_str().unwrap());
        let image_id = model.dialogue.tokenizer.token_id("<|image_pad|>").unwrap();
        let row = forced(&model, &image, &ids[..n_prompt], image_id, &answer);
        let mut recorder = Recorder { wants_weights: true, ..Recorder::default() };
        logits(&model, &row, Watched::by(&mut recorder));
        let expected = &flow[&format!("qwen2_5_vl.{number}.attention")];
        for (layer, weights) in &recorder.weights {
            let rows = weights[0].squeeze(0).unwrap().narrow(1, n_prompt - 1, answer.len()).unwrap();
            assert_close(&rows, &expected.get(*layer).unwrap(), &format!("qwen2_5_vl {number}, layer {layer}"));
        }
    }
}

/// The log-probability of `token` after the row's last position, from f32 logits.
fn log_probability(logits: &Tensor, token: u32) -> f64 {
    let last: Vec<f64> =
        logits.get(logits.dim(0).unwrap() - 1).unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
    let highest = last.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    last[token as usize] - highest - last.iter().map(|logit| (logit - highest).exp()).sum::<f64>().ln()
}

#[test]
fn rows_that_are_cut_off_from_an_image_answer_as_those_of_transformers() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("fixtures/diagnose");
    let (knockout, hidden) = (read_json(&folder.join("knockout.json")), read_json(&folder.join("hidden.json")));
    let ee = read_json(&folder.join("ee.json"));
    let ee_logits = candle_core::safetensors::load(folder.join("ee.safetensors"), &Device::Cpu).unwrap();
    let model = fixture(&shared.join("models/tiny-llava"));
    for (set, image) in [("mnist", 0), ("cifar10", 2)] {
        let of_set = &knockout["sets"][set];
        let image_span = range(&of_set["image"]);
        let n_prompt = of_set["n_prompt"].as_u64().unwrap() as usize;
        let ids = u32s(&hidden["images"][image]["ids"])[..n_prompt].to_vec();
        let (prefix, decision) = (u32s(&of_set["prefix_ids"]), u32s(&of_set["decision_ids"]));
        for number in 0..3 {
            let name = of_set["samples"][number].as_str().unwrap();
            let row = forced(&model, &sample(&shared, name), &ids, TINY_LLAVA_IMAGE, &prefix);
            let n = row.n_tokens();
            for (rows, first_cut) in [("last", n - 1), ("text", image_span.end)] {
                for case in of_set["base"][rows].as_array().unwrap() {
                    let mask = cut(n, &image_span, |query| query >= first_cut);
                    let mut cuts = Cuts { layers: range(&case["window"]), mask };
                    let found = log_probability(&logits(&model, &row, Watched::by(&mut cuts)), decision[number]);
                    let expected = case["decision_log_prob"][number].as_f64().unwrap();
                    assert!((found - expected).abs() < 1e-4 + 1e-4 * expected.abs(), "{name} {rows} {case}: {found}");
                }
            }
        }
        // Image rows that attend only to themselves.
        let row = forced(&model, &sample(&shared, of_set["samples"][0].as_str().unwrap()), &ids, TINY_LLAVA_IMAGE, &[]);
        let n = row.n_tokens();
        for layers in ["all", "early"] {
            let windows: Vec<usize> = serde_json::from_value(ee["layer_sets"][layers].clone()).unwrap();
            let is_image = |place: usize| image_span.contains(&place);
            let visible = |_, query, key| key == query || (key < query && !is_image(query));
            let mask = Mask::of([1, n, n], DType::F32, &Device::Cpu, visible).unwrap();
            let mut cuts = Cuts { layers: windows[0]..windows[windows.len() - 1] + 1, mask };
            let found = logits(&model, &row, Watched::by(&mut cuts)).get(n - 1).unwrap();
            let expected = &ee_logits[&format!("base.{set}.{layers}.first_logits")];
            assert_close(&found, &expected.get(0).unwrap(), &format!("{set} {layers}"));
        }
    }
}
