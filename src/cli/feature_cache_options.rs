//! Flags of the cache of features, for every command that runs a frozen tower.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Args;

use crate::record::FeatureCache;

const DEFAULT_GB: f64 = 20.0;

const BYTES_PER_GB: f64 = 1e9;

/// Where features are kept.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Feature cache")]
pub(super) struct FeatureCacheOptions {
    /// Folder in which the features of images are kept
    ///
    /// The features are what the vision tower and the encoder compute for each image. A later run or training over the same images
    /// reads them instead. Answers stay the same. LLaVA-1.5 in bf16 takes about 1.2 MB per image.
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub(super) feature_cache: Option<PathBuf>,
    /// Maximum size of that folder in GB (10^9 bytes); nothing is added beyond it [default: 20]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(super) feature_cache_gb: Option<f64>,
}

impl FeatureCacheOptions {
    /// Opens the folder, where one is given.
    pub(super) fn open(&self) -> Result<Option<Arc<FeatureCache>>> {
        let Some(dir) = &self.feature_cache else { return Ok(None) };
        let gigabytes = self.feature_cache_gb.unwrap_or(DEFAULT_GB);
        ensure!(gigabytes.is_finite() && gigabytes > 0.0, "--feature-cache-gb must be above 0, but is {gigabytes}");
        Ok(Some(Arc::new(FeatureCache::open(dir, (gigabytes * BYTES_PER_GB) as u64)?)))
    }
}
