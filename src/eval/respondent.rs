//! What can be asked: models that run here, models behind a server. A third kind is a file here and a line where kinds are
//! listed.

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

/// The key of `run.json`'s environment under which a served model's server stands.
pub const SERVER: &str = "server";
/// The key of `run.json`'s environment under which the warnings of a run stand.
pub(super) const WARNINGS: &str = "warnings";

/// What is known of whoever will be asked, before a weight is read.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// One entry per run, in order.
    pub runs: Vec<RunDescription>,
    /// What a person should know of all of them.
    pub warnings: Vec<String>,
}

/// One run of whoever will be asked.
#[derive(Clone, Debug)]
pub struct RunDescription {
    /// The name of its adapter or served model; `None` is the model without an adapter.
    pub name: Option<String>,
    /// The model, as the run's specification has it.
    pub model: ModelSpec,
    /// The encoder, as the run's specification has it.
    pub encoder: Option<EncoderSpec>,
    /// What its adapter says of its training, its `emt.json`.
    pub provenance: Option<Value>,
    /// What `run.json` records of them beside the specification.
    pub environment: Map<String, Value>,
}

/// Opened and understood; no weight is read yet.
pub trait Opened {
    /// What is known of its runs.
    ///
    /// # Errors
    /// A file of the checkpoint cannot be read.
    fn describe(&self) -> Result<Description>;

    /// The tower that a probe of `run` stands on.
    ///
    /// # Errors
    /// It has no tower that could be read.
    fn probe_tower(&self, run: RunId) -> Result<String>;

    /// Requests to a server that scoring `n_labels` labels on one image takes; none where the model runs here.
    fn n_requests_per_scoring(&self, _run: RunId, _n_labels: usize) -> usize {
        0
    }

    /// Reads the weights. What towers that run here make of images is looked up in `cache`, and kept there.
    ///
    /// # Errors
    /// A tensor cannot be read or does not fit.
    fn load(self: Box<Self>, placement: &Placement, cache: Option<Arc<FeatureCache>>) -> Result<Loaded>;
}

/// Loaded: it can be asked.
pub struct Loaded(pub(super) Box<dyn Respondent>);

/// How every image of a session is asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// What the models do.
    pub modes: &'a [Mode],
    /// Generation stops after this many tokens.
    pub max_new_tokens: usize,
}

/// What can be asked to answer the images of a session's tasks.
pub(super) trait Respondent: Send {
    /// Makes ready what is asked of `tasks`; called once, before anything is asked.
    fn prepare(&mut self, tasks: &[Task], asked: &Asked<'_>) -> Result<()>;

    /// Answers all images of `source`, and sends what is answered as it comes. It returns early where nobody listens.
    fn answer_all(&mut self, source: &ImageSource<'_>, sender: &SyncSender<Result<AnsweredBatch>>);

    /// Where features of towers are kept.
    fn features(&self) -> Option<Arc<RunFeatures>> {
        None
    }

    /// Asks the model of `run` again about samples of `task`, given their positions in its dataset; nothing else may be
    /// under way. `None` where there is no answer this time, or where the same question always gets the same answer.
    fn ask_again(&self, _run: RunId, _task: &Task, positions: &[usize]) -> Result<Vec<Option<String>>> {
        Ok(vec![None; positions.len()])
    }
}
