//! Where the answer's rows attend: shares of the system text, the image and the question, by layer (From Redundancy to
//! Relevance, equation 9 and figure 2).

use anyhow::{Context, Result};

use super::numbers::mean;
use super::{BASE, Batch, CANDIDATE, Inside, Tap};
use crate::diagnose::FlowShares;

/// How attention is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRule {
    /// Whether the largest head counts, instead of the mean over heads.
    pub is_max: bool,
    /// Whether shares are of the whole row, instead of system, image and question alone.
    pub is_raw: bool,
    /// Whether the first position, which draws attention whatever it holds, is left out.
    pub is_without_sink: bool,
}

impl FlowRule {
    /// The paper's: the mean over heads, renormalised.
    pub const PAPER: Self = Self { is_max: false, is_raw: false, is_without_sink: false };

    /// The name, as flags and files have it: `mean` or `max`, then `raw` and `no-sink`, with commas between them.
    pub fn name(self) -> String {
        let heads = if self.is_max { "max" } else { "mean" };
        let more = [("raw", self.is_raw), ("no-sink", self.is_without_sink)];
        let more = more.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| *name);
        std::iter::once(heads).chain(more).collect::<Vec<_>>().join(",")
    }

    /// The rule of this name.
    ///
    /// # Errors
    /// A word of it is unknown.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rule = Self::PAPER;
        for word in text.split(',').map(str::trim) {
            match word {
                "mean" => rule.is_max = false,
                "max" => rule.is_max = true,
                "raw" => rule.is_raw = true,
                "no-sink" => rule.is_without_sink = true,
                _ => return Err("it is `mean` or `max`, then `raw` and `no-sink` with commas between them".to_owned()),
            }
        }
        Ok(rule)
    }
}

/// The probe: by model, layer and kind of token, the share of each image.
#[derive(Default)]
pub(super) struct Flow {
    shares: [Vec<[Vec<f64>; 3]>; 2],
}

impl Tap for Flow {
    fn reads_forced(&self) -> bool {
        true
    }

    fn reads_flow(&self) -> bool {
        true
    }

    fn visit(&mut self, batch: &Batch<'_>) -> Result<()> {
        let readings = batch.readings.as_ref().context("flow needs the forced passes")?;
        for at in [BASE, CANDIDATE] {
            self.shares[at].resize_with(readings[at].flow.len(), Default::default);
            for (kept, images) in self.shares[at].iter_mut().zip(&readings[at].flow) {
                for shares in images {
                    kept.iter_mut().zip(shares).for_each(|(kept, share)| kept.push(*share));
                }
            }
        }
        Ok(())
    }

    fn conclude(self: Box<Self>, inside: &mut Inside) {
        let shares = |kinds: &[Vec<f64>; 3]| {
            let [system, image, user] = kinds.each_ref().map(|values| mean(values));
            Some(FlowShares { system: system?, image: image?, user: user? })
        };
        for layer in 0..self.shares[BASE].len() {
            let found = [BASE, CANDIDATE].map(|at| self.shares[at].get(layer).and_then(shares));
            let layer = inside.layer(layer);
            [layer.flow_baseline, layer.flow_candidate] = found;
        }
    }
}

#[cfg(test)]
mod tests;
