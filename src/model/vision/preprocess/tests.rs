use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::model::checkpoint::weights::testing::{
    fixture_roots, fixtures, pictures, read_json, reference_values, rgb_image,
};

fn parameters(config: &Value) -> Parameters {
    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, text: &str| crate::model::checkpoint::weights::testing::write(&folder.path().join(name), text);
    write("config.json", "{}");
    write("model.safetensors", "not read here");
    write("preprocessor_config.json", &config.to_string());
    config::read(&Checkpoint::open(folder.path()).unwrap()).unwrap()
}

#[track_caller]
pub(super) fn assert_close(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let worst = actual.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert_eq!(worst, 0.0, "{what}: largest difference {worst}");
}

/// What a processor of real size makes of the pictures in `preprocess`.
pub(super) struct Sampled {
    /// Name of the picture.
    pub(super) name: String,
    pub(super) image: RgbImage,
    /// Every `step`-th value.
    pub(super) values: Vec<f32>,
    pub(super) step: usize,
    /// Shape and sum of all values, and the grid of patches.
    pub(super) result: Value,
}

impl Sampled {
    /// The references of `processor` in a folder `preprocess`.
    pub(super) fn of(folder: &Path, processor: &str) -> Vec<Self> {
        let known = read_json(&folder.join("reference.json"));
        let of_picture = |path: &PathBuf| {
            let name = format!("{processor}/{}", path.file_name().unwrap().to_str().unwrap());
            let result = [format!("{name}/pil"), name.clone()].map(|key| known["results"][key].clone());
            let result = result.into_iter().find(|result| !result.is_null()).unwrap();
            let values = reference_values(&folder.join("reference.safetensors"), &name);
            let step = known["step"].as_u64().unwrap_or(997) as usize;
            Self { name, image: rgb_image(path), values, step, result }
        };
        pictures(folder).iter().map(of_picture).collect()
    }

    #[track_caller]
    pub(super) fn check(&self, values: &[f32]) {
        let sampled: Vec<f32> = values.iter().step_by(self.step).copied().collect();
        assert_close(&sampled, &self.values, &self.name);
        let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
        let expected = self.result["sum"].as_f64().unwrap();
        assert!((sum - expected).abs() < 1e-4 * expected.abs().max(1.0), "{}: {sum} {expected}", self.name);
    }
}

#[test]
fn real_sized_processors_give_pillows_pixels() {
    for (folder, n_pictures) in fixtures("preprocess").iter().zip([4, 7]) {
        let reference = read_json(&folder.join("reference.json"));
        let mut n_compared = 0;
        for name in ["clip_224", "clip_336", "clip_336_pad", "siglip_384", "blip_224"] {
            let mut parameters = parameters(&reference["processors"][name.trim_end_matches("_pad")]["config"]);
            if name.ends_with("_pad") {
                parameters.pad_to_square = Some([122, 116, 104]);
            }
            let preprocessor = Preprocessor::new(parameters);
            for expected in Sampled::of(folder, name) {
                expected.check(&preprocessor.pixels(&expected.image));
                n_compared += 1;
            }
        }
        assert_eq!(n_compared, 5 * n_pictures);
    }
}

fn pixels_of(folder: &Path, preprocessor: &Preprocessor, n_images: usize) -> Vec<f32> {
    pictures(folder).iter().take(n_images).flat_map(|path| preprocessor.pixels(&rgb_image(path))).collect()
}

#[test]
fn checkpoints_of_every_layout_give_their_reference_pixels() {
    for family in ["clip", "clip_legacy_eos", "siglip", "open_clip", "llava"] {
        for (folder, side) in fixtures(family).iter().zip([24, 42]) {
            let preprocessor = Preprocessor::from_checkpoint(&Checkpoint::open(folder).unwrap()).unwrap();
            let expected = reference_values(&folder.join("reference.safetensors"), "pixel_values");
            let n_images = expected.len() / (3 * side * side);
            assert_close(&pixels_of(folder, &preprocessor, n_images), &expected, family);
            assert_eq!(preprocessor.size(), Some((side, side)));
        }
    }
}

#[test]
fn the_original_llava_pads_to_a_square_of_the_mean_colour() {
    for fixtures in fixture_roots() {
        let folder = fixtures.join("llava_original");
        let model = Checkpoint::open(folder.join("full_with_tower")).unwrap();
        let tower = Checkpoint::open(folder.join("clip-tower")).unwrap();
        let preprocessor = Preprocessor::for_llava_original(&model, &tower).unwrap();
        assert_eq!(preprocessor.parameters().pad_to_square, Some([122, 116, 104]));
        let pixels = pixels_of(&folder, &preprocessor, 1);
        assert_close(&pixels, &reference_values(&folder.join("reference.safetensors"), "pixel_values"), "original");
        let padded = reference_values(&fixtures.join("llava/reference.safetensors"), "pad_square.pixel_values");
        assert_close(&pixels, &padded, "padded");
    }
}

