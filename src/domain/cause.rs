//! Why images were lost.

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::Component;

/// Why an image was lost. The first cause that holds is an image's cause.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// The template, pixels or configuration differ, and the base's bring the answer back.
    Setup,
    /// The tower changed, and restoring it brings the answer back.
    Perception,
    /// Restoring the projector brings the answer back.
    Alignment,
    /// The candidate still chooses the right label when labels are scored.
    Wording,
    /// The candidate gives the same answer without the image, and the base does not.
    Prior,
    /// Restoring a part of the language model brings the answer back.
    Language,
    /// None of these.
    Unexplained,
}

impl Cause {
    /// All causes, in the order in which they are tried.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name, as files have it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The cause of a loss that `component` carries.
    pub fn of(component: Component) -> Self {
        match component {
            Component::Tower => Self::Perception,
            Component::Projector => Self::Alignment,
            Component::Embeddings | Component::Attention | Component::Mlp | Component::Norms | Component::Head => {
                Self::Language
            }
        }
    }
}

/// A cause with its share of the lost images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CauseShare {
    /// The cause.
    pub cause: Cause,
    /// Lost images with this cause.
    pub n: usize,
    /// Their share of all lost images.
    pub share: f64,
    /// Its interval, 95%, by Wilson's method.
    pub share_interval: Option<[f64; 2]>,
    /// What supports it.
    pub evidence: String,
    /// What to try.
    pub mend: String,
}
