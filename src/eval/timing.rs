//! Measures how long each stage of a run works.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The key of the times in the environment of `run.json`.
pub(super) const TIMING: &str = "timing";

/// What a thread does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// Reading, decoding and hashing an image.
    Read,
    /// Resizing and normalising it.
    Prepare,
    /// Tower, encoder and language models.
    Answer,
    /// The device's thread has no batch to answer.
    WaitForImages,
    /// Judging by rules, and the journal.
    Record,
    /// All stages, in parallel.
    Flow,
}

const N_STAGES: usize = 6;

/// Nanoseconds by stage, summed over threads.
#[derive(Debug, Default)]
pub(super) struct Stages {
    nanoseconds: [AtomicU64; N_STAGES],
    n_images: AtomicU64,
}

impl Stages {
    /// Runs `work` and adds its time to `stage`.
    pub fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds[stage as usize].fetch_add(nanoseconds, Ordering::Relaxed);
        result
    }

    /// Counts processed images.
    pub fn count(&self, n_images: usize) {
        self.n_images.fetch_add(n_images as u64, Ordering::Relaxed);
    }

    /// The times as `run.json` records them; `None` if no image was processed. `read_seconds` and `prepare_seconds` are
    /// sums over threads. `wait_seconds` is how long the device had nothing to answer. `sync_seconds`, given as
    /// `in_sync`, is how long the journal waited for the disk; `record_seconds` includes it.
    pub fn to_json(&self, in_sync: Duration) -> Option<Value> {
        let seconds = |stage: Stage| {
            let nanoseconds = self.nanoseconds[stage as usize].load(Ordering::Relaxed);
            (nanoseconds / 1_000_000) as f64 / 1e3
        };
        let n_images = self.n_images.load(Ordering::Relaxed);
        (n_images > 0).then(|| {
            json!({
                "n_images": n_images,
                "seconds": seconds(Stage::Flow),
                "read_seconds": seconds(Stage::Read),
                "prepare_seconds": seconds(Stage::Prepare),
                "answer_seconds": seconds(Stage::Answer),
                "wait_seconds": seconds(Stage::WaitForImages),
                "record_seconds": seconds(Stage::Record),
                "sync_seconds": in_sync.as_millis() as f64 / 1e3,
            })
        })
    }
}

#[cfg(test)]
mod tests;
