//! Environment variables and `.env`: values only, never a reason to start something.
#![expect(clippy::disallowed_methods, reason = "the environment is read here")]

use std::path::PathBuf;

use crate::api::Secret;

/// The first of `names` that is set and not empty, in the process's environment or else in `.env`.
fn value(names: &[&'static str]) -> Option<(&'static str, String)> {
    names.iter().find_map(|&name| {
        let set = std::env::var(name).ok().filter(|value| !value.is_empty());
        set.or_else(|| from_dot_env(name)).map(|value| (name, value))
    })
}

/// Read without being exported: other programs' settings stay theirs.
fn from_dot_env(name: &str) -> Option<String> {
    dotenvy::from_path_iter(".env")
        .ok()?
        .flatten()
        .find(|(key, value)| key == name && !value.is_empty())
        .map(|(_, v)| v)
}

/// The judge's address, where no flag gives it.
pub(super) fn judge_base_url() -> Option<String> {
    value(&["EMT_JUDGE_BASE_URL", "OPENAI_BASE_URL"]).map(|(_, value)| value)
}

/// The judge's key and the variable that it stands in.
pub(super) fn judge_api_key() -> (&'static str, Option<Secret>) {
    match value(&["EMT_JUDGE_API_KEY", "OPENAI_API_KEY"]) {
        Some((name, key)) => (name, Secret::new(&key)),
        None => ("EMT_JUDGE_API_KEY", None),
    }
}

/// The hub's local cache.
pub(super) fn hub_cache() -> Option<PathBuf> {
    let home = value(&["HF_HOME"]).map(|(_, home)| PathBuf::from(home));
    home.or_else(|| dirs::cache_dir().map(|cache| cache.join("huggingface"))).map(|home| home.join("hub"))
}
