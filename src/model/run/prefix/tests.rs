//! Tests of `prefix`.

use std::path::Path;

use super::*;
use crate::domain::RgbImage;
use crate::model::Placement;
use crate::model::checkpoint::weights::{Miniature, open_checkpoint};
use crate::model::families::OpenedModel;
use crate::model::layers::{Mask, left_padded_mask};

#[test]
fn a_prompt_whose_opening_was_read_before_is_the_prompt_read_whole() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap();
        let opened = OpenedModel::open(&checkpoint, None, Some("vicuna_v1")).unwrap();
        let model = opened.load(&Placement { dtype, ..Placement::cpu() }).unwrap();
        let inputs = [40, 90].map(|side| model.preprocessor.prepare(&RgbImage::blank(side, 60)));
        let images = model.mllm.embed_images(&model.mllm.see(&inputs.each_ref()).unwrap()).unwrap();
        let prompt = model.dialogue.render("What is it?").unwrap();
        let opening = model.opening(&prompt).unwrap();
        assert!(opening.ids().len() > 20, "{} tokens", opening.ids().len());
        let logits = |opening: Option<&Opening>| {
            let prefix = model.read_about(opening, &[&prompt; 2], &images, 3).unwrap();
            assert_eq!(prefix.state.n_positions(), prefix.n_tokens);
            prefix.next_logits(model.mllm.decoder()).unwrap()
        };
        assert_eq!(logits(Some(&opening)), logits(None), "{dtype:?}");
    }
}

/// Returns the bits of the hidden states that `input` wants, and the last cache's content after it.
fn read(model: &dyn LanguageModel, input: &TokenInput, mask: &Mask) -> (Tensor, Vec<f32>) {
    let n_tokens = input.embeddings.dim(1).unwrap();
    let mut state = model.new_state(n_tokens + 1);
    let hidden = model.forward(Pass::new(input).masked(mask).after(&mut state)).unwrap();
    let next = batch(&[PromptRow::plain(model.embed(&[5]).unwrap()).unwrap()], 1, Padding::Left).unwrap();
    let next = TokenInput {
        embeddings: next.embeddings.repeat((2, 1, 1)).unwrap(),
        positions: Tensor::full(n_tokens as u32, (2, 1), &Device::Cpu).unwrap(),
        ..next
    };
    let next = model.forward(Pass::new(&next).after(&mut state)).unwrap();
    (hidden, floats(&next))
}

fn floats(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_last_layer_computes_what_is_wanted_alone_and_to_the_bit_what_it_is_in_all() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap();
        let opened = OpenedModel::open(&checkpoint, None, None).unwrap();
        let model = opened.load(&Placement { dtype, ..Placement::cpu() }).unwrap();
        let language = model.mllm.decoder();
        let rows = [40u32, 33].map(|n| PromptRow::plain(language.embed(&(3..n).collect::<Vec<_>>()).unwrap()).unwrap());
        let all = batch(&rows, 37, Padding::Left).unwrap();
        let mask = left_padded_mask(&[0, 7], 37, 37, dtype, &Device::Cpu).unwrap();
        let (hidden, next) = read(language, &all, &mask);
        for n_wanted in [1, 5, 36, 37] {
            let some = TokenInput { n_wanted: Some(n_wanted), ..all.clone() };
            let expected = floats(&hidden.narrow(1, 37 - n_wanted, n_wanted).unwrap());
            let (wanted, next_after) = read(language, &some, &mask);
            assert_eq!(floats(&wanted), expected, "{dtype:?}, {n_wanted}");
            assert_eq!(next_after, next, "{dtype:?}: keys and values are of all tokens");
            // Without caches, attention keeps nothing.
            let without = [&all, &some].map(|input| language.forward(Pass::new(input).masked(&mask)).unwrap());
            let expected = floats(&without[0].narrow(1, 37 - n_wanted, n_wanted).unwrap());
            assert_eq!(floats(&without[1]), expected, "{dtype:?}, {n_wanted}, without caches");
        }
    }
}

#[test]
fn rows_of_one_length_stay_one_batch_in_their_order() {
    assert_eq!(batches_by_length(&[7; 5]), [[0, 1, 2, 3, 4]]);
    assert!(batches_by_length(&[]).is_empty());
}

#[test]
fn unlike_lengths_are_parted_and_nearly_like_ones_are_not() {
    assert_eq!(batches_by_length(&[100, 400, 95, 390, 30]), [vec![1, 3], vec![0, 2], vec![4]]);
    // A row that alone would be padded by a third joins many that are not padded.
    assert_eq!(batches_by_length(&[60, 90, 90, 90]), [[0, 1, 2, 3]]);
}

#[test]
fn no_batch_is_padded_by_more_than_the_share_and_every_row_is_in_one() {
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..200 {
        let lengths: Vec<usize> = (0..random.usize(1..40)).map(|_| random.usize(1..900)).collect();
        let batches = batches_by_length(&lengths);
        for batch in &batches {
            let longest = batch.iter().map(|&row| lengths[row]).max().unwrap();
            let n_used: usize = batch.iter().map(|&row| lengths[row]).sum();
            let n_padded = longest * batch.len();
            assert!((n_padded - n_used) as f64 <= PADDED_SHARE_MAX * n_padded as f64, "{lengths:?}: {batches:?}");
        }
        let mut rows = batches.concat();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..lengths.len()));
    }
}
