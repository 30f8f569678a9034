//! Environment variables and `.env`: values only, never a reason to start something.
#![expect(clippy::disallowed_methods, reason = "the environment is read here")]

use std::path::PathBuf;

use crate::api::Secret;
use crate::domain::text;
use crate::model::checkpoint::weights::HashMemory;

/// The first of `names` that is set and not empty, in the process's environment or else in `.env`.
fn value(names: &[&'static str]) -> Option<(&'static str, String)> {
    names.iter().find_map(|&name| {
        let set = std::env::var(name).ok().filter(|value| !value.is_empty());
        set.or_else(|| from_dot_env(name)).map(|value| (name, value))
    })
}

/// Read without being exported: other programs' settings stay theirs.
fn from_dot_env(name: &str) -> Option<String> {
    let bytes = std::fs::read(".env").ok()?;
    dotenvy::from_read_iter(text::without_mark(&bytes))
        .flatten()
        .find(|(key, value)| key == name && !value.is_empty())
        .map(|(_, v)| v)
}

/// The judge's address, where no flag gives it.
pub(super) fn judge_base_url() -> Option<String> {
    value(&["EMT_JUDGE_BASE_URL", "OPENAI_BASE_URL"]).map(|(_, value)| value)
}

/// The judge's key and the variable that holds it.
pub(super) fn judge_api_key() -> (&'static str, Option<Secret>) {
    match value(&["EMT_JUDGE_API_KEY", "OPENAI_API_KEY"]) {
        Some((name, key)) => (name, Secret::new(&key)),
        None => ("EMT_JUDGE_API_KEY", None),
    }
}

/// The key of the server that `--model` names, and the variable that holds it.
pub(super) fn model_api_key() -> (&'static str, Option<Secret>) {
    match value(&["EMT_MODEL_API_KEY", "OPENAI_API_KEY"]) {
        Some((name, key)) => (name, Secret::new(&key)),
        None => ("EMT_MODEL_API_KEY", None),
    }
}

/// The hub's local cache, where Python's `huggingface_hub` has it: on every system below `~/.cache`.
pub(super) fn hub_cache() -> Option<PathBuf> {
    let path = |names: &[&'static str]| value(names).map(|(_, path)| below_home(&path));
    let cache = || path(&["XDG_CACHE_HOME"]).or_else(|| dirs::home_dir().map(|home| home.join(".cache")));
    let home = || path(&["HF_HOME"]).or_else(|| cache().map(|cache| cache.join("huggingface")));
    path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).or_else(|| home().map(|home| home.join("hub")))
}

/// Where the hashes of large weights are remembered.
pub(super) fn hash_memory() -> Option<HashMemory> {
    dirs::cache_dir().map(|cache| HashMemory::new(cache.join("emt").join("weight_hashes.json")))
}

fn below_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), dirs::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// The kernels that models must compute with on a CPU, where somebody forces them.
pub(super) fn kernels() -> Option<String> {
    std::env::var("EMT_KERNELS").ok().filter(|value| !value.is_empty())
}

/// The hub's address. Not from `.env`: the token goes there, and a folder that somebody else made must not say where.
pub(super) fn hub_endpoint() -> String {
    let set = std::env::var("HF_ENDPOINT").ok().filter(|value| !value.is_empty());
    set.unwrap_or_else(|| "https://huggingface.co".to_owned())
}

/// The token that the hub asks for where a repository is not for everybody.
pub(super) fn hub_token() -> Option<Secret> {
    value(&["HF_TOKEN"]).and_then(|(_, token)| Secret::new(&token))
}

/// The variable that forbids to ask the hub, where one does.
pub(super) fn hub_is_offline() -> Option<&'static str> {
    let (name, value) = value(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])?;
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()).then_some(name)
}
