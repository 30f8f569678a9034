//! Tests of `features`.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use super::*;
use crate::domain::RgbImage;
use crate::model::checkpoint::weights::testing::golden;
use crate::model::checkpoint::weights::{Miniature, open_checkpoint};
use crate::model::families::OpenedModel;
use crate::model::vision::encoders::OpenedEncoder;
use crate::model::vision::preprocess::{ImageInput, ImageProcessor};

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_row_of_a_batch_with_several_states_and_a_grid_comes_back_to_the_bit() {
    let batch = Tensor::randn(0f32, 1.0, (3, 5, 4), &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let states = vec![batch.get(1).unwrap().to_dtype(dtype).unwrap(), batch.to_dtype(dtype).unwrap()];
        let seen = Seen { states, grid: (3, 7), original_size: (480, 640) };
        let back = Seen::from_bytes(&seen.to_bytes().unwrap(), &Placement::cpu()).unwrap();
        assert_eq!((back.grid, back.original_size), (seen.grid, seen.original_size));
        assert_eq!(back.states.len(), 2);
        for (back, state) in back.states.iter().zip(&seen.states) {
            assert_eq!((back.dims(), back.dtype(), bits(back)), (state.dims(), dtype, bits(state)));
        }
    }
}

#[test]
fn an_embedding_comes_back_and_other_bytes_are_refused() {
    let vector = ImageVector(Tensor::randn(0f32, 1.0, (2, 8), &Device::Cpu).unwrap().get(1).unwrap());
    let bytes = vector.to_bytes().unwrap();
    assert_eq!(bits(&ImageVector::from_bytes(&bytes, &Placement::cpu()).unwrap().0), bits(&vector.0));
    assert!(Seen::from_bytes(&bytes, &Placement::cpu()).is_err());
    assert!(ImageVector::from_bytes(&bytes[..bytes.len() - 1], &Placement::cpu()).is_err());
    assert!(ImageVector::from_bytes(b"", &Placement::cpu()).is_err());
}

/// Images of one size with different pixels.
fn images(n_images: usize) -> Vec<RgbImage> {
    let mut random = fastrand::Rng::with_seed(9);
    let mut pixels = || (0..40 * 32 * 3).map(|_| random.u8(..)).collect();
    (0..n_images).map(|_| RgbImage::new(40, 32, pixels()).unwrap()).collect()
}

#[test]
fn no_image_depends_on_those_that_pass_a_tower_beside_it() {
    let folders = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm"].map(|name| golden("fixtures").join(name));
    for folder in std::iter::once(PathBuf::from("embedded")).chain(folders) {
        let checkpoint = open_checkpoint(&folder, Miniature::Model).unwrap();
        let folder = folder.display();
        let model = OpenedModel::open(&checkpoint, None, None).unwrap().load(&Placement::cpu()).unwrap();
        let inputs: Vec<ImageInput> = images(5).iter().map(|image| model.preprocessor.prepare(image)).collect();
        let inputs: Vec<&ImageInput> = inputs.iter().collect();
        let together = model.mllm.see(&inputs).unwrap();
        for (part, n_together) in [(&inputs[..1], 1), (&inputs[..3], 3)] {
            for (seen, beside) in model.mllm.see(part).unwrap().iter().zip(&together) {
                for (state, expected) in seen.states.iter().zip(&beside.states) {
                    assert!(bits(state) == bits(expected), "{folder}, {n_together} at a time");
                }
            }
        }
    }
}

#[test]
fn no_embedding_depends_on_the_images_beside_it() {
    let opened = OpenedEncoder::open(open_checkpoint(Path::new("embedded"), Miniature::Encoder).unwrap()).unwrap();
    let encoder = opened.load(&Placement::cpu()).unwrap();
    let inputs: Vec<ImageInput> = images(7).iter().map(|image| encoder.preprocessor.prepare(image)).collect();
    let inputs: Vec<&ImageInput> = inputs.iter().collect();
    let embeddings = |images: &[&ImageInput]| {
        let tower = encoder.towers.tower();
        let pixels = tower.pixels(images).unwrap();
        let hidden = tower.hidden_states(&pixels, &[tower.state_before_last()]).unwrap().swap_remove(0);
        bits(&encoder.towers.image_embeddings(&hidden).unwrap())
    };
    let together = embeddings(&inputs);
    for n_together in 1..7 {
        let part = embeddings(&inputs[..n_together]);
        assert!(part == together[..part.len()], "{n_together} at a time");
    }
}
