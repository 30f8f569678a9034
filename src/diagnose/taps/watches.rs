//! The watches of the probes.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use super::FlowRule;
use crate::model::layers::{Mask, Site, Watch};
use crate::model::run::prefix::{PromptRow, TokenSpans};
use crate::stats::{HeadRule, PromptParts, ShareOf, attention_shares, mean_attention_shares};

/// The state of the residual stream at a site: 0 is the embeddings, `k` the output of layer `k - 1`.
fn state_of(site: Site, layer: usize) -> Option<usize> {
    match site {
        Site::Embeddings => Some(0),
        Site::Residual => Some(layer + 1),
        _ => None,
    }
}

/// Keeps a few rows of every state, and shares of attention. Rows are padded on the right.
pub(super) struct StateTap {
    last_places: Vec<usize>,
    /// By image, a second row that is kept; none if they are not wanted.
    decision_places: Option<Vec<usize>>,
    image_places: Vec<Vec<u32>>,
    spans: Vec<TokenSpans>,
    /// By image, the rows whose attention is read.
    queries: Option<(Vec<Range<usize>>, FlowRule)>,
    /// By state, the prompt's last row: `(batch, hidden)`.
    pub last: Vec<Tensor>,
    /// By state, the second row of each image: `(batch, hidden)`.
    pub decision: Vec<Tensor>,
    /// By state, the mean over the image's rows: `(batch, hidden)`.
    pub image: Vec<Tensor>,
    /// By layer and image: shares of system, image and user.
    pub flow: Vec<Vec<[f64; 3]>>,
}

impl StateTap {
    /// A tap of `prompts`. With `answers`, attention is read at the rows that predict their tokens without the terminator.
    pub(super) fn new(prompts: &[PromptRow], answers: Option<(&[Vec<u32>], FlowRule)>) -> Self {
        let places = |row: &PromptRow| row.spans.image_positions().into_iter().map(|at| at as u32).collect();
        let queries = |(row, answer): (&PromptRow, &Vec<u32>)| {
            let first = row.n_tokens() - 1;
            first..first + answer.len().saturating_sub(1).max(1)
        };
        Self {
            last_places: prompts.iter().map(|row| row.n_tokens() - 1).collect(),
            image_places: prompts.iter().map(places).collect(),
            spans: prompts.iter().map(|row| row.spans.clone()).collect(),
            queries: answers.map(|(answers, rule)| (prompts.iter().zip(answers).map(queries).collect(), rule)),
            decision_places: None,
            last: Vec::new(),
            decision: Vec::new(),
            image: Vec::new(),
            flow: Vec::new(),
        }
    }
}

impl StateTap {
    /// Also keeps a second row of each image, `offsets` after the prompt's last one.
    pub(super) fn with_decisions(self, offsets: &[usize]) -> Self {
        let places = self.last_places.iter().zip(offsets).map(|(last, offset)| last + offset).collect();
        Self { decision_places: Some(places), ..self }
    }
}

impl Watch for StateTap {
    fn visits(&self, site: Site, layer: usize) -> bool {
        state_of(site, layer).is_some()
    }

    fn at(&mut self, _: Site, _: usize, x: Tensor) -> Result<Tensor> {
        self.last.push(super::passes::rows_at(&x, &self.last_places)?);
        if let Some(places) = &self.decision_places {
            self.decision.push(super::passes::rows_at(&x, places)?);
        }
        let mean = |(image, places): (usize, &Vec<u32>)| -> Result<Tensor> {
            let row = x.get(image)?.to_dtype(DType::F32)?; // (positions, hidden)
            match places.is_empty() {
                true => row.narrow(0, 0, 1)?.zeros_like()?.squeeze(0),
                false => row.index_select(&Tensor::new(places.as_slice(), x.device())?, 0)?.mean(0),
            }
        };
        let means: Vec<Tensor> = self.image_places.iter().enumerate().map(mean).collect::<Result<_>>()?;
        self.image.push(Tensor::stack(&means, 0)?);
        Ok(x)
    }

    fn wants_weights(&self, _: usize) -> bool {
        self.queries.is_some()
    }

    fn weights(&mut self, _: usize, probabilities: &Tensor) -> Result<()> {
        let Some((queries, rule)) = &self.queries else { return Ok(()) };
        let shares = |(image, (spans, rows)): (usize, (&TokenSpans, &Range<usize>))| -> Result<[f64; 3]> {
            let rows = probabilities.get(image)?.narrow(1, rows.start, rows.len())?; // (heads, rows, positions)
            mean_shares(&rows, spans, *rule)
        };
        let found = self.spans.iter().zip(queries).enumerate().map(shares).collect::<Result<_>>()?;
        self.flow.push(found);
        Ok(())
    }
}

