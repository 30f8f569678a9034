//! Gradient maps of the base's answer over the image (LLaVA-CAM, From Redundancy to Relevance, section 3.3): at the input of the
//! feed-forward half of every layer of language model and tower.
//!
//! Every site gets a zero-valued probe, whose gradient is that of the site's activations, so that one backward pass serves all
//! sites. The last layer of the language model has no map: its image positions reach no answer.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor, Var};

use super::passes::{followed, pass};
use super::{BASE, Batch, CANDIDATE, Inside, Tap, TappedImage};
use crate::diagnose::{GradientMaps, MapSimilarity};
use crate::model::families::{Model, RenderedPrompt};
use crate::model::layers::{Site, Watch, Watched};
use crate::model::vision::preprocess::ImageInput;
use crate::stats::{CamWeights, cam_heat, overlap, rank_correlation};

/// At most this many images of a dataset are mapped, lost ones first.
const N_IMAGES_MAX: usize = 16;

/// Adds a zero-valued probe at every site.
#[derive(Default)]
struct ZeroProbes {
    /// By layer: the probe, and the activations.
    sites: BTreeMap<usize, (Var, Tensor)>,
}

impl Watch for ZeroProbes {
    fn visits(&self, site: Site, _: usize) -> bool {
        site == Site::MlpInput
    }

    fn at(&mut self, _: Site, layer: usize, x: Tensor) -> candle_core::Result<Tensor> {
        let probe = Var::zeros(x.shape(), x.dtype(), x.device())?;
        let probed = (&x + probe.as_tensor())?;
        self.sites.insert(layer, (probe, x.detach()));
        Ok(probed)
    }
}

/// Activations and gradients at one site: `(positions, channels)`, row by row.
pub(super) struct SiteValues {
    /// `tower.K` or `language.K`.
    pub site: String,
    pub activations: Vec<f64>,
    pub gradients: Vec<f64>,
    pub n_channels: usize,
}

/// The values at all sites from which `answer`, without a terminator, depends on the image.
pub(super) fn site_values(
    model: &Model,
    prompt: &RenderedPrompt,
    image: &ImageInput,
    answer: &[u32],
) -> Result<Vec<SiteValues>> {
    let (mut tower, mut language) = (ZeroProbes::default(), ZeroProbes::default());
    let seen = model.mllm.see_watched(&[image], Watched::by(&mut tower))?;
    let rows = model.rows(prompt, &seen)?;
    let (_, inputs) = answer.split_last().context("an answer has a token")?;
    let forced = followed(model, &rows, &[inputs])?;
    let hidden = pass(model, &forced, &mut language)?.squeeze(0)?; // (positions, hidden)
    let first = rows[0].n_tokens() - 1;
    let logits = model.mllm.decoder().logits(&hidden.narrow(0, first, answer.len())?.contiguous()?)?;
    let tokens = Tensor::new(answer, logits.device())?.unsqueeze(1)?;
    let gradients = logits.to_dtype(DType::F32)?.gather(&tokens, 1)?.sum_all()?.backward()?;

    let mut found = Vec::new();
    let mut add = |name: String, probe: &Var, activations: &Tensor, places: &dyn Fn(&Tensor) -> Result<Tensor>| {
        let gradient = gradients.get(probe).with_context(|| format!("no gradient reaches {name}"))?;
        let (activations, gradient) = (places(activations)?, places(gradient)?);
        let values = |x: &Tensor| -> Result<Vec<f64>> { Ok(x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?) };
        let n_channels = activations.dim(candle_core::D::Minus1)?;
        found.push(SiteValues {
            site: name,
            activations: values(&activations)?,
            gradients: values(&gradient)?,
            n_channels,
        });
        Ok::<_, anyhow::Error>(())
    };
    let positions: Vec<u32> = rows[0].spans.image_positions().into_iter().map(|at| at as u32).collect();
    let n_positions = positions.len().max(1);
    let patches = |x: &Tensor| -> Result<Tensor> {
        let tokens = x.dim(candle_core::D::Minus2)?;
        // Positions hold one patch or a fixed number of them; the class token is none.
        let n_class = usize::from(tokens > n_positions && tokens % n_positions == 1);
        Ok(x.narrow(candle_core::D::Minus2, n_class, tokens - n_class)?)
    };
    for (layer, (probe, activations)) in &tower.sites {
        add(format!("tower.{layer}"), probe, activations, &patches)?;
    }
    let of_image = |x: &Tensor| -> Result<Tensor> {
        Ok(x.squeeze(0)?.index_select(&Tensor::new(positions.as_slice(), x.device())?, 0)?)
    };
    // The image positions of the last layer reach no answer.
    for (layer, (probe, activations)) in language.sites.iter().take(language.sites.len().saturating_sub(1)) {
        add(format!("language.{layer}"), probe, activations, &of_image)?;
    }
    Ok(found)
}

