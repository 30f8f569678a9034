//! Tower features of images, cached on disk for other runs.

use std::sync::Arc;

use anyhow::Result;

use super::plan::SampleWork;
use crate::domain::RunSet;
use crate::model::Placement;
use crate::model::families::Seen;
use crate::model::run::features::{ImageVector, TowerFeatures};
use crate::model::run::subjects::Subjects;
use crate::record::{FeatureCache, FeatureKey};

/// What decides the values of features, apart from the image: see [`computed_by`].
pub(super) struct Origins {
    /// By run, for what its projector reads.
    pub runs: Vec<String>,
    /// For the encoder's embedding.
    pub encoder: Option<String>,
}

/// The feature cache of a run, with the cache keys of its towers.
pub(super) struct RunFeatures {
    cache: Arc<FeatureCache>,
    placement: Placement,
    /// The runs of each tower, and the string that decides its features.
    towers: Vec<(RunSet, String)>,
    encoder: Option<String>,
}

impl RunFeatures {
    /// Builds the cache for the towers of `subjects`, which compute at `placement`.
    pub fn new(cache: Arc<FeatureCache>, subjects: &Subjects, origins: Origins, placement: &Placement) -> Self {
        let of = |tower: RunSet| tower.iter().next().and_then(|run| origins.runs.get(run.place())).cloned();
        let towers = subjects.towers().into_iter().filter_map(|tower| Some((tower, of(tower)?))).collect();
        Self { cache, placement: placement.clone(), towers, encoder: origins.encoder }
    }

    /// Returns the cached features of an image with this `content` that `work` needs.
    pub fn known(&self, content: &str, work: &SampleWork) -> TowerFeatures {
        let mut known = TowerFeatures::default();
        let lookers = work.models().union(work.probe);
        for (number, (_, origin)) in
            self.towers.iter().enumerate().filter(|(_, (runs, _))| !runs.intersection(lookers).is_empty())
        {
            if let Some(seen) = self.find(origin, content, Seen::from_bytes) {
                known.set_tower(number, seen);
            }
        }
        let origin = self.encoder.as_ref().filter(|_| !work.encoder.is_empty());
        known.embedding = origin.and_then(|origin| self.find(origin, content, ImageVector::from_bytes));
        known
    }

    fn find<T>(&self, origin: &str, content: &str, read: fn(&[u8], &Placement) -> Result<T>) -> Option<T> {
        let key = FeatureKey::new(origin, content);
        let bytes = self.cache.get(&key)?;
        // An intact entry that cannot be read was not written by any version of `emt`.
        read(&bytes, &self.placement).inspect_err(|_| self.cache.disown(&key)).ok()
    }

    /// Stores the features `made` of an image with this `content`.
    pub fn keep(&self, content: &str, made: &TowerFeatures) -> Result<()> {
        for ((_, origin), seen) in self.towers.iter().zip(&made.seen) {
            if let Some(seen) = seen {
                self.cache.put(&FeatureKey::new(origin, content), &seen.to_bytes()?);
            }
        }
        if let (Some(origin), Some(embedding)) = (&self.encoder, &made.embedding) {
            self.cache.put(&FeatureKey::new(origin, content), &embedding.to_bytes()?);
        }
        Ok(())
    }

    /// Returns warnings that were not shown yet.
    pub fn take_warnings(&self) -> Vec<String> {
        self.cache.take_warnings()
    }
}