/// The shares of attention of one image's rows, `(heads, rows, positions)`, averaged over the rows (Redundancy to Relevance, equation 9 and figure 2).
fn mean_shares(probabilities: &Tensor, spans: &TokenSpans, rule: FlowRule) -> Result<[f64; 3]> {
    let (_, n_rows, n_positions) = probabilities.dims3()?;
    let first = usize::from(rule.is_without_sink);
    let without_sink = |range: &Range<usize>| range.start.max(first)..range.end.max(first);
    let (system, image) = ([without_sink(&spans.bos), without_sink(&spans.system)], spans.images.concat());
    let user = [spans.user.clone()];
    let parts = PromptParts { system: &system, image: &image, user: &user };
    let heads_rule = if rule.is_max { HeadRule::Max } else { HeadRule::Mean };
    let share_of = if rule.is_raw { ShareOf::Row } else { ShareOf::Parts };
    let mut shares = Vec::with_capacity(n_rows);
    for row in 0..n_rows {
        let heads = probabilities.narrow(1, row, 1)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        shares.extend(attention_shares(&heads, n_positions, parts, heads_rule, share_of));
    }
    let mean = mean_attention_shares(&shares);
    Ok(mean.map_or([0.0; 3], |mean| [mean.system, mean.image, mean.user]))
}

/// Keeps one whole state: `(batch, positions, hidden)`.
pub(super) struct Donor {
    /// The state, from 0.
    pub state: usize,
    /// What was kept.
    pub kept: Option<Tensor>,
}

impl Watch for Donor {
    fn visits(&self, site: Site, layer: usize) -> bool {
        state_of(site, layer) == Some(self.state)
    }

    fn at(&mut self, _: Site, _: usize, x: Tensor) -> Result<Tensor> {
        self.kept = Some(x.clone());
        Ok(x)
    }
}

/// Puts rows of another pass into one state.
pub(super) struct Graft {
    /// The state, from 0.
    pub state: usize,
    /// The state of the other pass: `(batch, positions, hidden)`.
    pub donor: Tensor,
    /// Which rows are replaced: u8, `(batch, positions, 1)`.
    pub is_replaced: Tensor,
}

impl Graft {
    /// Replaces the `places` of each row of the batch.
    pub(super) fn new(state: usize, donor: &Tensor, places: &[Vec<usize>]) -> Result<Self> {
        let (n_rows, n_positions, _) = donor.dims3()?;
        let mut flags = vec![0_u8; n_rows * n_positions];
        for (row, places) in places.iter().enumerate() {
            places.iter().for_each(|place| flags[row * n_positions + place] = 1);
        }
        let is_replaced = Tensor::from_vec(flags, (n_rows, n_positions, 1), donor.device())?;
        Ok(Self { state, donor: donor.clone(), is_replaced })
    }
}

impl Watch for Graft {
    fn visits(&self, site: Site, layer: usize) -> bool {
        state_of(site, layer) == Some(self.state)
    }

    fn at(&mut self, _: Site, _: usize, x: Tensor) -> Result<Tensor> {
        self.is_replaced.broadcast_as(x.shape())?.where_cond(&self.donor.contiguous()?, &x.contiguous()?)
    }
}

/// Hides the image from the last position of each row, in some layers.
pub(super) struct Cut {
    layers: Range<usize>,
    mask: Mask,
}

impl Cut {
    /// Cuts the last position of `rows`, padded on the right, in `layers`.
    pub(super) fn new(rows: &[PromptRow], layers: Range<usize>, dtype: DType, device: &Device) -> Result<Self> {
        let n_positions = rows.iter().map(PromptRow::n_tokens).max().unwrap_or(0);
        let images: Vec<Vec<bool>> = rows
            .iter()
            .map(|row| {
                let mut is_image = vec![false; n_positions];
                row.spans.image_positions().into_iter().for_each(|at| is_image[at] = true);
                is_image
            })
            .collect();
        let visible = |row: usize, query: usize, key: usize| {
            let is_cut = query + 1 == rows[row].n_tokens() && images[row][key];
            key < rows[row].blocks.end_of(query) && !is_cut
        };
        let mask = Mask::of([rows.len(), n_positions, n_positions], dtype, device, visible)?;
        Ok(Self { layers, mask })
    }
}

impl Watch for Cut {
    fn visits(&self, _: Site, _: usize) -> bool {
        false
    }

    fn mask(&mut self, layer: usize) -> Result<Option<Mask>> {
        Ok(self.layers.contains(&layer).then(|| self.mask.clone()))
    }
}
