//! How far the candidate's next-token distributions are from the base's on the base's answers.

use anyhow::{Context, Result};

use super::numbers::{divergence, log_softmax, mean, rows};
use super::{BASE, Batch, CANDIDATE, Inside, Tap};
use crate::diagnose::PositionDrift;

/// The probe: by position of the answers, the divergences of both directions, one per answer that has the position.
#[derive(Default)]
pub(super) struct Drift {
    forward: Vec<Vec<f64>>,
    reverse: Vec<Vec<f64>>,
}

impl Tap for Drift {
    fn reads_forced(&self) -> bool {
        true
    }

    fn visit(&mut self, batch: &Batch<'_>) -> Result<()> {
        let readings = batch.readings.as_ref().context("drift needs the forced passes")?;
        for (base, candidate) in readings[BASE].answer_logits.iter().zip(&readings[CANDIDATE].answer_logits) {
            for (position, (base, candidate)) in rows(base)?.iter().zip(&rows(candidate)?).enumerate() {
                if self.forward.len() <= position {
                    self.forward.push(Vec::new());
                    self.reverse.push(Vec::new());
                }
                let (base, candidate) = (log_softmax(base), log_softmax(candidate));
                self.forward[position].push(divergence(&base, &candidate));
                self.reverse[position].push(divergence(&candidate, &base));
            }
        }
        Ok(())
    }

    fn conclude(self: Box<Self>, inside: &mut Inside) {
        let of_position = |(position, (forward, reverse)): (usize, (&Vec<f64>, &Vec<f64>))| {
            Some(PositionDrift { position, n: forward.len(), kl: mean(forward)?, kl_reverse: mean(reverse)? })
        };
        inside.drift = self.forward.iter().zip(&self.reverse).enumerate().filter_map(of_position).collect();
    }
}
