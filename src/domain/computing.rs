//! Where and with which number type a model computes.

use serde::{Deserialize, Serialize};

/// Where and with which number type a model computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WireComputing", into = "WireComputing")]
pub enum Computing {
    /// In this program.
    Local {
        /// `f32`, `bf16` or `f16`, followed by `+int8` if weights are rounded.
        compute_type: String,
        /// `cpu`, `cuda` or `metal`.
        device_kind: String,
    },
    /// Behind a server, which reports neither.
    Served,
}

/// The fields in files.
#[derive(Clone, Serialize, Deserialize)]
struct WireComputing {
    compute_type: String,
    device_kind: String,
}

/// The value of both fields for a served model.
const SERVED: &str = "served";

impl Computing {
    /// The compute type in files; `served` for a served model.
    pub fn compute_type(&self) -> &str {
        match self {
            Self::Local { compute_type, .. } => compute_type,
            Self::Served => SERVED,
        }
    }

    /// The kind of device in files; `served` for a served model.
    pub fn device_kind(&self) -> &str {
        match self {
            Self::Local { device_kind, .. } => device_kind,
            Self::Served => SERVED,
        }
    }
}

impl From<WireComputing> for Computing {
    fn from(WireComputing { compute_type, device_kind }: WireComputing) -> Self {
        if device_kind == SERVED { Self::Served } else { Self::Local { compute_type, device_kind } }
    }
}

impl From<Computing> for WireComputing {
    fn from(computing: Computing) -> Self {
        Self { compute_type: computing.compute_type().to_owned(), device_kind: computing.device_kind().to_owned() }
    }
}

#[cfg(test)]
mod tests;
