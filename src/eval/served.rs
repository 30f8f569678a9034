//! Served models as the subjects of a run, and a local encoder.

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use serde_json::{Map, Value};

use super::desk::ServedRespondent;
use super::respondent::{Description, Loaded, Opened, RunDescription, SERVER, WARNINGS};
use super::subjects_request::EncoderChoice;
use crate::domain::{EncoderRelation, EncoderSpec, ModelSpec, RunId, RunSet};
use crate::model::Placement;
use crate::model::checkpoint::weights::{Hub, Miniature, Role};
use crate::model::run::served::{LabelScoring, ServedName, Server, ServerRequest};
use crate::model::vision::encoders::OpenedEncoder;
use crate::model::vision::preprocess::ImageProcessor;
use crate::model::vision::zero_shot::ZeroShot;
use crate::record::FeatureCache;

/// A request for served models.
pub struct ServedRequest<'a> {
    /// The server and its models.
    pub server: ServerRequest,
    /// The encoder; `auto` is none, since a server does not report its model's encoder.
    pub encoder: EncoderChoice,
    /// Resolves hub names.
    pub hub: &'a Hub<'a>,
}

/// A probed server and an opened encoder. No weights are read yet.
pub struct ServedSubjects {
    server: Server,
    encoder: Option<(OpenedEncoder, String)>,
}

/// Images per batch of preparation and encoder: few, since requests wait meanwhile.
pub const SERVED_BATCH_SIZE: usize = 16;

/// The family in `run.json` of a model that is known only by name.
const FAMILY: &str = "served";

/// Refuses too many models, and models whose runs would share a name.
pub fn refuse_equal_names(models: &[ServedName]) -> Result<()> {
    let names: Vec<String> = models.iter().map(run_name).collect();
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            bail!("two runs would be called `{name}`; hint: give one another name, as --served-model NAME=MODEL");
        }
    }
    if names.len() > RunSet::N_RUNS_MAX {
        bail!("{} models are too many at once; hint: give at most {}", names.len(), RunSet::N_RUNS_MAX);
    }
    Ok(())
}

/// The name of a served model's run, valid as a folder name.
fn run_name(model: &ServedName) -> String {
    match &model.name {
        Some(name) => name.clone(),
        // A repository's name contains a slash, but must be one folder.
        None => model.model.replace(['/', '\\'], "--"),
    }
}

impl ServedSubjects {
    /// Opens the encoder, and probes the server.
    pub fn open(request: &ServedRequest<'_>) -> Result<Self> {
        let encoder = match &request.encoder {
            EncoderChoice::Auto | EncoderChoice::None => None,
            EncoderChoice::Folder(dir) => {
                let opened = OpenedEncoder::open(request.hub.find(dir, Role::Model)?.open(Miniature::Encoder)?)?;
                let hash = opened.weights.hash()?;
                Some((opened, hash))
            }
        };
        let server = Server::open(request.server.clone())?;
        Ok(Self { server, encoder })
    }

    /// The number of runs.
    pub fn n_runs(&self) -> usize {
        self.server.models().len()
    }

    /// The names of the runs, in order, valid as folder names.
    fn runs(&self) -> Vec<String> {
        self.server.models().iter().map(|model| run_name(&model.name)).collect()
    }

    /// Warnings about the server and the encoder.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.server.warnings.clone();
        if self.encoder.is_some() {
            warnings.push(
                "a server does not report which tower its model has: the encoder counts as another one".to_owned(),
            );
        }
        warnings
    }

    /// Whether there is an encoder.
    pub fn has_encoder(&self) -> bool {
        self.encoder.is_some()
    }

    /// The model of `run`, for the run's specification; null where the server does not report a value.
    fn model_spec(&self, run: usize) -> ModelSpec {
        ModelSpec {
            name: self.server.models()[run].name.model.clone(),
            family: FAMILY.to_owned(),
            weights: None,
            adapter: None,
            merged: false,
            tokenizer: None,
            chat_template: None,
            preprocessing: Value::Null,
            settings: None,
            own_settings: None,
            generation_config: Value::Null,
            served: Some(self.server.spec(run)),
            part: None,
        }
    }

    /// The encoder, for the specification.
    fn encoder_spec(&self) -> Result<Option<EncoderSpec>> {
        let Some((encoder, weights)) = &self.encoder else { return Ok(None) };
        Ok(Some(EncoderSpec {
            name: encoder.name(),
            family: encoder.family().to_owned(),
            weights: weights.clone(),
            tokenizer: encoder.tokenizer.hash()?,
            preprocessing: ImageProcessor::parameters(&encoder.preprocessor),
            relation: EncoderRelation::Other,
            tower_equal: false,
            tower_change: None,
        }))
    }
}

impl Opened for ServedSubjects {
    fn describe(&self) -> Result<Description> {
        let (warnings, encoder) = (self.warnings(), self.encoder_spec()?);
        let run = |(run, name): (usize, String)| {
            let mut environment = Map::from_iter([("tower_change".to_owned(), Value::Null)]);
            if !warnings.is_empty() {
                environment.insert(WARNINGS.to_owned(), warnings.clone().into());
            }
            environment.insert(SERVER.to_owned(), self.server.environment(run));
            RunDescription {
                name: Some(name),
                model: self.model_spec(run),
                encoder: encoder.clone(),
                provenance: None,
                environment,
            }
        };
        Ok(Description { runs: self.runs().into_iter().enumerate().map(run).collect(), warnings: warnings.clone() })
    }

    fn probe_tower(&self, _run: RunId) -> Result<String> {
        bail!("a server does not show its model's tower")
    }

    fn n_requests_per_scoring(&self, run: RunId, n_labels: usize) -> usize {
        match &self.server.models()[run.place()].label_scoring {
            Some(LabelScoring::PromptLogprobs { .. }) => n_labels,
            Some(LabelScoring::Constraint(_)) => 1,
            None => 0,
        }
    }

    fn load(self: Box<Self>, placement: &Placement, _cache: Option<Arc<FeatureCache>>) -> Result<Loaded> {
        let load = |(encoder, _): (OpenedEncoder, String)| ZeroShot::new(encoder.load(placement)?);
        let encoder = self.encoder.map(load).transpose().context("failed to load the encoder")?;
        Ok(Loaded(Box::new(ServedRespondent::new(self.server, encoder))))
    }
}
