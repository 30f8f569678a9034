//! The subjects of a run: located, opened and checked before any weights are loaded.

use std::cell::OnceCell;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::candidates::{Base, OpenedAdapter, Reading, adapter_warnings, no_encoder, open_adapters};
use super::features::{Origins, RunFeatures};
use super::respondent::{Description, Loaded, Opened, RunDescription, WARNINGS};
use super::subjects::LocalRespondent;
use super::subjects_request::{EncoderChoice, SubjectsRequest};
use crate::compare::{self, FieldDifference};
use crate::domain::{Conversation, EncoderRelation, EncoderSpec, ModelPart, ModelSpec, RunId};
use crate::model::Placement;
use crate::model::checkpoint::overlay::Overlay;
use crate::model::checkpoint::weights::{Adapter, Located, Miniature, Role, Weakening, Weights, is_embedded};
use crate::model::families;
use crate::model::families::{Model, ModelSettings, OpenedModel};
use crate::model::run::features::computed_by;
use crate::model::run::memory::{self, MemoryNeed};
use crate::model::run::scoring::LabelTrie;
use crate::model::run::subjects::{Subjects, TowerKeys};
use crate::model::vision::encoders::OpenedEncoder;
use crate::model::vision::preprocess::ImageProcessor;
use crate::model::vision::tower_comparison;
use crate::model::vision::tower_comparison::{TOWER, TowerComparison};
use crate::record::FeatureCache;

/// Model and encoder, opened and compared. No weights are read yet.
pub struct OpenedSubjects {
    model: OpenedModel,
    /// The hash of its weights, computed once because they are many gigabytes.
    model_hash: String,
    adapters: Vec<OpenedAdapter>,
    has_base: bool,
    is_merged: bool,
    /// What is used of the model itself.
    part: ModelPart,
    allows_idle: bool,
    encoder: Option<(OpenedEncoder, TowerComparison)>,
    encoder_hash: Option<String>,
    missing_encoder: Option<String>,
    /// The hash of the base's tower, once it was needed.
    tower_hash: OnceCell<String>,
}

impl OpenedSubjects {
    /// Opens the requested subjects.
    pub fn open(request: &SubjectsRequest) -> Result<Self> {
        let hub = request.hub;
        let checkpoint = hub.find(request.model, Role::Model)?.open(Miniature::Model)?;
        let family = families::family_of(&checkpoint)?;
        let named = (family.tower_reference)(&checkpoint);
        let found = match &named {
            Some(name) => {
                let role = if request.encoder == EncoderChoice::Auto { Role::Model } else { Role::Tower };
                let may_fetch = !matches!(request.encoder, EncoderChoice::Folder(_));
                hub.find_tower(name, &checkpoint.dir, role, may_fetch)?
            }
            None => None,
        };
        let encoder_at: Option<Located> = match &request.encoder {
            EncoderChoice::Folder(dir) => Some(hub.find(dir, Role::Model)?),
            EncoderChoice::None => None,
            EncoderChoice::Auto if is_embedded(request.model) => Some(Located::folder(request.model)),
            EncoderChoice::Auto => found.clone(),
        };
        let missing_encoder = (request.encoder == EncoderChoice::Auto && encoder_at.is_none())
            .then(|| no_encoder(&checkpoint, named.as_deref(), hub));
        // If the checkpoint only names its tower, the given encoder may hold it.
        let tower_at = found.or_else(|| encoder_at.clone());
        let tower = match (&named, &tower_at) {
            (Some(_), Some(at)) => Some(at.open(Miniature::Encoder)?),
            _ => None,
        };
        let model = OpenedModel::open_within(
            &checkpoint,
            tower.as_ref(),
            request.template,
            &request.pixels,
            request.generation,
        );
        // If the checkpoint only names its tower, a missing encoder may leave the model without one.
        let model = match &missing_encoder {
            Some(missing) if named.is_some() => model.with_context(|| missing.clone())?,
            _ => model?,
        };
        let base = Base { checkpoint: &checkpoint, tower: tower.as_ref(), model: &model };
        let mut adapters = open_adapters(request, family.canonical, &base)?;
        let encoder = match encoder_at.filter(|_| request.is_zero_shot) {
            Some(at) => {
                let encoder = OpenedEncoder::open(at.open(Miniature::Encoder)?)?;
                let comparison = tower_comparison::compare(&model.weights, &encoder.weights)?;
                Some((encoder, comparison))
            }
            None => None,
        };
        let SubjectsRequest { has_base, is_merged, allows_idle, .. } = *request;
        let hash =
            |weights: &Weights| request.hashes.as_ref().map_or_else(|| weights.hash(), |memory| memory.hash(weights));
        let model_hash = hash(&model.weights)?;
        for opened in &mut adapters {
            opened.warnings = adapter_warnings(opened, &model, &model_hash, encoder.is_some())?;
        }
        let encoder_hash = encoder.as_ref().map(|(encoder, _)| hash(&encoder.weights)).transpose()?;
        Ok(Self {
            model,
            model_hash,
            adapters,
            has_base,
            is_merged,
            part: ModelPart { image_attention: request.image_attention, ..ModelPart::default() },
            allows_idle,
            encoder,
            encoder_hash,
            missing_encoder,
            tower_hash: OnceCell::new(),
        })
    }

