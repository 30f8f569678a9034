//! Reads and prepares images ahead of the device.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use rayon::prelude::*;

use super::plan::SampleWork;
use crate::dataset::{Dataset, UnreadableImage};
use crate::model::preprocess::{ImageInput, ImageProcessor, Preprocessor};

/// An image as the subjects see it.
pub(super) struct Prepared {
    /// `blake3:…` of the decoded pixels.
    pub content: String,
    /// For the model.
    pub for_model: ImageInput,
    /// For the encoder, where it differs from the model's.
    pub for_encoder: Option<ImageInput>,
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
    pub model: Arc<dyn ImageProcessor>,
    pub encoder: Option<Preprocessor>,
}

impl Preparation {
    fn prepare(&self, dataset: &Dataset, work: SampleWork) -> PreparedSample {
        let image = dataset.read(work.position).map(|image| {
            let for_encoder = self
                .encoder
                .as_ref()
                .filter(|encoder| {
                    !work.encoder.is_empty() && !self.model.agrees_with(encoder, image.width(), image.height())
                })
                .map(|encoder| encoder.prepare(&image));
            Prepared { content: image.content(), for_model: self.model.prepare(&image), for_encoder }
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
