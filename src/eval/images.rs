//! Reads and prepares images ahead of the device.

use std::sync::mpsc::SyncSender;

use rayon::prelude::*;

use super::plan::SampleWork;
use crate::dataset::{Dataset, UnreadableImage};
use crate::model::preprocess::Preprocessor;

/// An image as the subjects see it.
pub(super) struct Prepared {
    /// `blake3:…` of the decoded pixels.
    pub content: String,
    /// For the model, `(3, side, side)`.
    pub model_pixels: Vec<f32>,
    /// For the encoder, where they differ from the model's.
    pub encoder_pixels: Option<Vec<f32>>,
}

/// A sample on its way to the device.
pub(super) struct PreparedSample {
    pub work: SampleWork,
    pub image: Result<Prepared, UnreadableImage>,
}

/// A batch on its way to the device.
pub(super) struct PreparedBatch {
    pub dataset: usize,
    pub samples: Vec<PreparedSample>,
}

/// How images are prepared for each subject.
#[derive(Clone)]
pub(super) struct Preparation {
    pub model: Preprocessor,
    pub encoder: Option<Preprocessor>,
}

impl Preparation {
    fn prepare(&self, dataset: &Dataset, work: SampleWork) -> PreparedSample {
        let image = dataset.read(work.position).map(|image| {
            let encoder_pixels = self
                .encoder
                .as_ref()
                .filter(|encoder| {
                    !work.encoder.is_empty() && !encoder.agrees_with(&self.model, image.width(), image.height())
                })
                .map(|encoder| encoder.pixels(&image));
            Prepared { content: image.content(), model_pixels: self.model.pixels(&image), encoder_pixels }
        });
        PreparedSample { work, image }
    }
}

/// Sends all of `remaining` in batches; ends early where the receiver is gone or `is_stopped`.
pub(super) fn send_batches(
    preparation: &Preparation,
    datasets: &[(&Dataset, &[SampleWork])],
    batch_size: usize,
    is_stopped: &(dyn Fn() -> bool + Sync),
    sender: SyncSender<PreparedBatch>,
) {
    for (index, (dataset, remaining)) in datasets.iter().enumerate() {
        for chunk in remaining.chunks(batch_size) {
            if is_stopped() {
                return;
            }
            let samples = chunk.par_iter().map(|&work| preparation.prepare(dataset, work)).collect();
            if sender.send(PreparedBatch { dataset: index, samples }).is_err() {
                return;
            }
        }
    }
}
