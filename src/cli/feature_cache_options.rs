//! Flags of the cache of features, for every command that runs a frozen tower.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::record::FeatureCache;

const DEFAULT_GB: f64 = 20.0;

const BYTES_PER_GB: f64 = 1e9;

/// Where features are kept.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Feature cache")]
pub(super) struct FeatureCacheOptions {
    /// Keep what the vision tower and the encoder make of each image in this folder, and look it up there: a run or a training
    /// over the same images skips them. Answers stay the same. About 1.2 MB an image of LLaVA-1.5 in bf16
    #[arg(long, value_name = "DIR")]
    pub(super) feature_cache: Option<PathBuf>,
    /// Size that the folder may reach, in GB (10^9 bytes); what is new is then no longer kept. Default: 20
    #[arg(long, value_name = "N", requires = "feature_cache")]
    pub(super) feature_cache_gb: Option<f64>,
}

impl FeatureCacheOptions {
    /// Opens the folder, where one is given.
    pub(super) fn open(&self) -> Result<Option<Arc<FeatureCache>>> {
        let Some(dir) = &self.feature_cache else { return Ok(None) };
        let gigabytes = self.feature_cache_gb.unwrap_or(DEFAULT_GB);
        ensure!(gigabytes.is_finite() && gigabytes > 0.0, "--feature-cache-gb must be above 0, and is {gigabytes}");
        Ok(Some(Arc::new(FeatureCache::open(dir, (gigabytes * BYTES_PER_GB) as u64)?)))
    }

    /// Refuses the cache for models that run elsewhere.
    pub(super) fn refuse_for_served(&self) -> Result<()> {
        if self.feature_cache.is_some() {
            bail!(
                "--feature-cache keeps what towers make of images here, and the model is behind a server; hint: leave it out"
            );
        }
        Ok(())
    }
}