#[test]
fn numbers_of_2022_mean_what_dictionaries_say_since() {
    let numbers = serde_json::json!({"feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336});
    let dictionaries = serde_json::json!({"image_processor_type": "CLIPImageProcessorFast",
        "size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}});
    assert_eq!(parameters(&numbers), parameters(&dictionaries));
}

#[test]
fn an_odd_margin_is_rounded_down_or_to_even() {
    let crop = |rounding| Crop { height: 42, width: 42, rounding };
    assert_eq!(crop(Rounding::Down).start(69, 42), 13);
    assert_eq!(crop(Rounding::HalfToEven).start(69, 42), 14);
    assert_eq!(crop(Rounding::HalfToEven).start(67, 42), 12);
    assert_eq!(crop(Rounding::Down).start(40, 43), -2);
    assert_eq!(crop(Rounding::HalfToEven).start(40, 43), -1);
}

#[test]
fn padding_and_cropping_agree_on_square_images_only() {
    let mut padded = parameters(&serde_json::json!({"image_processor_type": "CLIPImageProcessor"}));
    let cropped = Preprocessor::new(padded.clone());
    padded.pad_to_square = Some([122, 116, 104]);
    let padded = Preprocessor::new(padded);
    assert!(padded.agrees_with(&cropped, 32, 32));
    assert!(!padded.agrees_with(&cropped, 32, 31));

    let mut rounded = cropped.parameters().clone();
    rounded.crop = rounded.crop.map(|crop| Crop { rounding: Rounding::HalfToEven, ..crop });
    let rounded = Preprocessor::new(rounded);
    // 224 of 298 leaves an even margin, 224 of 299 an odd one.
    assert!(rounded.agrees_with(&cropped, 298, 224));
    assert!(!rounded.agrees_with(&cropped, 299, 224));
}

#[test]
fn padding_a_long_strip_takes_no_room() {
    let mut parameters =
        parameters(&serde_json::json!({"image_processor_type": "LlavaImageProcessor", "do_pad": true}));
    assert_eq!(parameters.pad_to_square, Some([122, 116, 104]));
    parameters.mean = [0.0; 3];
    // A square of this side would be 12 GB.
    let strip = RgbImage::from_grey(65_535, 1, &[255; 65_535]).unwrap();
    let pixels = Preprocessor::new(parameters).pixels(&strip);
    assert_eq!(pixels.len(), 3 * 224 * 224);
}

#[test]
fn a_processor_of_another_family_is_refused_by_name() {
    let error = defaults_error(serde_json::json!({"image_processor_type": "Qwen2VLImageProcessor"}));
    assert!(error.contains("Qwen2VL") && error.contains("hint:"), "{error}");
    let error = defaults_error(serde_json::json!({"size": {"shortest_edge": 0}}));
    assert!(error.contains("not a number of pixels"), "{error}");
}

fn defaults_error(config: Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, text: &str| crate::model::checkpoint::weights::testing::write(&folder.path().join(name), text);
    write("config.json", "{}");
    write("model.safetensors", "not read here");
    write("preprocessor_config.json", &config.to_string());
    let error = Preprocessor::from_checkpoint(&Checkpoint::open(folder.path()).unwrap()).unwrap_err();
    format!("{error:#}")
}

proptest! {
    #[test]
    fn every_size_of_image_gives_pixels_of_the_towers_size(
        width in 1u32..70, height in 1u32..70, side in 1u32..40, crop in 1u32..40, pad in any::<bool>(),
    ) {
        let preprocessor = Preprocessor::new(Parameters {
            pad_to_square: pad.then_some([9, 9, 9]),
            resize: Some(Resize { to: Target::ShortestEdge(side), filter: Filter::Lanczos }),
            crop: Some(Crop { height: crop, width: crop, rounding: Rounding::HalfToEven }),
            rescale: 1.0, mean: [0.0; 3], std: [1.0; 3],
        });
        let image = RgbImage::from_grey(width, height, &vec![200; (width * height) as usize]).unwrap();
        let pixels = preprocessor.pixels(&image);
        prop_assert_eq!(pixels.len(), (3 * crop * crop) as usize);
        prop_assert!(pixels.iter().all(|value| (0.0..=255.0).contains(value)));
    }

    #[test]
    fn a_crop_is_a_part_of_the_whole(width in 1u32..50, height in 1u32..50, seed in any::<u64>()) {
        let mut state = seed;
        let pixels = (0..width * height * 3).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        });
        let image = RgbImage::new(width, height, pixels.collect()).unwrap();
        let whole = |crop| Preprocessor::new(Parameters {
            pad_to_square: None,
            resize: Some(Resize { to: Target::Exact { height: 24, width: 20 }, filter: Filter::Bicubic }),
            crop, rescale: 1.0, mean: [0.0; 3], std: [1.0; 3],
        });
        let all = whole(None).pixels(&image);
        let part = whole(Some(Crop { height: 10, width: 8, rounding: Rounding::Down })).pixels(&image);
        for row in 0..10 {
            prop_assert_eq!(&part[row * 8..row * 8 + 8], &all[(row + 7) * 20 + 6..(row + 7) * 20 + 14]);
        }
    }
}
