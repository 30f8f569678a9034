//! Compares images cut into tiles with the image processors of transformers with Pillow.

use serde_json::{Value, json};

use super::tests::{Sampled, assert_close};
use super::*;
use crate::model::checkpoint::weights::testing::{
    fixture_roots, fixtures, pictures, read_json, reference, rgb_image, write,
};

/// A checkpoint whose image processor is `config`.
fn checkpoint(config: &Value) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("config.json"), "{}");
    write(&folder.path().join("model.safetensors"), "not read here");
    write(&folder.path().join("preprocessor_config.json"), config.to_string());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

fn idefics3(config: &Value) -> anyhow::Result<Idefics3Processor> {
    Idefics3Processor::from_checkpoint(&checkpoint(config).1)
}

fn anyres(config: &Value) -> anyhow::Result<AnyresProcessor> {
    AnyresProcessor::from_checkpoint(&checkpoint(config).1)
}

#[test]
fn real_sized_tiles_are_those_of_pillow() {
    for folder in fixtures("preprocess") {
        let known = read_json(&folder.join("reference.json"));
        let config = |name: &str| &known["processors"][name]["config"];
        let processors: [(&str, Box<dyn ImageProcessor>); 2] = [
            ("smolvlm_256m", Box::new(idefics3(config("smolvlm_256m")).unwrap())),
            ("llava_next_336", Box::new(anyres(config("llava_next_336")).unwrap())),
        ];
        for (name, processor) in processors {
            for expected in Sampled::of(&folder, name) {
                let input = processor.prepare(&expected.image);
                let shape: Vec<u64> = input.shape.iter().map(|&n| n as u64).collect();
                assert_eq!(json!([vec![1], shape].concat()), expected.result["shape"], "{}", expected.name);
                expected.check(&input.values);
            }
        }
    }
}

#[test]
fn the_fixtures_images_become_their_tiles() {
    for (family, images) in [
        ("smolvlm", &[("prompt", (2, 2))][..]),
        ("idefics3", &[("prompt", (2, 2))]),
        ("llava_onevision", &[("prompt", (2, 3)), ("image1", (2, 2)), ("image2", (3, 1))]),
    ] {
        // The small fixtures have no Idefics 3: it cuts as SmolVLM does.
        for folder in fixture_roots().iter().map(|root| root.join(family)).filter(|folder| folder.exists()) {
            let checkpoint = Checkpoint::open(&folder).unwrap();
            let processor: Box<dyn ImageProcessor> = match family {
                "llava_onevision" => Box::new(AnyresProcessor::from_checkpoint(&checkpoint).unwrap()),
                _ => Box::new(Idefics3Processor::from_checkpoint(&checkpoint).unwrap()),
            };
            for ((name, grid), image) in images.iter().zip(pictures(&folder)) {
                let input = processor.prepare(&rgb_image(&image));
                let expected = reference(&folder.join("reference.safetensors"), &format!("{name}.pixel_values"));
                assert_eq!(input.shape, expected.dims()[1..], "{family}/{name}");
                assert_eq!(input.grid, *grid, "{family}/{name}");
                assert_close(&input.values, &expected.flatten_all().unwrap().to_vec1().unwrap(), name);
            }
        }
    }
}