    /// The names of the runs, in order: `None` is the model without adapter.
    fn runs(&self) -> Vec<Option<&str>> {
        let adapters = self.adapters.iter().map(|opened| Some(opened.name.as_str()));
        if self.has_base { std::iter::once(None).chain(adapters).collect() } else { adapters.collect() }
    }

    /// Warnings about the model and all adapters.
    fn warnings(&self) -> Vec<String> {
        let of_adapters = self.adapters.iter().flat_map(|opened| opened.warnings.iter());
        self.model.warnings.iter().chain(of_adapters).cloned().collect()
    }

    /// Warnings about the model and the adapter of `run`.
    fn warnings_of(&self, run: RunId) -> Vec<String> {
        let of_adapter = self.adapter(run).into_iter().flat_map(|opened| opened.warnings.iter());
        self.model.warnings.iter().chain(of_adapter).cloned().collect()
    }

    fn adapter(&self, run: RunId) -> Option<&OpenedAdapter> {
        self.adapters.get(run.place().checked_sub(usize::from(self.has_base))?)
    }

    /// The first adapter with the base's weights, and the settings in which its model differs from the base.
    pub fn candidate(&self) -> Option<(&Adapter, &Weights, Vec<FieldDifference>)> {
        let run = RunId::new(usize::from(self.has_base));
        Some((&self.adapter(run)?.adapter, &self.model.weights, self.own_differences(run)))
    }

    /// The settings, preparation of images and chat template in which the model of `run` differs from the base.
    fn own_differences(&self, run: RunId) -> Vec<FieldDifference> {
        let (base, own) = (self.base_reading(), self.reading(run));
        let mut differences = self.own_settings(run);
        let prepared = compare::setting_differences(&base.preprocessor.parameters(), &own.preprocessor.parameters());
        differences
            .extend(prepared.into_iter().map(|one| FieldDifference { field: "preprocessing".to_owned(), ..one }));
        let templates = [&base, &own].map(|reading| Value::from(reading.dialogue.template.hash()));
        if templates[0] != templates[1] {
            let [baseline, candidate] = templates;
            differences.push(FieldDifference {
                field: "chat_template".to_owned(),
                place: String::new(),
                baseline,
                candidate,
            });
        }
        differences
    }

    /// The number of runs: one per adapter, plus one for the model unless it is left out.
    pub fn n_runs(&self) -> usize {
        self.adapters.len() + usize::from(self.has_base)
    }

    /// The number of layers of the language model, and the greatest number of positions of an image.
    pub fn n_layers_and_image_positions(&self) -> (usize, usize) {
        (self.model.plan.n_layers(), self.model.plan.n_image_positions_max())
    }

    /// Whether there is an encoder.
    pub fn has_encoder(&self) -> bool {
        self.encoder.is_some()
    }

