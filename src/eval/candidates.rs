//! Adapters over a base: found, named, read with their own settings, and described.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::subjects_request::{AdapterRequest, SubjectsRequest};
use crate::compare::{self, FieldDifference};
use crate::domain::{ModelPart, RunSet};
use crate::model::checkpoint::weights::{Adapter, Canonical, Checkpoint, Hub, Role};
use crate::model::families::{Dialogue, MllmPlan, ModelSettings, OpenedModel, Overrides};
use crate::model::vision::preprocess::ImageProcessor;
use crate::model::vision::tower_comparison::TOWER;

/// An adapter that was matched to its base.
pub(super) struct OpenedAdapter {
    pub name: String,
    pub adapter: Adapter,
    pub hash: String,
    /// Its settings in place of the base's, if its folder has any.
    pub own: Option<ModelSettings>,
    /// The part of it that is used.
    pub part: ModelPart,
    /// Warnings about it.
    pub warnings: Vec<String>,
}

fn last_part(name: &str) -> &str {
    name.trim_end_matches('/').rsplit('/').next().unwrap_or(name)
}

/// Opens the adapters of `request` over their base.
pub(super) fn open_adapters(
    request: &SubjectsRequest,
    canonicalise: fn(&str) -> Canonical,
    base: &Base<'_>,
) -> Result<Vec<OpenedAdapter>> {
    let Base { checkpoint, tower, model } = *base;
    let overrides = Overrides { template: request.template, limits: &request.pixels, generation: request.generation };

    let mut opened: Vec<OpenedAdapter> = Vec::with_capacity(request.adapters.len());
    for AdapterRequest { name, path, part } in request.adapters {
        let (mut adapter, short_name) = match path {
            Some(path) => {
                let at = request.hub.find(path, Role::Adapter)?;
                let adapter = Adapter::open(&at.path, canonicalise, &model.weights)?;
                (adapter, at.short_name().map(str::to_owned))
            }
            None => (Adapter::none(), None),
        };
        let name = name.clone().or(short_name).unwrap_or_else(|| adapter.name());
        let is_taken = opened.iter().any(|other| other.name == name) || (request.has_base && name == "base");
        if is_taken {
            bail!("two runs would be called `{name}`; hint: give the adapter another name, as --adapter NAME=DIR");
        }
        let own = match part.has_base_settings || path.is_none() {
            true => None,
            false => model.own_settings(&name, &adapter, checkpoint, tower, overrides)?,
        };
        if !part.is_whole() {
            adapter.keep(|module_or_tensor| part.uses(module_or_tensor));
        }
        let is_base = own.as_ref().is_none_or(|own| is_as_base(own, model));
        if !request.allows_idle && is_base && adapter.changes_nothing(&model.weights)? {
            bail!("{}", idle(&name));
        }
        let hash = adapter.hash()?;
        let mut part = part.clone();
        if !request.image_attention.is_full() {
            part.image_attention = request.image_attention;
        }
        opened.push(OpenedAdapter { name, adapter, hash, own, part, warnings: Vec::new() });
    }
    if opened.len() + usize::from(request.has_base) > RunSet::N_RUNS_MAX {
        bail!("{} adapters are too many at once; hint: give at most {}", opened.len(), RunSet::N_RUNS_MAX - 1);
    }
    Ok(opened)
}

/// A base that adapters are opened over.
pub(super) struct Base<'a> {
    pub checkpoint: &'a Checkpoint,
    pub tower: Option<&'a Checkpoint>,
    pub model: &'a OpenedModel,
}

/// How a model is configured.
pub(super) struct Reading<'a> {
    pub plan: &'a dyn MllmPlan,
    pub dialogue: &'a Arc<Dialogue>,
    pub preprocessor: &'a Arc<dyn ImageProcessor>,
    pub config_hash: &'a str,
}

impl Reading<'_> {
    /// Whether both towers give the same features for an image if their weights are equal.
    pub fn sees_as(&self, other: &Self) -> bool {
        self.plan.tower_settings() == other.plan.tower_settings()
            && self.preprocessor.parameters() == other.preprocessor.parameters()
    }
}