/// Similarities of the maps of base and candidate, one per image.
#[derive(Default)]
struct Similarities {
    rank_correlations: Vec<f64>,
    overlaps: Vec<f64>,
    n: usize,
}

/// The probe: by site and weighting.
#[derive(Default)]
pub(super) struct Cam {
    n_images: usize,
    maps: Vec<Option<GradientMaps>>,
    found: BTreeMap<(String, &'static str), Similarities>,
}

const WEIGHTINGS: [(&str, CamWeights); 2] = [("paper", CamWeights::Paper), ("code", CamWeights::Code)];

impl Cam {
    fn add(&mut self, base: &[SiteValues], candidate: &[SiteValues]) {
        for (base, candidate) in base.iter().zip(candidate) {
            for (name, weights) in WEIGHTINGS {
                let heat = |of: &SiteValues| {
                    cam_heat(&of.activations, &of.gradients, of.n_channels, weights).filter(|heat| heat.max > 0.0)
                };
                let Some((base_heat, heat)) = heat(base).zip(heat(candidate)) else { continue };
                let kept = self.found.entry((base.site.clone(), name)).or_default();
                kept.n += 1;
                kept.rank_correlations.extend(rank_correlation(&base_heat.map, &heat.map));
                kept.overlaps.extend(overlap(&base_heat.map, &heat.map));
            }
        }
    }
}

/// The maps at the deepest site of the language model; `None` if the positions are no square grid or a map is zero.
fn maps(base: &[SiteValues], candidate: &[SiteValues]) -> Option<GradientMaps> {
    let (base, candidate) = base.last().zip(candidate.last())?;
    let heat = |of: &SiteValues| {
        cam_heat(&of.activations, &of.gradients, of.n_channels, CamWeights::Code).filter(|heat| heat.max > 0.0)
    };
    let (before, after) = heat(base).zip(heat(candidate))?;
    let side = before.map.len().isqrt();
    (side * side == before.map.len() && after.map.len() == before.map.len()).then(|| GradientMaps {
        site: base.site.clone(),
        n_rows: side,
        n_columns: side,
        baseline: before.map.iter().map(|value| rounded(*value)).collect(),
        candidate: after.map.iter().map(|value| rounded(*value)).collect(),
    })
}

/// Three digits are enough for a picture.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl Tap for Cam {
    fn visit(&mut self, batch: &Batch<'_>) -> Result<()> {
        let is_wanted = |image: &TappedImage| image.is_lost || batch.dataset.images.len() <= N_IMAGES_MAX;
        for (at, image) in batch.images.iter().enumerate() {
            let answer = &batch.answers[at];
            let content = &answer[..answer.len().saturating_sub(1)];
            if self.n_images == N_IMAGES_MAX || !is_wanted(image) || content.is_empty() {
                self.maps.push(None);
                continue;
            }
            let values = |which: usize| {
                let (model, question, _) = batch.of(which);
                site_values(model, &question.prompt, &batch.inputs[which][at], content)
            };
            let (base, candidate) = (values(BASE)?, values(CANDIDATE)?);
            self.add(&base, &candidate);
            self.maps.push(maps(&base, &candidate).filter(|_| image.is_lost));
            self.n_images += 1;
        }
        Ok(())
    }

    fn conclude(self: Box<Self>, inside: &mut Inside) {
        let similarity = |((site, weighting), of): ((String, &str), Similarities)| MapSimilarity {
            site,
            weighting: weighting.to_owned(),
            n: of.n,
            rank_correlation: super::numbers::mean(&of.rank_correlations),
            overlap: super::numbers::mean(&of.overlaps),
        };
        inside.maps = if self.maps.iter().all(Option::is_none) { Vec::new() } else { self.maps };
        inside.cam = self.found.into_iter().map(similarity).collect();
    }
}
