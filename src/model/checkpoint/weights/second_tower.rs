//! A second vision tower beside a LLaVA's own: a DINOv2 (Oquab et al. 2023), as in the mixture of features of Tong et al. 2024.
//!
//! A checkpoint or an adapter's folder that has one says so under [`MIXTURE`] in its `config.json`, and names the tower's folder
//! there. Checkpoints of the method's authors do not say it: they hold the tower, or at least its projector.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::canonical::canonical_dinov2;
use super::checkpoint::Checkpoint;
use super::store::Weights;
use super::stored::StoredTensor;
use crate::domain::Mixing;

/// The key of `config.json` that describes the mixture.
const MIXTURE: &str = "mixture_of_features";
/// The prefix of the canonical names of the second tower's tensors.
pub const SECOND_TOWER: &str = "vision_tower.dino.";
/// The prefix of the canonical names of its projector's tensors.
pub const SECOND_PROJECTOR: &str = "multi_modal_projector.dino.";
/// What its authors call its projector.
const PROJECTOR_OF_AUTHORS: &str = "dino_mm_projector";

/// A second tower, as a configuration names it.
#[derive(Clone, Debug, PartialEq)]
pub struct MixtureConfig {
    /// How the features are mixed.
    pub mixing: Mixing,
    /// The tower's folder; `None` if the checkpoint holds the tower itself.
    pub tower: Option<PathBuf>,
}

impl MixtureConfig {
    /// Reads the mixture of `checkpoint`; `None` if it has none.
    ///
    /// # Errors
    /// The entry is not one that is known, or a weight file is damaged.
    pub fn of(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let path = checkpoint.dir.join("config.json");
        if let Some(found) = Self::of_config(checkpoint.config(), &path)? {
            return Ok(Some(found));
        }
        if !checkpoint.is_llava_original() {
            return Ok(None);
        }
        let names = checkpoint.tensor_names()?;
        let has_projector = names.iter().any(|name| name.contains(PROJECTOR_OF_AUTHORS));
        Ok(has_projector.then_some(Self { mixing: Mixing::Interleaved, tower: None }))
    }

    /// Reads the entry of `config`, which is at `path`.
    fn of_config(config: &Value, path: &Path) -> Result<Option<Self>> {
        let Some(entry) = config.get(MIXTURE).filter(|entry| !entry.is_null()) else { return Ok(None) };
        let text = |key: &str| {
            let value = entry.get(key).and_then(Value::as_str);
            value.with_context(|| format!("`{MIXTURE}` in `{}` has no text `{key}`", path.display()))
        };
        let mixing = text("mixing")?.parse::<Mixing>().map_err(anyhow::Error::msg);
        let mixing = mixing.with_context(|| format!("`{MIXTURE}` in `{}`", path.display()))?;
        let beside = path.parent().unwrap_or(Path::new(""));
        Ok(Some(Self { mixing, tower: Some(beside.join(text("second_tower")?)) }))
    }

    /// Returns `config` with this entry.
    pub fn into_config(self, config: &Value) -> Value {
        let mut config = config.clone();
        let tower = self.tower.map(|tower| tower.display().to_string());
        config[MIXTURE] = json!({"mixing": self.mixing, "second_tower": tower});
        config
    }

    /// Opens the tower's checkpoint; `None` if the model's own checkpoint holds it.
    ///
    /// # Errors
    /// The folder is missing, or holds another kind of model.
    pub fn open_tower(&self) -> Result<Option<Checkpoint>> {
        self.tower.as_deref().map(open_dinov2).transpose()
    }
}

/// Opens the folder of a DINOv2.
///
/// # Errors
/// The folder is missing, or holds another kind of model.
pub fn open_dinov2(dir: &Path) -> Result<Checkpoint> {
    let place = || format!("failed to open the second tower `{}`", dir.display());
    let checkpoint = Checkpoint::open(dir).with_context(|| {
        format!("{}; hint: `{MIXTURE}` in config.json names its folder, which must be there", place())
    })?;
    match checkpoint.config().get("model_type").and_then(Value::as_str) {
        Some("dinov2") => Ok(checkpoint),
        other => bail!(
            "{}: its model_type is `{}`; hint: a second tower is a DINOv2 in the layout of transformers, such as \
             facebook/dinov2-large",
            place(),
            other.unwrap_or("?")
        ),
    }
}

/// Adds the second tower that `checkpoint` names, if it names one.
///
/// # Errors
/// The tower cannot be read, or `checkpoint` has a projector for it and not the tower.
pub fn extend_with_second_tower(weights: &mut Weights, checkpoint: &Checkpoint) -> Result<()> {
    let Some(mixture) = MixtureConfig::of(checkpoint)? else { return Ok(()) };
    if let Some(tower) = mixture.open_tower()? {
        return weights.extend(&tower, canonical_dinov2);
    }
    ensure!(
        weights.names().any(|name| name.starts_with(SECOND_TOWER)),
        "`{}` has a `{PROJECTOR_OF_AUTHORS}` and not the DINOv2 whose features it reads; hint: download \
         facebook/dinov2-large, and add to config.json: \"{MIXTURE}\": {{\"mixing\": \"interleaved\", \"second_tower\": \"DIR\"}}",
        checkpoint.dir.display()
    );
    Ok(())
}

/// The tensors of the second tower that the configuration of an adapter's folder `dir` names, if it names one.
pub(super) fn tensors_beside(dir: &Path, config: Option<Value>) -> Result<Vec<StoredTensor>> {
    let Some(config) = config else { return Ok(Vec::new()) };
    let Some(mixture) = MixtureConfig::of_config(&config, &dir.join("config.json"))? else { return Ok(Vec::new()) };
    let tower = mixture.open_tower()?.context("a configuration names the tower's folder")?;
    tower.read_tensors()
}
