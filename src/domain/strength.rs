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
mod tests {
    use super::*;

    fn share(value: f64) -> Share {
        Share::new(value).unwrap()
    }

    #[test]
    fn lines_grow_over_the_layers_of_the_language_model_and_nowhere_else() {
        let lines = Strength::lines(share(0.25));
        let layer = |layer: usize| format!("language_model.layers.{layer}.self_attn.q_proj");
        for (at, expected) in [(0, 0.25), (1, 0.4375), (2, 0.625), (4, 1.0)] {
            assert!((lines.of(&layer(at), 5) - expected).abs() < 1e-12, "{at}");
        }
        for elsewhere in [
            "multi_modal_projector.linear_2.weight",
            "vision_tower.vision_model.encoder.layers.3.mlp.fc1",
            "language_model.norm.weight",
            "lm_head.weight",
        ] {
            assert_eq!(lines.of(elsewhere, 5), 0.25, "{elsewhere}");
        }
        assert_eq!(lines.of(&layer(0), 1), 0.25, "a single layer is the first");
        assert_eq!(Strength::Scale(share(0.3)).of(&layer(4), 5), 0.3);
    }

    #[test]
    fn the_ends_are_the_base_and_the_candidate() {
        assert!(Strength::Scale(Share::ALL).is_whole() && Strength::lines(Share::ALL).is_whole());
        assert!(Strength::Scale(Share::NONE).is_none());
        assert!(!Strength::lines(Share::NONE).is_none(), "the last layer keeps its change");
        assert!(!Strength::lines(Share::NONE).is_whole());
    }

    #[test]
    fn a_share_is_written_as_it_was_typed_and_read_back() {
        let lines = Strength::lines(share(0.9));
        let json = serde_json::to_string(&lines).unwrap();
        assert_eq!(json, r#"{"lines":{"alpha":0.9,"beta":0.1}}"#);
        assert_eq!(serde_json::from_str::<Strength>(&json).unwrap(), lines);
        assert_eq!(serde_json::to_string(&Strength::Scale(share(0.75))).unwrap(), r#"{"scale":0.75}"#);
        for broken in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Share::new(broken).is_err(), "{broken}");
        }
        assert!(serde_json::from_str::<Strength>(r#"{"scale":2}"#).is_err());
    }
}