    /// The configuration of the model of `run`: its own, or its base's.
    fn reading(&self, run: RunId) -> Reading<'_> {
        match self.adapter(run).and_then(|opened| opened.own.as_ref()) {
            Some(own) => Reading {
                plan: own.plan.as_ref(),
                dialogue: &own.dialogue,
                preprocessor: &own.preprocessor,
                config_hash: &own.config_hash,
            },
            None => self.base_reading(),
        }
    }

    fn base_reading(&self) -> Reading<'_> {
        Reading {
            plan: self.model.plan.as_ref(),
            dialogue: &self.model.dialogue,
            preprocessor: &self.model.preprocessor,
            config_hash: &self.model.config_hash,
        }
    }

    /// Renders the prompt of a question to the model of `run`, before anything is loaded.
    pub fn render(&self, run: RunId, conversation: &Conversation) -> Result<families::RenderedPrompt> {
        self.reading(run).dialogue.render_conversation(conversation)
    }

    /// Builds the trie of a dataset's labels as the model of `run` continues its prompt, before anything is loaded.
    pub fn label_trie(&self, run: RunId, prompt: &families::RenderedPrompt, labels: &[&str]) -> Result<LabelTrie> {
        self.reading(run).dialogue.label_trie(prompt, labels)
    }

    /// Refuses prompts that, with answers of up to `n_answer_tokens`, exceed the positions of the model of `run`.
    pub fn check_length(
        &self,
        run: RunId,
        dataset: &str,
        n_prompt_tokens: usize,
        n_answer_tokens: usize,
    ) -> Result<()> {
        let Reading { plan, dialogue, .. } = self.reading(run);
        let n_positions = plan.n_positions();
        if n_prompt_tokens + n_answer_tokens > n_positions {
            bail!(
                "the prompt of `{dataset}` takes {n_prompt_tokens} positions ({} of them the image) and its answer up to \
                 {n_answer_tokens}, together {}, but the model has {n_positions}{}; hint: `--prompt emt-open` leaves the \
                 class list out, `--max-new-tokens` shortens the answer",
                dialogue.n_image_positions_max(),
                n_prompt_tokens + n_answer_tokens,
                plan.limit().map(|why| format!(" ({why})")).unwrap_or_default(),
            );
        }
        Ok(())
    }

    /// Returns the batch size: `wanted`, or what memory allows. An error with both figures if it cannot fit.
    pub fn batch_size(&self, wanted: Option<usize>, n_tokens_max: usize, placement: &Placement) -> Result<usize> {
        let need = MemoryNeed {
            n_weight_bytes: self.n_weight_bytes(placement)? as u64,
            n_numbers_per_row: RunId::all(self.n_runs())
                .map(|run| self.reading(run).plan.n_numbers_per_row(n_tokens_max))
                .fold(self.model.plan.n_numbers_per_row(n_tokens_max), usize::max),
            // A CPU keeps caches and activations in f32 for every compute type.
            bytes_per_number: if placement.device.is_cpu() { 4 } else { placement.dtype.size_in_bytes() },
        };
        // Only the machine's own memory is known; a GPU reports out-of-memory errors itself.
        let free = if placement.device.is_cpu() { memory::free_bytes() } else { None };
        need.batch_size(wanted, free)
    }

    /// Bytes of the base, its encoder, its adapters and the copies that merging makes. On a CPU weights are packed in
    /// the type that they are stored in, or rounded. Elsewhere they have the compute type, as adapter parameters and
    /// copies do everywhere.
    fn n_weight_bytes(&self, placement: &Placement) -> Result<usize> {
        let n_bytes_each = placement.dtype.size_in_bytes();
        let of = |weights: &Weights| match placement.device.is_cpu() {
            true => weights.n_bytes_rounded(|name, shape| placement.rounds(name, shape)),
            false => weights.n_parameters() * n_bytes_each,
        };
        let is_copy = |opened: &&OpenedAdapter| self.is_merged || opened.part.merged_as.is_some();
        let n_copies = self.adapters.iter().filter(is_copy).count();
        let n_adapters: usize = self.adapters.iter().map(|opened| opened.adapter.n_parameters()).sum();
        let n_added = self.model.weights.n_parameters() * n_copies + n_adapters;
        let n_encoder = match &self.encoder {
            Some((encoder, _)) if placement.device.is_cpu() && self.shares_tower()? => encoder.n_bytes_beside_tower(),
            Some((encoder, _)) => of(&encoder.weights),
            None => 0,
        };
        Ok(of(&self.model.weights) + n_encoder + n_added * n_bytes_each)
    }

    /// The model of `run`, for the run's specification.
    fn model_spec(&self, run: RunId) -> Result<ModelSpec> {
        let (model, adapter) = (&self.model, self.adapter(run));
        let Reading { dialogue, preprocessor, .. } = self.reading(run);
        let own: serde_json::Map<String, Value> =
            self.own_settings(run).into_iter().map(|one| (one.place, one.candidate)).collect();
        Ok(ModelSpec {
            name: match adapter {
                Some(adapter) => format!("{}+{}", model.name, adapter.name),
                None => model.name.clone(),
            },
            family: model.family.to_owned(),
            weights: Some(self.model_hash.clone()),
            adapter: adapter.map(|adapter| adapter.hash.clone()),
            merged: adapter.is_some_and(|adapter| self.is_merged || adapter.part.merged_as.is_some()),
            tokenizer: Some(dialogue.tokenizer.hash()?),
            chat_template: Some(dialogue.template.hash()),
            preprocessing: preprocessor.parameters(),
            settings: Some(self.settings(run)),
            own_settings: (!own.is_empty()).then_some(Value::Object(own)),
            generation_config: dialogue.generation().recorded(),
            served: None,
            part: Some(adapter.map_or(&self.part, |adapter| &adapter.part)).filter(|part| !part.is_whole()).cloned(),
        })
    }

    /// The encoder, for the specification of `run`.
    fn encoder_spec(&self, run: RunId) -> Result<Option<EncoderSpec>> {
        let (Some((encoder, comparison)), Some(weights)) = (&self.encoder, &self.encoder_hash) else { return Ok(None) };
        let is_changed = self.changes_tower(run);
        let relation = match comparison.relation {
            EncoderRelation::Own if is_changed => EncoderRelation::Changed,
            relation => relation,
        };
        Ok(Some(EncoderSpec {
            name: encoder.name(),
            family: encoder.family().to_owned(),
            weights: weights.clone(),
            tokenizer: encoder.tokenizer.hash()?,
            preprocessing: ImageProcessor::parameters(&encoder.preprocessor),
            relation,
            tower_equal: comparison.tower_equal && !is_changed,
            tower_change: comparison.change(),
        }))
    }

    /// Identifies the tower that a probe of `run` uses. It is equal for runs with equal towers.
    fn tower_of(&self, run: RunId) -> Result<String> {
        let of_base = self.base_tower()?;
        let changing = self.adapter(run).filter(|opened| opened.adapter.n_touched(TOWER) > 0);
        let of_candidate = |opened: &OpenedAdapter| match opened.part.strength {
            Some(strength) => format!("{of_base}+{} {strength:?}", opened.hash),
            None => format!("{of_base}+{}", opened.hash),
        };
        let tower = changing.map_or_else(|| of_base.to_owned(), of_candidate);
        let (own, base) = (self.reading(run), self.base_reading());
        Ok(match own.sees_as(&base) {
            true => tower,
            false => format!("{tower} {} {}", own.plan.tower_settings(), own.preprocessor.parameters()),
        })
    }

    /// Returns what decides each tower's features, so that equal towers are shared.
    fn tower_keys(&self) -> Result<TowerKeys> {
        let of = |run: RunId| Ok::<_, anyhow::Error>(format!("{}{}", self.tower_of(run)?, self.merging(run)));
        Ok(TowerKeys {
            of_base: self.base_tower()?.to_owned(),
            of_runs: RunId::all(self.n_runs()).map(of).collect::<Result<_>>()?,
        })
    }

    /// How the tower of `run` is merged: an unmerged update rounds differently from a merged one, and each merged run has its
    /// own copy.
    fn merging(&self, run: RunId) -> String {
        let merged_as = self.adapter(run).and_then(|opened| opened.part.merged_as);
        match (self.changes_tower(run), merged_as, self.is_merged) {
            (true, Some(merged_as), _) => format!(" merged {}", merged_as.name()),
            (true, None, true) => " merged".to_owned(),
            _ => String::new(),
        }
    }

    /// The settings of the model of `run` that its configuration decides.
    fn settings(&self, run: RunId) -> Value {
        let own = self.adapter(run).and_then(|opened| opened.own.as_ref());
        own.map_or_else(|| self.model.settings_json(), ModelSettings::to_json)
    }

    /// The settings in which the model of `run` differs from the base.
    fn own_settings(&self, run: RunId) -> Vec<FieldDifference> {
        compare::setting_differences(&self.model.settings_json(), &self.settings(run))
    }

    /// Returns what decides the towers' features, apart from the image.
    fn origins(&self, placement: &Placement) -> Result<Origins> {
        let of_run = |run| {
            let Reading { preprocessor, config_hash, .. } = self.reading(run);
            let preparation = preprocessor.parameters();
            let (tower, merging) = (self.tower_of(run)?, self.merging(run));
            let tower = format!("{} {config_hash} {tower}{merging}", self.model.family);
            Ok(computed_by(&tower, &preparation, placement, false))
        };
        let runs = RunId::all(self.n_runs()).map(of_run).collect::<Result<_>>()?;
        let (Some((encoder, _)), Some(weights)) = (&self.encoder, &self.encoder_hash) else {
            return Ok(Origins { runs, encoder: None });
        };
        let preparation = ImageProcessor::parameters(&encoder.preprocessor);
        let mut tower = format!("{} {} {weights}", encoder.family(), encoder.config_hash());
        // Equal towers may be stored in types of different widths.
        if self.shares_tower()? {
            tower.push_str(&format!(" with {} {}", self.model.config_hash, self.base_tower()?));
        }
        Ok(Origins { runs, encoder: Some(computed_by(&tower, &preparation, placement, false)) })
    }

    /// Whether the base and the encoder share one tower: it computes the same and is loaded once.
    fn shares_tower(&self) -> Result<bool> {
        let Some((encoder, _)) = self.encoder.as_ref().filter(|(_, comparison)| comparison.tower_equal) else {
            return Ok(false);
        };
        let Some(config) = self.model.plan.plain_tower() else { return Ok(false) };
        Ok(*config == encoder.vision_config()?)
    }

    fn changes_tower(&self, run: RunId) -> bool {
        self.adapter(run).is_some_and(|opened| opened.adapter.n_touched(TOWER) > 0)
    }

    fn base_tower(&self) -> Result<&str> {
        let hash = match self.tower_hash.get() {
            Some(hash) => hash,
            None => {
                let hash = tower_comparison::hash(&self.model.weights)?;
                self.tower_hash.get_or_init(|| hash)
            }
        };
        Ok(hash)
    }

    /// Reads the weights. Tower features of images are looked up and stored in `cache`.
    fn load_all(self, placement: &Placement, cache: Option<Arc<FeatureCache>>) -> Result<LocalRespondent> {
        let origins = cache.as_ref().map(|_| self.origins(placement)).transpose()?;
        let shares_tower = self.shares_tower()?;
        let keys = self.tower_keys()?;
        let must_differ =
            self.by_run(|adapter| adapter.filter(|_| !self.allows_idle).map(|opened| opened.name.clone()));
        let models = load_models((self.model, self.part), self.adapters, self.is_merged, placement)?;
        let tower = models.first().and_then(|base| base.mllm.plain_tower()).filter(|_| shares_tower);
        let tower = tower.map(|plain| plain.tower.clone());
        let encoder = self.encoder.map(|(encoder, _)| encoder.load_around(tower, placement)).transpose()?;
        if let Some(encoder) = &encoder {
            encoder.preprocessor.check_side(encoder.towers.tower().config().image_size(), "encoder")?;
        }
        let mut loaded = Subjects::new(models, self.has_base, &keys, encoder);
        let features = cache.zip(origins).map(|(cache, origins)| {
            loaded.tell_features();
            Arc::new(RunFeatures::new(cache, &loaded, origins, placement))
        });
        Ok(LocalRespondent::new(loaded, must_differ, features))
    }

    /// Loads the base and its adapters' models, and says whether all see the same pixels with the same tower.
    pub fn load_pair(self, placement: &Placement) -> Result<(Vec<Model>, bool)> {
        let keys = self.tower_keys()?;
        let shares_tower = keys.of_runs.iter().all(|key| *key == keys.of_base);
        Ok((load_models((self.model, self.part), self.adapters, self.is_merged, placement)?, shares_tower))
    }

    fn by_run<T>(&self, of: impl Fn(Option<&OpenedAdapter>) -> T) -> Vec<T> {
        RunId::all(self.n_runs()).map(|run| of(self.adapter(run))).collect()
    }
}

