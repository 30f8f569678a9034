//! Attention knockout: the last row cannot attend to the image in a few layers (Geva et al. 2023).

use anyhow::Result;

use super::numbers::{log_probability_and_rank, mean};
use super::passes::{followed, last_logits};
use super::question::Point;
use super::watches::Cut;
use super::{BASE, Batch, CANDIDATE, Inside, Tap};

/// By layer or state, one log-probability per image.
#[derive(Clone, Debug, Default)]
pub(super) struct Curve(Vec<Vec<f64>>);

impl Curve {
    /// Adds the values of a few images at `place`.
    pub(super) fn add(&mut self, place: usize, values: impl Iterator<Item = f64>) {
        while self.0.len() <= place {
            self.0.push(Vec::new());
        }
        self.0[place].extend(values);
    }

    /// The number of layers or states.
    pub(super) fn n_places(&self) -> usize {
        self.0.len()
    }

    /// The mean over the images at `place`.
    pub(super) fn mean(&self, place: usize) -> Option<f64> {
        mean(self.0.get(place)?)
    }
}

/// One knockout cuts this share of the layers, and at least one.
const SHARE_OF_LAYERS: usize = 8;

/// The number of layers that one knockout cuts.
fn n_cut(n_layers: usize) -> usize {
    n_layers.div_ceil(SHARE_OF_LAYERS).max(1)
}

/// The probe: by model, the curves at the first token and at the deciding one.
#[derive(Default)]
pub(super) struct Knockout {
    curves: [[Curve; 2]; 2],
    n_layers: usize,
}

impl Tap for Knockout {
    fn visit(&mut self, batch: &Batch<'_>) -> Result<()> {
        for at in [BASE, CANDIDATE] {
            let (model, question, _) = batch.of(at);
            self.n_layers = model.mllm.decoder().n_layers();
            let [first, decision] = question.points();
            cut(batch, at, first, &mut self.curves[at][0])?;
            match decision.suffix.is_empty() {
                true => self.curves[at][1] = self.curves[at][0].clone(),
                false => cut(batch, at, decision, &mut self.curves[at][1])?,
            }
        }
        Ok(())
    }

    fn conclude(self: Box<Self>, inside: &mut Inside) {
        let [base, candidate] = &self.curves;
        for place in 0..base[0].n_places() {
            let layer = inside.layer(place);
            layer.knockout_baseline = base[0].mean(place);
            layer.knockout_candidate = candidate[0].mean(place);
            layer.knockout_baseline_decision = base[1].mean(place);
            layer.knockout_candidate_decision = candidate[1].mean(place);
            layer.knockout_layers = Some(n_cut(self.n_layers).min(self.n_layers - place));
        }
    }
}

/// Adds the log-probabilities of the labels' tokens at `point`, cut off from each layer on.
fn cut(batch: &Batch<'_>, at: usize, point: Point<'_>, curve: &mut Curve) -> Result<()> {
    let (model, _, prompts) = batch.of(at);
    let rows = followed(model, prompts, &vec![point.suffix; prompts.len()])?;
    let n_layers = model.mllm.decoder().n_layers();
    let embeddings = &rows[0].embeddings;
    for layer in 0..n_layers {
        let layers = layer..(layer + n_cut(n_layers)).min(n_layers);
        let mut watch = Cut::new(&rows, layers, embeddings.dtype(), embeddings.device())?;
        let logits = last_logits(model, &rows, &mut watch)?;
        let token = |(logits, image): (&Vec<f32>, &super::TappedImage)| {
            log_probability_and_rank(logits, point.tokens[image.label]).0
        };
        curve.add(layer, logits.iter().zip(batch.images).map(token));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
