//! Watches, which observe and may change a forward pass. Diagnostics are built on them.
//!
//! A [`Watch`] is passed to a forward pass next to its inputs. Every layer calls it at its sites. A pass without one
//! computes as if there were no sites.

use candle_core::{Result, Tensor};

use super::Mask;

/// A place in a forward pass. Tensors are `(batch, tokens, size)`, or `(tokens, size)` in towers that take images one
/// by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// The input of the first layer: embedded tokens and images. Layer 0.
    Embeddings,
    /// The norm's output before attention.
    AttentionInput,
    /// What attention adds to the residual stream.
    AttentionOutput,
    /// The norm's output before the feed-forward half.
    MlpInput,
    /// What the feed-forward half adds to the residual stream.
    MlpOutput,
    /// The residual stream after the layer, with everything added to it: the input of the next layer.
    Residual,
    /// The output of the last norm. The layer is the number of layers.
    FinalNorm,
}

impl Site {
    /// All sites, in the order of a pass.
    pub const ALL: [Self; 7] = [
        Self::Embeddings,
        Self::AttentionInput,
        Self::AttentionOutput,
        Self::MlpInput,
        Self::MlpOutput,
        Self::Residual,
        Self::FinalNorm,
    ];
}

/// The size of a pass. Its tokens are the last of the positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassShape {
    /// Rows of the batch.
    pub n_rows: usize,
    /// Tokens of a row, padding included.
    pub n_tokens: usize,
    /// Positions of a row: the tokens and the cached positions.
    pub n_positions: usize,
}

/// Observes a forward pass and may change it. By default it visits every site and changes nothing.
///
/// Layers count from 0. If a pass computes only the last tokens in its last layer
/// ([`TokenInput::n_wanted`](crate::model::language::TokenInput::n_wanted)), the tensors of that layer hold those
/// tokens, except [`Site::AttentionInput`], which holds all.
pub trait Watch {
    /// A pass of this size begins.
    fn begins(&mut self, shape: PassShape) {
        let _ = shape;
    }

    /// Whether [`at`](Self::at) is called at the site. If not, the layer computes as without a watch.
    fn visits(&self, site: Site, layer: usize) -> bool {
        let _ = (site, layer);
        true
    }

    /// Takes the tensor of a site and returns the tensor with which the pass continues, of the same shape.
    ///
    /// # Errors
    /// The pass cannot continue.
    fn at(&mut self, site: Site, layer: usize, x: Tensor) -> Result<Tensor> {
        let _ = (site, layer);
        Ok(x)
    }

    /// Whether [`weights`](Self::weights) is called for the layer, whose attention then computes its probabilities. If
    /// the pass has caches, the answer must be the same from their first pass on.
    fn wants_weights(&self, layer: usize) -> bool {
        let _ = layer;
        false
    }

    /// Takes the layer's attention probabilities in f32, `(batch, heads, queries, positions)`. A tower that attends
    /// within windows passes `(windows, heads, tokens, tokens)` for each run of windows of one size.
    ///
    /// # Errors
    /// The pass cannot continue.
    fn weights(&mut self, layer: usize, probabilities: &Tensor) -> Result<()> {
        let _ = (layer, probabilities);
        Ok(())
    }

    /// Returns a mask for the layer that replaces the pass's mask and covers all tokens of the pass. In a tower that
    /// attends within windows, it replaces the windows.
    ///
    /// # Errors
    /// The mask cannot be built.
    fn mask(&mut self, layer: usize) -> Result<Option<Mask>> {
        let _ = layer;
        Ok(None)
    }

    /// Reports that the next pass continues with these rows of the last pass, in this order.
    fn keeps(&mut self, rows: &[u32]) {
        let _ = rows;
    }
}

/// A watch, or none.
#[derive(Default)]
pub struct Watched<'a>(Option<&'a mut dyn Watch>);

impl<'a> Watched<'a> {
    /// No watch.
    pub fn by_none() -> Self {
        Self(None)
    }

    /// Wraps `watch`.
    pub fn by(watch: &'a mut dyn Watch) -> Self {
        Self(Some(watch))
    }

    /// Reborrows the watch for a shorter time.
    pub fn again(&mut self) -> Watched<'_> {
        match &mut self.0 {
            Some(watch) => Watched::by(&mut **watch),
            None => Watched::by_none(),
        }
    }

    /// The watch at one layer.
    pub fn layer(&mut self, layer: usize) -> LayerWatch<'_> {
        LayerWatch { watched: self.again(), layer }
    }

    /// Reports that a pass begins.
    pub fn begins(&mut self, shape: PassShape) {
        if let Some(watch) = &mut self.0 {
            watch.begins(shape);
        }
    }

    /// Reports which rows continue.
    pub fn keeps(&mut self, rows: &[u32]) {
        if let Some(watch) = &mut self.0 {
            watch.keeps(rows);
        }
    }
}

/// A watch at one layer, or none.
#[derive(Default)]
pub struct LayerWatch<'a> {
    watched: Watched<'a>,
    layer: usize,
}

impl LayerWatch<'_> {
    /// Whether the watch visits the site.
    pub fn visits(&self, site: Site) -> bool {
        self.watched.0.as_ref().is_some_and(|watch| watch.visits(site, self.layer))
    }

    /// Returns the tensor with which the pass continues at the site.
    ///
    /// # Errors
    /// Fails as [`Watch::at`] does, or if the shape changed.
    pub fn at(&mut self, site: Site, x: Tensor) -> Result<Tensor> {
        match &mut self.watched.0 {
            Some(watch) if watch.visits(site, self.layer) => {
                let shape = x.shape().clone();
                let x = watch.at(site, self.layer, x)?;
                if *x.shape() != shape {
                    candle_core::bail!("a watch made {:?} of {shape:?} at {site:?} of layer {}", x.shape(), self.layer)
                }
                Ok(x)
            }
            _ => Ok(x),
        }
    }

    /// Returns `residual` plus what `compute` returns without one. This is one step if no watch visits the site.
    ///
    /// # Errors
    /// Fails as [`at`](Self::at) does.
    pub fn added(
        &mut self,
        site: Site,
        residual: &Tensor,
        compute: impl FnOnce(Option<&Tensor>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self.visits(site) {
            false => compute(Some(residual)),
            true => residual + self.at(site, compute(None)?)?,
        }
    }

    /// Whether the watch wants the layer's probabilities.
    pub fn wants_weights(&self) -> bool {
        self.watched.0.as_ref().is_some_and(|watch| watch.wants_weights(self.layer))
    }

    /// Passes the probabilities to the watch.
    ///
    /// # Errors
    /// Fails as [`Watch::weights`] does.
    pub fn weights(&mut self, probabilities: &Tensor) -> Result<()> {
        match &mut self.watched.0 {
            Some(watch) => watch.weights(self.layer, probabilities),
            None => Ok(()),
        }
    }

    /// The layer's own mask.
    ///
    /// # Errors
    /// Fails as [`Watch::mask`] does.
    pub fn mask(&mut self) -> Result<Option<Mask>> {
        match &mut self.watched.0 {
            Some(watch) => watch.mask(self.layer),
            None => Ok(None),
        }
    }
}