#[test]
fn an_image_is_one_tile_where_it_is_not_split_or_fills_only_one() {
    let image = RgbImage::from_grey(30, 20, &[9; 600]).unwrap();
    for config in [
        json!({"do_image_splitting": false, "size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 32}}),
        json!({"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}}),
    ] {
        let processor = idefics3(&config).unwrap();
        let input = processor.prepare(&image);
        assert_eq!((input.shape, input.grid), (vec![1, 3, 32, 32], (1, 1)));
        assert_eq!(processor.n_tiles_per_side_max(), 1);
    }
}

#[test]
fn a_long_strip_is_cut_into_one_row() {
    let strip = RgbImage::from_grey(65_535, 1, &[200; 65_535]).unwrap();
    let config = json!({"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 32}});
    let processor = idefics3(&config).unwrap();
    let input = processor.prepare(&strip);
    assert_eq!((input.shape, input.grid, input.original_size), (vec![5, 3, 32, 32], (1, 4), (1, 65_535)));
    assert_eq!(processor.n_tiles_per_side_max(), 4);
    let input = anyres(&json!({"size": {"height": 16, "width": 16}, "image_grid_pinpoints": [[16, 16], [16, 48]]}))
        .unwrap()
        .prepare(&strip);
    assert_eq!(input.shape, [2, 3, 16, 16]);
}

#[test]
fn pinpoints_are_chosen_as_transformers_does() {
    // Covers 36 sizes of up to six tiles per side; computed with `select_best_resolution`.
    let sides: Vec<u32> = (1..=6).map(|n| n * 384).collect();
    let pinpoints: Vec<(u32, u32)> = sides.iter().flat_map(|&height| sides.iter().map(move |&w| (height, w))).collect();
    for ((height, width), expected) in PINPOINTS {
        assert_eq!(best_pinpoint((height, width), &pinpoints), expected, "{height} x {width}");
    }
}

#[test]
fn what_is_recorded_names_the_scheme_and_all_numbers() {
    let config = json!({"size": {"longest_edge": 9999}, "max_image_size": {"longest_edge": 512}});
    let recorded = ImageProcessor::parameters(&idefics3(&config).unwrap());
    assert_eq!(
        recorded,
        json!({"scheme": "idefics3", "longest_edge": 4096, "side": 512, "is_split": true, "filter": "lanczos",
            "rescale": 1.0 / 255.0, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]})
    );
    let config = json!({"image_grid_pinpoints": [[384, 768]], "image_mean": [0, 0, 0], "image_std": [1, 1, 1]});
    let recorded = ImageProcessor::parameters(&anyres(&config).unwrap());
    assert_eq!(
        recorded,
        json!({"scheme": "anyres", "pinpoints": [[384, 768]], "side": 384, "filter": "bicubic",
            "rescale": 1.0 / 255.0, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]})
    );
}

#[test]
fn a_tile_that_cannot_be_is_refused_by_name() {
    let refused = |error: anyhow::Error, words: &[&str]| {
        let text = format!("{error:#}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    refused(
        idefics3(&json!({"image_processor_type": "CLIPImageProcessor"})).unwrap_err(),
        &["CLIP", "SmolVLM", "hint"],
    );
    refused(idefics3(&json!({"size": {"height": 3, "width": 3}})).unwrap_err(), &["`size`", "longest_edge"]);
    refused(
        idefics3(&json!({"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 1}})).unwrap_err(),
        &["2048", "max_image_size"],
    );
    refused(anyres(&json!({"image_processor_type": "LlavaOnevisionImageProcessor"})).unwrap_err(), &["pinpoints"]);
    refused(anyres(&json!({"image_grid_pinpoints": [[384, 400]]})).unwrap_err(), &["multiples of 384"]);
    refused(anyres(&json!({"image_grid_pinpoints": []})).unwrap_err(), &["image_grid_pinpoints"]);
    refused(
        anyres(&json!({"size": {"height": 384, "width": 380}, "image_grid_pinpoints": [[384, 384]]})).unwrap_err(),
        &["`size`", "not a square"],
    );
}

/// ((height, width), the chosen size).
const PINPOINTS: [((u32, u32), (u32, u32)); 16] = [
    ((32, 32), (384, 384)),
    ((28, 28), (384, 384)),
    ((224, 224), (384, 384)),
    ((375, 500), (384, 768)),
    ((500, 333), (768, 384)),
    ((480, 640), (768, 768)),
    ((768, 1024), (768, 1152)),
    ((1, 65535), (384, 384)),
    ((91, 33), (384, 384)),
    ((60, 150), (384, 384)),
    ((3000, 1700), (2304, 1536)),
    ((1700, 3000), (1536, 2304)),
    ((385, 385), (768, 768)),
    ((1152, 400), (1152, 768)),
    ((2500, 2500), (2304, 2304)),
    ((767, 1151), (768, 1152)),
];
