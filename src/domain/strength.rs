//! How much of a candidate's change a run uses.

use serde::{Deserialize, Serialize};

use super::layer_of;

/// The share of a change that is used, from 0 (the base) to 1 (the candidate). It has at most six decimals.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

/// Shares are numbers, so they equal themselves.
impl Eq for Share {}

/// A number that is no share.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a share from 0 to 1")]
pub struct NoShare(f64);

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0.0);
    /// All.
    pub const ALL: Self = Self(1.0);

    /// Returns `value` as a share, rounded to six decimals.
    ///
    /// # Errors
    /// It is not between 0 and 1.
    pub fn new(value: f64) -> Result<Self, NoShare> {
        let is_inside = (0.0..=1.0).contains(&value);
        if is_inside { Ok(Self((value * 1e6).round() / 1e6)) } else { Err(NoShare(value)) }
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }

    /// What is left of the whole.
    pub fn rest(self) -> Self {
        Self(((1.0 - self.0) * 1e6).round() / 1e6)
    }
}

impl TryFrom<f64> for Share {
    type Error = NoShare;

    fn try_from(value: f64) -> Result<Self, NoShare> {
        Self::new(value)
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// How much of a candidate's change is used: `θ0 + λ (θ1 - θ0)`, with λ by tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strength {
    /// λ is the same for every tensor (WiSE-FT, Wortsman et al. 2022).
    Scale(Share),
    /// λ grows linearly over the layers of the language model: `alpha + beta (l - 1) / (L - 1)` in layer `l` of `L`, and `alpha`
    /// elsewhere (LiNeS, Wang et al. 2025).
    Lines {
        /// The share in the first layer and outside the layers.
        alpha: Share,
        /// What the last layer has in addition.
        beta: Share,
    },
}

impl Strength {
    /// LiNeS for a single task: the last layer keeps all of its change.
    pub fn lines(alpha: Share) -> Self {
        Self::Lines { alpha, beta: alpha.rest() }
    }

    /// λ of the module or tensor of this canonical name, in a language model of `n_layers`.
    pub fn of(&self, name: &str, n_layers: usize) -> f64 {
        match *self {
            Self::Scale(share) => share.value(),
            Self::Lines { alpha, beta } => match layer_of(name) {
                Some(layer) if n_layers > 1 => alpha.value() + beta.value() * layer as f64 / (n_layers - 1) as f64,
                _ => alpha.value(),
            },
        }
    }

    /// Whether every tensor has all of its change.
    pub fn is_whole(&self) -> bool {
        match *self {
            Self::Scale(share) => share == Share::ALL,
            Self::Lines { alpha, .. } => alpha == Share::ALL,
        }
    }

    /// Whether no tensor has any of its change.
    pub fn is_none(&self) -> bool {
        *self == Self::Scale(Share::NONE) || *self == Self::Lines { alpha: Share::NONE, beta: Share::NONE }
    }
}

#[cfg(test)]
mod tests;
