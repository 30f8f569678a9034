//! The kinds of respondents: local models and models behind a server. A new kind is one file here and one line where
//! kinds are listed.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use anyhow::Result;
use serde_json::{Map, Value};

use super::features::RunFeatures;
use super::images::ImageSource;
use super::subjects::AnsweredBatch;
use super::task::Task;
use crate::domain::{EncoderSpec, Mode, ModelSpec, RunId};
use crate::model::Placement;
use crate::record::FeatureCache;

/// The key of a served model's server in the environment of `run.json`.
pub const SERVER: &str = "server";
/// The key of a run's warnings in the environment of `run.json`.
pub(super) const WARNINGS: &str = "warnings";

/// What is known of the subjects before any weights are read.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// One entry per run, in order.
    pub runs: Vec<RunDescription>,
    /// Warnings about all runs.
    pub warnings: Vec<String>,
}

/// One run of a [`Description`].
#[derive(Clone, Debug)]
pub struct RunDescription {
    /// The name of its adapter or served model; `None` for the model without an adapter.
    pub name: Option<String>,
    /// The model, for the run's specification.
    pub model: ModelSpec,
    /// The encoder, for the run's specification.
    pub encoder: Option<EncoderSpec>,
    /// What its adapter's `emt.json` says about its training.
    pub provenance: Option<Value>,
    /// What `run.json` records in addition to the specification.
    pub environment: Map<String, Value>,
}

/// Opened and checked subjects. No weights are read yet.
pub trait Opened {
    /// Describes its runs.
    ///
    /// # Errors
    /// A file of the checkpoint cannot be read.
    fn describe(&self) -> Result<Description>;

    /// Identifies the tower that a probe of `run` uses.
    ///
    /// # Errors
    /// The run has no readable tower.
    fn probe_tower(&self, run: RunId) -> Result<String>;

    /// The requests to a server that score `n_labels` labels on one image; 0 if the model runs locally.
    fn n_requests_per_scoring(&self, _run: RunId, _n_labels: usize) -> usize {
        0
    }

    /// Reads the weights. Features of local towers are looked up and stored in `cache`.
    ///
    /// # Errors
    /// A tensor cannot be read or does not fit.
    fn load(self: Box<Self>, placement: &Placement, cache: Option<Arc<FeatureCache>>) -> Result<Loaded>;
}

/// Loaded subjects, ready to answer.
pub struct Loaded(pub(super) Box<dyn Respondent>);

/// What is asked about every image of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The modes of the models.
    pub modes: &'a [Mode],
    /// Generation stops after this many tokens.
    pub max_new_tokens: usize,
}

/// Answers the images of a session's tasks.
pub(super) trait Respondent: Send {
    /// Prepares the questions of `tasks`. It is called once, before anything is asked.
    fn prepare(&mut self, tasks: &[Task], asked: &Asked<'_>) -> Result<()>;

    /// Answers all images of `source` and sends each answer as it arrives. Returns early if the receiver is gone.
    fn answer_all(&mut self, source: &ImageSource<'_>, sender: &SyncSender<Result<AnsweredBatch>>);

    /// The cache of tower features.
    fn features(&self) -> Option<Arc<RunFeatures>> {
        None
    }

    /// Asks the model of `run` again about images of a task, given by their positions in `dataset`. No other request
    /// may be in flight. `None` if there is no answer this time, or if equal questions always get equal answers.
    fn ask_again(&self, _run: RunId, _task: &Task, positions: &[usize]) -> Result<Vec<Option<String>>> {
        Ok(vec![None; positions.len()])
    }
}
