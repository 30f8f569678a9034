//! Tests of `patches`.

use proptest::prelude::*;

use super::super::tests::Sampled;
use super::*;
use crate::model::checkpoint::weights::testing::{fixture_roots, fixtures, read_json};

/// Returns parameters with the limits of the file itself.
fn own_parameters(config: &Value) -> PatchParameters {
    let (min, max) =
        (own_limit(config, ["min_pixels", "shortest_edge"], 1), own_limit(config, ["max_pixels", "longest_edge"], 1));
    read(config, &PixelLimits { min_pixels: Some(min.unwrap()), max_pixels: Some(max.unwrap()) }).unwrap()
}

#[test]
fn real_sized_processors_give_pillows_patches() {
    for (folder, n_pictures) in fixtures("preprocess").iter().zip([4, 7]) {
        let reference = read_json(&folder.join("reference.json"));
        let mut n_compared = 0;
        for name in ["qwen2_5_vl", "qwen3_vl"] {
            let processor = PatchProcessor::new(own_parameters(&reference["processors"][name]["config"]));
            for expected in Sampled::of(folder, name) {
                let ImageInput { values, grid, .. } = processor.prepare(&expected.image);
                let grid = serde_json::json!([[1, grid.0, grid.1]]);
                assert_eq!(expected.result["image_grid_thw"], grid, "{}", expected.name);
                expected.check(&values);
                n_compared += 1;
            }
        }
        assert_eq!(n_compared, 2 * n_pictures);
    }
}

#[test]
fn an_images_positions_are_those_of_the_processors_own_arithmetic() {
    for fixtures in fixture_roots() {
        let counts = read_json(&fixtures.join("image_tokens.json"));
        let own = |name: &str| {
            let reference = read_json(&fixtures.join("preprocess/reference.json"));
            own_parameters(&reference["processors"][name]["config"])
        };
        let (qwen2, qwen3) = (own("qwen2_5_vl"), own("qwen3_vl"));
        let raised = PatchParameters { min_pixels: 256 * 28 * 28, ..qwen2.clone() };
        for (name, parameters) in [
            ("qwen2.5-vl (14x2, min 3136, max 12845056)", qwen2),
            ("qwen2.5-vl (min 256*28*28)", raised),
            ("qwen3-vl (16x2, min 65536, max 16777216)", qwen3),
        ] {
            for (size, expected) in counts[name].as_object().unwrap() {
                let (width, height) = size.split_once('x').unwrap();
                let (width, height) = (width.parse().unwrap(), height.parse().unwrap());
                let (high, wide) = parameters.size(height, width);
                let described = format!("{} ({wide}x{high})", parameters.n_merged(height, width));
                assert_eq!(expected, described.as_str(), "{name} {size}");
            }
        }
    }
}

#[test]
fn limits_are_read_in_every_spelling() {
    for text in [
        r#"{"min_pixels": 3136, "max_pixels": 602112}"#,
        r#"{"size": {"shortest_edge": 3136, "longest_edge": 602112}}"#,
        r#"{"size": {"min_pixels": 3136, "max_pixels": 602112}}"#,
        r#"{"min_pixels": 3136, "max_pixels": 602112, "size": {"shortest_edge": 1, "longest_edge": 2}}"#,
        r#"{"min_pixels": null, "max_pixels": null, "size": {"shortest_edge": 3136, "longest_edge": 602112}}"#,
    ] {
        let config: Value = serde_json::from_str(text).unwrap();
        assert_eq!(own_limit(&config, ["min_pixels", "shortest_edge"], 7).unwrap(), 3136, "{text}");
        assert_eq!(own_limit(&config, ["max_pixels", "longest_edge"], 7).unwrap(), 602112, "{text}");
    }
}

fn given(min_pixels: Option<u64>, max_pixels: Option<u64>) -> PixelLimits {
    PixelLimits { min_pixels, max_pixels }
}

#[test]
fn limits_default_to_256_and_1280_merged_patches_within_the_checkpoints_own() {
    let area = 28 * 28;
    let hub = (56 * 56, 16384 * area);
    assert_eq!(limits(hub, &given(None, None), area).unwrap(), (256 * area, 1280 * area));
    assert_eq!(limits((300 * area, 400 * area), &given(None, None), area).unwrap(), (300 * area, 400 * area));
    assert_eq!(limits((4 * area, 24 * area), &given(None, None), area).unwrap(), (24 * area, 24 * area));
    assert_eq!(limits(hub, &given(None, Some(9 * area)), area).unwrap(), (9 * area, 9 * area));
    assert_eq!(limits(hub, &given(Some(2000 * area), None), area).unwrap(), (2000 * area, 2000 * area));
    assert_eq!(limits(hub, &given(Some(3136), Some(12845056)), area).unwrap(), (3136, 12845056));
    assert!(limits(hub, &given(Some(u64::MAX), None), area).unwrap_err().to_string().contains("--min-pixels"));
    let error = limits(hub, &given(Some(5000), Some(4000)), area).unwrap_err().to_string();
    assert!(error.contains("5000") && error.contains("4000") && error.contains("--max-pixels"), "{error}");
}

#[test]
fn a_foreign_processor_is_refused_by_name() {
    let error =
        read(&serde_json::json!({"image_processor_type": "CLIPImageProcessor"}), &given(None, None)).unwrap_err();
    assert!(error.to_string().contains("CLIPImageProcessor"), "{error}");
}

proptest! {
    #[test]
    fn any_image_has_whole_merged_patches_within_the_bound(
        height in 1u32..5000, width in 1u32..5000, min in 1u64..400, more in 0u64..2000,
    ) {
        let parameters = PatchParameters {
            min_pixels: min * 784,
            max_pixels: (min + more) * 784,
            ..own_parameters(&serde_json::json!({"min_pixels": 784, "max_pixels": 784}))
        };
        let (high, wide) = parameters.size(height, width);
        prop_assert!(high > 0 && wide > 0 && high % 28 == 0 && wide % 28 == 0);
        prop_assert!(parameters.n_merged(height, width) <= parameters.n_merged_max());
    }
}
