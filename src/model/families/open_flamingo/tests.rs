//! Tests of `open_flamingo`.

use candle_core::Tensor;

use super::*;
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{pictures, rgb_image, shared, write};
use crate::model::families::tests::{forward_image, input};
use crate::model::families::{ImagePrompt, OpenedModel};
use crate::model::layers::Watched;
use crate::model::run::generate::Decoding;
use crate::model::testing::{References, assert_close, ids};

const QUESTION: &str = "What is the object in the image? Please only answer a single object in airplane, automobile, \
    bird, cat, deer, dog, frog, horse, ship, truck.";

fn open(dir: &std::path::Path) -> OpenedModel {
    let tower = Checkpoint::open(dir.join(TOWER_FOLDER)).unwrap();
    OpenedModel::open(&Checkpoint::open(dir).unwrap(), Some(&tower), None).unwrap()
}

#[test]
fn every_reference_tensor_of_open_flamingos_own_code_is_met() {
    let Some(shared) = shared() else { return };
    let dir = shared.join("fixtures/open_flamingo");
    let expected = References::open(&dir);
    let opened = open(&dir);
    let preprocessor = opened.preprocessor.clone();
    let model = opened.load(&Placement::cpu()).unwrap();
    let prompt = model.dialogue.render(QUESTION).unwrap();
    let image_id = prompt.image_id.unwrap();
    let text: Vec<u32> = prompt.ids.iter().map(|id| id.unwrap_or(image_id)).collect();
    assert_eq!(vec![text], ids(&expected["input_ids"]));
    for (index, file) in pictures(&dir).iter().enumerate() {
        let tensor = |of: &str| &expected[&format!("{index}.{of}")];
        let place = format!("image {index}");
        let wanted = tensor("pixel_values").flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let prepared = preprocessor.prepare(&rgb_image(file));
        let differences = prepared.values.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
        assert!(prepared.values.len() == wanted.len() && differences.fold(0.0, f32::max) < 1e-6, "{place}");
        let side = prepared.shape[1];
        let pixels = Tensor::from_vec(wanted, (3, side, side), &candle_core::Device::Cpu).unwrap();
        let seen = model.mllm.see(&[&input(&pixels)]).unwrap();
        let patches = seen[0].states[0].narrow(0, 1, seen[0].states[0].dim(0).unwrap() - 1).unwrap();
        assert_close(&patches.unsqueeze(0).unwrap(), tensor("vision_patch_features"), &place);
        let image = model.mllm.embed_images(&seen).unwrap().remove(0);
        let latents = &image.beside.as_ref().unwrap().features;
        assert_close(&latents.unsqueeze(0).unwrap(), tensor("media_tokens"), &place);
        let (_, logits) = forward_image(&model, &prompt, &image);
        let last = logits.narrow(1, logits.dim(1).unwrap() - 1, 1).unwrap().squeeze(1).unwrap();
        assert_close(&last, tensor("last_logits"), &place);
        if index == 0 {
            assert_close(&logits, tensor("all_logits"), &place);
        }
        let rows = model.mllm.embed(&[ImagePrompt { prompt: &prompt, images: &seen }]).unwrap();
        let prefix = model.mllm.read(None, &rows, 12, Watched::by_none()).unwrap();
        let decoding = Decoding {
            max_new_tokens: 12,
            eos_ids: vec![u32::MAX],
            stop_strings: Vec::new(),
            processors: Default::default(),
        };
        let generated: Vec<Vec<u32>> =
            model.generate(prefix, &decoding).unwrap().into_iter().map(|row| row.unwrap().ids).collect();
        assert_eq!(generated, ids(tensor("greedy_ids")), "{place}");
    }
}

#[test]
fn a_folder_without_its_tower_is_refused_with_the_way_out() {
    let Some(shared) = shared() else { return };
    let checkpoint = Checkpoint::open(shared.join("fixtures/open_flamingo")).unwrap();
    let error = OpenedModel::open(&checkpoint, None, None).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(TOWER_FOLDER) && error.contains("; hint: "), "{error}");
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("checkpoint.pt"), b"PK");
    let error = Checkpoint::open(folder.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(TEXT_MODEL_FOLDER) && error.contains("; hint: "), "{error}");
}