/// Whether a candidate with these settings and equal weights answers as `model` does.
fn is_as_base(own: &ModelSettings, model: &OpenedModel) -> bool {
    own.to_json() == model.settings_json()
        && own.preprocessor.parameters() == model.preprocessor.parameters()
        && own.dialogue.template.hash() == model.dialogue.template.hash()
}

/// Warnings about an adapter before it is evaluated.
pub(super) fn adapter_warnings(
    opened: &OpenedAdapter,
    model: &OpenedModel,
    model_hash: &str,
    has_encoder: bool,
) -> Result<Vec<String>> {
    let OpenedAdapter { name, adapter, own, .. } = opened;
    let mut warnings: Vec<String> = adapter.warnings.iter().map(|warning| format!("{name}: {warning}")).collect();
    let other_base = adapter.base_name().filter(|base| last_part(base) != last_part(&model.name));
    if let (Some(base), None) = (other_base, &adapter.notes.quantised_base) {
        warnings.push(format!("{name} says that its base is `{base}`, but it is applied to `{}`", model.name));
    }
    let trained_over = adapter.provenance.as_ref().and_then(|notes| notes["base"]["weights"].as_str());
    if trained_over.is_some_and(|weights| weights != model_hash) {
        warnings.push(format!("{name} was trained on other weights than those of `{}`", model.name));
    }
    let n_tower = adapter.n_touched(TOWER);
    if n_tower > 0 {
        let so = if has_encoder { ": the encoder is not its tower" } else { "" };
        warnings.push(format!("{name} changes {n_tower} modules of the vision tower{so}"));
    }
    let (dialogue, preprocessor) = match own {
        Some(own) => (own.dialogue.as_ref(), own.preprocessor.as_ref()),
        None => (model.dialogue.as_ref(), model.preprocessor.as_ref()),
    };
    warnings.extend(model.adapter_warnings(name, adapter, dialogue, preprocessor)?);
    if let Some(own) = own {
        warnings.extend(told_of_own(name, own, model));
        // Warnings about the base's own files were already shown with the base.
        warnings.extend(own.warnings.iter().filter(|warning| !model.warnings.contains(warning)).cloned());
    }
    Ok(warnings)
}

/// Describes the settings in which a candidate differs from its base, if any.
fn told_of_own(name: &str, own: &ModelSettings, model: &OpenedModel) -> Option<String> {
    let mut differences = compare::shown_setting_differences(&model.settings_json(), &own.to_json());
    let prepared = compare::setting_differences(&model.preprocessor.parameters(), &own.preprocessor.parameters());
    let prepared = prepared.into_iter().map(|one| {
        let place = format!("preprocessing.{}", one.place);
        FieldDifference { place, ..one }
    });
    differences.extend(prepared);
    let mut told: Vec<String> = Vec::new();
    if !differences.is_empty() {
        told.push(compare::settings_in_words(&differences));
    }
    if own.dialogue.template.hash() != model.dialogue.template.hash() {
        told.push("another chat template".to_owned());
    }
    (!told.is_empty())
        .then(|| format!("{name} runs with its own settings, which differ from the base's: {}", told.join("; ")))
}

/// Returns the error message for an adapter without any effect.
pub(super) fn idle(name: &str) -> String {
    format!(
        "the adapter `{name}` changes nothing: the model would be its base, and a comparison would find no forgetting; \
         hint: it was saved before training or belongs to another model, --allow-noop-adapter evaluates it anyway"
    )
}

/// Says why there is no encoder for `checkpoint`, whose tower is called `named`.
pub(super) fn no_encoder(checkpoint: &Checkpoint, named: Option<&str>, hub: &Hub) -> String {
    let dir = checkpoint.dir.display();
    let why = match named {
        Some(name) => format!("`{dir}` names its tower `{name}`, which is neither next to it nor in the hub's cache"),
        None => format!("`{dir}` does not say which encoder its tower comes from"),
    };
    let fetching = named.and_then(|name| hub.how_to_fetch(name)).map(|how| format!("{how}; or ")).unwrap_or_default();
    format!(
        "{why}; hint: {fetching}give its CLIP as --encoder DIR, --comparator probe for a probe on the tower itself, or \
         --encoder none to go without the comparison"
    )
}
