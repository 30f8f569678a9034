//! Flags of the model hub, for every command that takes a model.

use std::cell::RefCell;
use std::io::Write;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::data::Progress;
use super::{environment, results};
use crate::api::{HubClient, HubEvent};
use crate::dataset::DatasetHub;
use crate::model::checkpoint::weights::Hub;

/// How models, encoders and adapters that are named as on the hub are found.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model hub")]
pub(super) struct HubOptions {
    /// Download missing files of ORG/NAME into the hub's cache: a model, an adapter or a dataset
    ///
    /// Without this flag, only the cache (HF_HUB_CACHE, HF_HOME) is used, and it must have everything. HF_ENDPOINT and
    /// HF_TOKEN are honoured.
    #[arg(long)]
    pub(super) download: bool,
}

impl HubOptions {
    /// The hub, whose progress goes to `err` unless `quiet`.
    pub(super) fn hub<'a>(&self, quiet: bool, err: &'a mut dyn Write) -> Result<Hub<'a>> {
        let client = self.client()?;
        let command = format!("{} --download", results::command_line());
        let shown = RefCell::new(Shown { err, quiet, transfer: None });
        Ok(Hub::new(environment::hub_cache(), client, command, move |event| shown.borrow_mut().event(event)))
    }

    /// The hub's datasets.
    pub(super) fn datasets<'a>(&self, quiet: bool, err: &'a mut dyn Write) -> Result<DatasetHub<'a>> {
        let shown = RefCell::new(Shown { err, quiet, transfer: None });
        Ok(DatasetHub::new(environment::hub_cache(), self.client()?, move |event| shown.borrow_mut().event(event)))
    }

    fn client(&self) -> Result<Option<HubClient>> {
        match (self.download, environment::hub_is_offline()) {
            (false, _) => Ok(None),
            (true, None) => Ok(Some(HubClient::new(&environment::hub_endpoint(), environment::hub_token())?)),
            (true, Some(name)) => {
                bail!(
                    "{name} forbids access to the hub, which --download needs; hint: unset it, or leave --download out"
                )
            }
        }
    }
}

/// What `run.json` shows of the hub's datasets, by `datasets/org/name`.
pub(super) fn found_datasets(hub: &DatasetHub) -> Map<String, Value> {
    let row =
        |(name, (revision, commit))| (format!("datasets/{name}"), json!({"revision": revision, "commit": commit}));
    hub.found().into_iter().map(row).collect()
}

/// What `run.json` shows of a hub's repositories: which commit each name meant.
pub(super) fn found(hub: &Hub) -> Map<String, Value> {
    let rows = hub.found().into_iter();
    rows.map(|(name, found)| (name, json!({"revision": found.revision, "commit": found.commit}))).collect()
}

struct Shown<'a> {
    err: &'a mut dyn Write,
    quiet: bool,
    /// The file that is on its way.
    transfer: Option<(String, Progress)>,
}

impl Shown<'_> {
    fn event(&mut self, event: HubEvent<'_>) {
        match event {
            HubEvent::Downloading { repository, file, n_done, n_total } => {
                let name = format!("{repository} {file}");
                let mut progress = match self.transfer.take() {
                    Some((same, progress)) if same == name => progress,
                    _ => Progress::new(&name, self.quiet, "bytes"),
                };
                progress.show(n_done, n_total, self.err);
                if n_total == Some(n_done) {
                    progress.clear();
                    self.say(&format!("{name}: {n_done} bytes, all there"));
                } else {
                    self.transfer = Some((name, progress));
                }
            }
            HubEvent::Warning(text) => self.say(&format!("warning: {text}")),
        }
    }

    fn say(&mut self, line: &str) {
        if !self.quiet {
            // A broken standard error does not stop a download.
            let _ = writeln!(self.err, "{line}");
        }
    }
}
