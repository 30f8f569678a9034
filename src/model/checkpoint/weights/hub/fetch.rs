//! Downloads of the needed files of a model's repository into the hub's cache.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::super::checkpoint::{parse_json, read_index, read_optional};
use super::super::quantised::{self, GGUF};
use super::plan::Plan;
use super::{Hub, RepositoryId, Role};
use crate::api::{HubClient, HubFetch};

/// A repository at one commit that is being downloaded to the cache.
pub(super) struct Fetch<'a> {
    pub hub: &'a Hub<'a>,
    pub client: &'a HubClient,
    pub cache: &'a Path,
    pub id: &'a RepositoryId,
}

impl Fetch<'_> {
    /// Downloads the missing files that `role` needs, and returns the commit. The revision's name is updated last, so
    /// that until then it refers to the earlier commit.
    pub fn run(&self, role: Role) -> Result<String> {
        let (repository, revision) = (self.id.repository(), self.id.revision());
        let listing = self.client.revision(repository, revision)?;
        let commit = listing.commit.as_str();
        let on_event = |event: crate::api::HubEvent<'_>| self.hub.tell(event);
        let into = HubFetch { client: self.client, cache: self.cache, id: self.id, on_event: &on_event };
        let has = |name: &str| listing.files.iter().any(|file| file == name);
        let plan = Plan::new(role, &has);
        if let Some(missing) = plan.missing.first() {
            bail!("`{repository}` has no `{missing}`{}", why_not(role, &listing.files));
        }
        for name in &plan.companions {
            into.file(commit, name)?;
        }
        let config = into.snapshot(commit).join("config.json");
        if role != Role::Adapter
            && let Some(bytes) = read_optional(&config)?
        {
            // Avoids downloading gigabytes that cannot be read.
            quantised::refuse_config(&config, &parse_json(&config, &bytes)?)?;
        }
        for name in &plan.weights {
            into.file(commit, name)?;
        }
        if let Some(index) = plan.index {
            into.file(commit, index)?;
            let mut shards: Vec<String> = read_index(&into.snapshot(commit).join(index))?.into_values().collect();
            shards.sort();
            shards.dedup();
            for shard in &shards {
                ensure!(has(shard), "`{index}` of `{repository}` names `{shard}`, which is not there");
                into.file(commit, shard)?;
            }
        }
        into.name_commit(commit)?;
        Ok(listing.commit)
    }
}

fn why_not(role: Role, files: &[String]) -> String {
    if files.iter().any(|file| file.to_ascii_lowercase().ends_with(".gguf")) {
        return format!(": {GGUF}");
    }
    let is_adapter = files.iter().any(|file| file == "adapter_config.json");
    match role {
        Role::Adapter => "; hint: it holds no adapter in its top folder".to_owned(),
        _ if is_adapter => "; hint: it is an adapter, give its base as --model and it as --adapter".to_owned(),
        _ => "; hint: give a repository with a checkpoint of transformers or open_clip in its top folder".to_owned(),
    }
}