/// Loads the base, and then each adapter's model.
fn load_models(
    (base, base_part): (OpenedModel, ModelPart),
    adapters: Vec<OpenedAdapter>,
    is_merged: bool,
    placement: &Placement,
) -> Result<Vec<Model>> {
    let mut wanted = vec![(Overlay::default(), None)];
    let mut parts = vec![base_part];
    for OpenedAdapter { name, adapter, own, part, .. } in adapters {
        let weakening = Weakening { part: &part, n_layers: base.plan.n_layers(), base: &base.weights };
        let weakening = part.strength.map(|_| weakening);
        let overlay = adapter.overlay_at(weakening, placement, is_merged || part.merged_as.is_some());
        let mut overlay = overlay.with_context(|| format!("failed to load the adapter `{name}`"))?;
        if let Some(merged_as) = part.merged_as {
            overlay = overlay.rounded_to(merged_as)?;
        }
        wanted.push((overlay, own));
        parts.push(part);
    }
    let mut models = base.load_each(wanted, placement)?;
    for (model, part) in models.iter_mut().zip(parts) {
        (model.is_blind, model.image_attention) = (part.is_blind, part.image_attention);
    }
    Ok(models)
}

impl OpenedSubjects {
    /// What the `emt.json` of the adapter of `run` says about its training.
    fn provenance(&self, run: RunId) -> Option<&Value> {
        self.adapter(run).and_then(|opened| opened.adapter.provenance.as_ref())
    }

