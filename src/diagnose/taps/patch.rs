//! Activation patching: the candidate's pass with the base's residual stream put in at one state (Meng et al. 2022).

use anyhow::{Context, Result, ensure};

use super::knockout::Curve;
use super::numbers::log_probability_and_rank;
use super::passes::{followed, last_logits, last_places, pass};
use super::question::Point;
use super::watches::{Donor, Graft};
use super::{BASE, Batch, CANDIDATE, Inside, Tap};
use crate::model::run::prefix::PromptRow;

/// The probe: at the first token and at the deciding one, the curves for the rows of the image and for the last row.
#[derive(Default)]
pub(super) struct Patching {
    curves: [[Curve; 2]; 2],
}

impl Tap for Patching {
    fn visit(&mut self, batch: &Batch<'_>) -> Result<()> {
        let [base, candidate] = [BASE, CANDIDATE].map(|at| batch.of(at));
        ensure!(
            base.2.iter().zip(candidate.2).all(|(base, candidate)| base.n_tokens() == candidate.n_tokens()),
            "base and candidate read prompts of different lengths, so that no state of one fits into the other; hint: \
             leave the probe `patch` out with --probes"
        );
        let [first, decision] = candidate.1.points();
        patched(batch, first, &mut self.curves[0])?;
        match decision.suffix.is_empty() {
            true => self.curves[1] = self.curves[0].clone(),
            false => patched(batch, decision, &mut self.curves[1])?,
        }
        Ok(())
    }

    fn conclude(self: Box<Self>, inside: &mut Inside) {
        let [[image, last], [image_decision, last_decision]] = &self.curves;
        for state in 0..image.n_places() {
            let layer = inside.layer(state);
            layer.patch_image = image.mean(state);
            layer.patch_last = last.mean(state);
            layer.patch_image_decision = image_decision.mean(state);
            layer.patch_last_decision = last_decision.mean(state);
        }
    }
}

/// Adds the log-probabilities of the labels' tokens at `point` if the rows of the image, and if the last rows, are the base's.
fn patched(batch: &Batch<'_>, point: Point<'_>, curves: &mut [Curve; 2]) -> Result<()> {
    let rows_of = |at: usize| -> Result<Vec<PromptRow>> {
        let (model, _, prompts) = batch.of(at);
        followed(model, prompts, &vec![point.suffix; prompts.len()])
    };
    let (base, candidate) = (rows_of(BASE)?, rows_of(CANDIDATE)?);
    let (base_model, ..) = batch.of(BASE);
    let (model, ..) = batch.of(CANDIDATE);
    let last: Vec<Vec<usize>> = last_places(&candidate).into_iter().map(|place| vec![place]).collect();
    let image: Vec<Vec<usize>> = candidate.iter().map(|row| row.spans.image_positions()).collect();
    for state in 0..=model.mllm.decoder().n_layers() {
        // One state of one batch is kept at a time.
        let mut donor = Donor { state, kept: None };
        pass(base_model, &base, &mut donor)?;
        let donor = donor.kept.context("the pass has no such state")?;
        for (curve, places) in curves.iter_mut().zip([&image, &last]) {
            let logits = last_logits(model, &candidate, &mut Graft::new(state, &donor, places)?)?;
            let token = |(logits, image): (&Vec<f32>, &super::TappedImage)| {
                log_probability_and_rank(logits, point.tokens[image.label]).0
            };
            curve.add(state, logits.iter().zip(batch.images).map(token));
        }
    }
    Ok(())
}
