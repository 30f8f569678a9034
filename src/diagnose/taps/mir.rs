//! Modality Integration Rate (Huang et al. 2024): how far the positions of images are from those of texts, in every state of the
//! residual stream. Images and texts are paired without relation.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};

use super::Pair;
use super::passes::{followed, pass};
use crate::diagnose::{IntegrationOfLayer, ModalityIntegration};
use crate::domain::{Conversation, RgbImage, Turn};
use crate::model::families::Model;
use crate::model::layers::{Site, Watch};
use crate::model::run::prefix::PromptRow;
use crate::stats::{CrossTerm, ModalityIntegration as LayerIntegration, Outliers};
use crate::stats::{modality_integration, modality_integration_rate};

/// Without two pairs there is no covariance.
const N_PAIRS_MIN: usize = 2;
/// Fewer pairs give a number that depends on the pairs (the paper, table 6).
pub const N_PAIRS_RELIABLE: usize = 20;
/// More pairs change nothing (the paper, table 6).
pub const N_PAIRS_MAX: usize = 100;
/// The numbers of one state that are kept at once, all states together: 1 GiB in f32.
const N_NUMBERS_MAX: usize = 1 << 28;

/// How the rate is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirMethod {
    /// As the paper defines it.
    Exact,
    /// As the released code computes it: its square root of a matrix returns the matrix.
    Published,
}

impl MirMethod {
    /// The name, as flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Published => "published",
        }
    }
}

/// Rows of several states, of all pairs one after the other.
struct States {
    /// The states that are kept.
    wanted: std::ops::Range<usize>,
    n_layers: usize,
    /// By state of `wanted`.
    vision: Vec<Vec<f32>>,
    text: Vec<Vec<f32>>,
    n_dimensions: usize,
    /// Of the pair that passes.
    image_places: Vec<u32>,
    text_places: Vec<u32>,
}

impl States {
    fn keep(&mut self, state: usize, x: &Tensor) -> candle_core::Result<()> {
        if !self.wanted.contains(&state) {
            return Ok(());
        }
        let x = x.squeeze(0)?.to_dtype(DType::F32)?; // (positions, hidden)
        self.n_dimensions = x.dim(1)?;
        let rows =
            |places: &[u32]| x.index_select(&Tensor::new(places, x.device())?, 0)?.flatten_all()?.to_vec1::<f32>();
        let place = state - self.wanted.start;
        self.vision[place].extend(rows(&self.image_places)?);
        self.text[place].extend(rows(&self.text_places)?);
        Ok(())
    }
}

impl Watch for States {
    fn visits(&self, site: Site, layer: usize) -> bool {
        match site {
            Site::Embeddings => true,
            // The last state is taken after the last norm, as the released code takes it.
            Site::Residual => layer + 1 < self.n_layers,
            Site::FinalNorm => true,
            _ => false,
        }
    }

    fn at(&mut self, site: Site, layer: usize, x: Tensor) -> candle_core::Result<Tensor> {
        let state = match site {
            Site::Embeddings => 0,
            Site::FinalNorm => self.n_layers,
            _ => layer + 1,
        };
        self.keep(state, &x)?;
        Ok(x)
    }
}

/// The rate of both models over `pairs`.
///
/// # Errors
/// There are too few pairs, or a pass fails.
pub fn mir(pair: &Pair, pairs: &[(RgbImage, String)], method: MirMethod) -> Result<ModalityIntegration> {
    ensure!(
        pairs.len() >= N_PAIRS_MIN,
        "{} pairs of an image and a text are too few for the Modality Integration Rate, which needs {N_PAIRS_MIN}; hint: \
         a larger --limit, more lines in --mir-texts, or more images in --mir-images",
        pairs.len()
    );
    let base = of_model(&pair.base, pairs, method)?;
    let candidate = match &pair.candidate {
        Some(candidate) => of_model(candidate, pairs, method)?,
        None => base.clone(),
    };
    // State 0, the embeddings, is no part of the rate.
    let rate = |layers: &[LayerIntegration]| {
        let distances: Vec<f64> = layers.iter().skip(1).map(LayerIntegration::fid).collect();
        modality_integration_rate(&distances)
    };
    let terms = |of: &LayerIntegration| [of.mean_gap, of.trace_vision, of.trace_text, of.cross];
    let layer = |(layer, (base, candidate)): (usize, (&LayerIntegration, &LayerIntegration))| IntegrationOfLayer {
        layer,
        baseline: base.fid(),
        candidate: pair.candidate.is_some().then(|| candidate.fid()),
        terms_baseline: terms(base),
        terms_candidate: pair.candidate.is_some().then(|| terms(candidate)),
    };
    Ok(ModalityIntegration {
        n_pairs: pairs.len(),
        method: method.name().to_owned(),
        baseline: rate(&base),
        candidate: rate(&candidate).filter(|_| pair.candidate.is_some()),
        layers: base.iter().zip(&candidate).enumerate().map(layer).collect(),
    })
}

/// By state, the distance between images and texts.
fn of_model(model: &Model, pairs: &[(RgbImage, String)], method: MirMethod) -> Result<Vec<LayerIntegration>> {
    let turn = Turn { n_images: 1, text: String::new(), answer: None };
    let prompt = model.dialogue.render_conversation(&Conversation { turns: vec![turn] })?;
    let mut rows: Vec<PromptRow> = Vec::with_capacity(pairs.len());
    for (image, text) in pairs {
        let seen = model.mllm.see(&[&model.preprocessor.prepare(image)])?;
        let answer = model.dialogue.answer_ids(&prompt, text)?;
        rows.extend(followed(model, &model.rows(&prompt, &seen)?, &[answer.as_slice()])?);
    }
    let n_layers = model.mllm.decoder().n_layers();
    let n_numbers_per_state: usize = rows.iter().map(|row| row.embeddings.elem_count()).sum();
    let n_at_once = (N_NUMBERS_MAX / n_numbers_per_state.max(1)).clamp(1, n_layers + 1);
    let mut found = Vec::with_capacity(n_layers + 1);
    let mut start = 0;
    while start <= n_layers {
        let wanted = start..(start + n_at_once).min(n_layers + 1);
        let n = wanted.len();
        let mut states = States {
            wanted: wanted.clone(),
            n_layers,
            vision: vec![Vec::new(); n],
            text: vec![Vec::new(); n],
            n_dimensions: 0,
            image_places: Vec::new(),
            text_places: Vec::new(),
        };
        for row in &rows {
            let images = row.spans.image_positions();
            let first_text = images.last().map_or(0, |last| last + 1);
            states.image_places = images.into_iter().map(|at| at as u32).collect();
            states.text_places = (first_text..row.n_tokens()).map(|at| at as u32).collect();
            pass(model, std::slice::from_ref(row), &mut states)?;
        }
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<f64>>();
        let n_dimensions = states.n_dimensions;
        for (vision, text) in states.vision.into_iter().zip(states.text) {
            let cross = match method {
                MirMethod::Exact => CrossTerm::Exact,
                MirMethod::Published => CrossTerm::Published,
            };
            let of_state =
                modality_integration(&wide(vision), &wide(text), n_dimensions, Outliers::ReplaceMedian, cross);
            found.push(of_state.context("the states of images or texts do not vary, or are not finite")?);
        }
        start = wanted.end;
    }
    Ok(found)
}
