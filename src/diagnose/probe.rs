//! The probes of a diagnosis, by name.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use strum::{IntoStaticStr, VariantArray};

use crate::domain::closest;

/// A probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Probe {
    /// Which weights changed, and by how much.
    Weights,
    /// Parts of the candidate over the base.
    Swap,
    /// Answers without the image.
    Reliance,
    /// Distance of the next-token distributions on the base's answers.
    Drift,
    /// The label's log-probability from each layer.
    Lens,
    /// The base's residual stream in the candidate's pass.
    Patch,
    /// The last position cut off from the image in a few layers.
    Knockout,
    /// Linear CKA between base and candidate.
    Similarity,
    /// Shares of attention.
    Flow,
    /// Fewer positions of the image from a layer on.
    Truncation,
    /// Gradient maps.
    Cam,
    /// Modality Integration Rate.
    Mir,
    /// Positions of the image attend to themselves only.
    Composite,
    /// The adapter merged into the weights.
    Merge,
}

impl Probe {
    /// All probes.
    pub const ALL: &'static [Self] = Self::VARIANTS;
    /// The probes that run by default, in the order of all.
    pub const QUICK: &'static [Self] = &[Self::Weights, Self::Swap, Self::Reliance, Self::Drift, Self::Lens];

    /// The probes that say something of one checkpoint.
    pub const OF_ONE: &'static [Self] =
        &[Self::Reliance, Self::Lens, Self::Knockout, Self::Flow, Self::Truncation, Self::Mir, Self::Composite];

    /// The name, as flags and files have it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The probes of a list: `quick`, `all`, or names with commas between them.
    ///
    /// # Errors
    /// A name is not that of a probe.
    pub fn parse_list(text: &str) -> Result<BTreeSet<Self>> {
        let mut found = BTreeSet::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "quick" => found.extend(Self::QUICK),
                "all" => found.extend(Self::ALL),
                name => match Self::ALL.iter().find(|probe| probe.name() == name) {
                    Some(probe) => _ = found.insert(*probe),
                    None => {
                        let names: Vec<&str> = Self::ALL.iter().map(|probe| probe.name()).collect();
                        let known = names.join(", ");
                        bail!(
                            "`{name}` is no probe; hint: {}give `quick`, `all`, or some of {known}",
                            closest(name, &names)
                        )
                    }
                },
            }
        }
        if found.is_empty() {
            bail!("no probe is named; hint: give `quick`, `all`, or names with commas between them");
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
