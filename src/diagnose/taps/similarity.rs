//! Linear CKA between base and candidate (Kornblith et al. 2019, equation 5), by state: over the image's positions and at the
//! prompt's last position. The tower's output is compared too.

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};

use super::{BASE, Batch, CANDIDATE, Inside, Tap};
use crate::stats::centered_kernel_alignment;

/// At most this many images are compared: features of all states are kept until the end.
const N_IMAGES_MAX: usize = 64;

/// By state, the features of all images one after the other.
type Features = Vec<Vec<f64>>;

/// The probe.
#[derive(Default)]
pub(super) struct Similarity {
    n_images: usize,
    last: [Features; 2],
    image: [Features; 2],
    tower: [Vec<f64>; 2],
}

impl Tap for Similarity {
    fn reads_forced(&self) -> bool {
        true
    }

    fn visit(&mut self, batch: &Batch<'_>) -> Result<()> {
        let readings = batch.readings.as_ref().context("similarity needs the forced passes")?;
        let n_new = batch.images.len().min(N_IMAGES_MAX - self.n_images);
        if n_new == 0 {
            return Ok(());
        }
        for at in [BASE, CANDIDATE] {
            keep(&mut self.last[at], &readings[at].last, n_new)?;
            keep(&mut self.image[at], &readings[at].image, n_new)?;
            let mllm = &batch.pair.model(at).mllm;
            for seen in &batch.seen[at][..n_new] {
                self.tower[at].extend(mllm.probe_features(seen)?.into_iter().map(f64::from));
            }
        }
        self.n_images += n_new;
        Ok(())
    }

    fn conclude(self: Box<Self>, inside: &mut Inside) {
        let n = self.n_images;
        let cka = |base: &[f64], candidate: &[f64]| Some(centered_kernel_alignment(base, candidate, n)?.biased);
        let alike = |[base, candidate]: &[Features; 2], state: usize| cka(&base[state], &candidate[state]);
        for state in 0..self.last[BASE].len() {
            let (last, image) = (alike(&self.last, state), alike(&self.image, state));
            let layer = inside.layer(state);
            layer.similarity_last = last;
            layer.similarity_image = image;
        }
        inside.similarity_tower = cka(&self.tower[BASE], &self.tower[CANDIDATE]);
    }
}

/// Appends the first `n` rows of each state `(batch, hidden)`.
fn keep(features: &mut Features, states: &[Tensor], n: usize) -> Result<()> {
    features.resize_with(states.len(), Vec::new);
    for (kept, state) in features.iter_mut().zip(states) {
        kept.extend(state.narrow(0, 0, n)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?);
    }
    Ok(())
}
