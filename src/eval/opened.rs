//! Subjects of either kind: checkpoints that run here, and models behind a server.

use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::Value;

use super::loaded::{EvalSubjects, OpenedSubjects};
use super::served::{LoadedServer, ServedSubjects};
use crate::domain::{EncoderSpec, ModelSpec};
use crate::model::Placement;
use crate::record::FeatureCache;

/// Opened subjects, with no weight read yet.
#[expect(clippy::large_enum_variant, reason = "there is one value in a process")]
pub enum AnySubjects {
    /// They run here.
    Local(OpenedSubjects),
    /// The models are behind a server.
    Served(ServedSubjects),
}

/// Subjects that can be asked.
pub enum LoadedSubjects {
    /// They run here.
    Local(EvalSubjects),
    /// The models are behind a server.
    Served(ReadyServer),
}

/// A server that can be asked, and the encoder beside it.
pub struct ReadyServer(pub(super) LoadedServer);

impl AnySubjects {
    /// The names of the runs, in order: `None` is the model without adapter.
    pub fn runs(&self) -> Vec<Option<String>> {
        match self {
            Self::Local(local) => local.runs().into_iter().map(|name| name.map(str::to_owned)).collect(),
            Self::Served(served) => served.runs().into_iter().map(Some).collect(),
        }
    }

    /// What a person should know of them.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::Local(local) => local.warnings(),
            Self::Served(served) => served.warnings(),
        }
    }

    /// Whether an encoder stands beside the model.
    pub fn has_encoder(&self) -> bool {
        match self {
            Self::Local(local) => local.has_encoder(),
            Self::Served(served) => served.has_encoder(),
        }
    }

    /// The model of one of [`runs`](Self::runs), as the run's specification has it.
    pub fn model_spec(&self, run: usize) -> Result<ModelSpec> {
        match self {
            Self::Local(local) => local.model_spec(run),
            Self::Served(served) => Ok(served.model_spec(run)),
        }
    }

    /// The encoder, as the specification of one of [`runs`](Self::runs) has it.
    pub fn encoder_spec(&self, run: usize) -> Result<Option<EncoderSpec>> {
        match self {
            Self::Local(local) => local.encoder_spec(run),
            Self::Served(served) => served.encoder_spec(),
        }
    }

    /// What the adapter of `run` says of its training, its `emt.json`.
    pub fn provenance(&self, run: usize) -> Option<&Value> {
        match self {
            Self::Local(local) => local.provenance(run),
            Self::Served(_) => None,
        }
    }

    /// The largest relative change of a tower tensor against the encoder's; null where they were not compared.
    pub fn tower_change(&self) -> Value {
        match self {
            Self::Local(local) => local.tower_change(),
            Self::Served(_) => Value::Null,
        }
    }

    /// The relative change of each layer of the tower against the encoder's, where they were compared and differ.
    pub fn tower_change_by_layer(&self) -> Option<Value> {
        match self {
            Self::Local(local) => local.tower_change_by_layer(),
            Self::Served(_) => None,
        }
    }

    /// The tower of one of the runs that a probe stands on.
    pub fn probe_tower(&self, run: usize) -> Result<String> {
        match self {
            Self::Local(local) => local.probe_tower(run),
            Self::Served(_) => bail!("a server does not show its model's tower"),
        }
    }

    /// What a person should know of one of the runs, as it is recorded.
    pub fn warnings_of(&self, run: usize) -> Vec<String> {
        match self {
            Self::Local(local) => local.warnings_of(run),
            Self::Served(served) => served.warnings(),
        }
    }

    /// The version of transformers that saved the model of `run`, or its adapter, where they say so.
    pub fn transformers_version(&self, run: usize) -> Option<&str> {
        match self {
            Self::Local(local) => local.transformers_version(run),
            Self::Served(_) => None,
        }
    }

    /// What `run.json` records of a served model's server.
    pub fn server(&self, run: usize) -> Option<Value> {
        match self {
            Self::Local(_) => None,
            Self::Served(served) => Some(served.environment(run)),
        }
    }

    /// Requests that scoring `n_labels` labels on one image takes; none where the model runs here.
    pub fn n_requests_per_scoring(&self, run: usize, n_labels: usize) -> usize {
        match self {
            Self::Local(_) => 0,
            Self::Served(served) => served.n_requests_per_scoring(run, n_labels),
        }
    }

    /// Reads the weights. What towers that run here make of images is looked up in `cache`, and kept there.
    pub fn load(self, placement: &Placement, cache: Option<Arc<FeatureCache>>) -> Result<LoadedSubjects> {
        Ok(match self {
            Self::Local(local) => LoadedSubjects::Local(local.load(placement, cache)?),
            Self::Served(served) => LoadedSubjects::Served(ReadyServer(served.load(placement)?)),
        })
    }
}