    /// The version of transformers that saved the adapter of `run` or the model, if recorded.
    fn transformers_version(&self, run: RunId) -> Option<&str> {
        let of_adapter = self.adapter(run).and_then(|opened| opened.adapter.notes.transformers_version.as_deref());
        of_adapter.or(self.model.notes.transformers_version.as_deref())
    }

    /// Why no encoder was found, if one was searched for.
    pub fn missing_encoder(&self) -> Option<&str> {
        self.missing_encoder.as_deref()
    }

    /// What `run.json` records of the model of `run` in addition to its specification.
    fn environment(&self, run: RunId) -> Map<String, Value> {
        let compared = self.encoder.as_ref().map(|(_, comparison)| comparison);
        // The largest relative change of a tower tensor against the encoder's, and that of each layer; null if they
        // were not compared.
        let largest = json!(compared.and_then(|comparison| comparison.largest_change));
        let mut environment = Map::from_iter([("tower_change".to_owned(), largest)]);
        if let Some(comparison) = compared.filter(|comparison| !comparison.tower_equal && !comparison.layers.is_empty())
        {
            environment.insert("tower_change_by_layer".to_owned(), json!(comparison.layers));
        }
        if let Some(version) = self.transformers_version(run) {
            environment.insert("transformers_version".to_owned(), version.into());
        }
        let warnings = self.warnings_of(run);
        if !warnings.is_empty() {
            environment.insert(WARNINGS.to_owned(), warnings.into());
        }
        environment
    }
}

impl Opened for OpenedSubjects {
    fn describe(&self) -> Result<Description> {
        let run = |(run, name): (RunId, Option<&str>)| {
            Ok(RunDescription {
                name: name.map(str::to_owned),
                model: self.model_spec(run)?,
                encoder: self.encoder_spec(run)?,
                provenance: self.provenance(run).cloned(),
                environment: self.environment(run),
            })
        };
        let runs = RunId::all(self.n_runs()).zip(self.runs()).map(run).collect::<Result<_>>()?;
        Ok(Description { runs, warnings: self.warnings() })
    }

    fn probe_tower(&self, run: RunId) -> Result<String> {
        self.tower_of(run)
    }

    fn load(self: Box<Self>, placement: &Placement, cache: Option<Arc<FeatureCache>>) -> Result<Loaded> {
        Ok(Loaded(Box::new(self.load_all(placement, cache)?)))
    }
}
