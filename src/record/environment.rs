//! The environment of a run, which is recorded and shown but never compared.
#![expect(clippy::disallowed_methods, reason = "a run records when it was made")]

use std::time::SystemTime;

use serde_json::{Map, Value, json};

/// The environment of one sitting of a run.
#[derive(Clone, Debug, Default)]
pub struct Sitting {
    /// Compute threads.
    pub n_threads: usize,
    /// Images per forward pass.
    pub batch_size: Option<usize>,
    /// `--limit`.
    pub limit: Option<usize>,
    /// The file of `--samples`.
    pub samples: Option<String>,
    /// Paths by purpose, such as `model`.
    pub paths: Map<String, Value>,
}

/// Returns the environment of a run: host, threads, instruction set, build features, versions, dates, batch size, limit,
/// named samples and paths.
pub fn environment(sitting: &Sitting) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("emt".into(), env!("CARGO_PKG_VERSION").into());
    fields.insert("started".into(), now().into());
    if let Some(host) = sysinfo::System::host_name() {
        fields.insert("host".into(), host.into());
    }
    if let Some(system) = sysinfo::System::long_os_version() {
        fields.insert("system".into(), system.into());
    }
    fields.insert("architecture".into(), std::env::consts::ARCH.into());
    fields.insert("instruction_set".into(), json!(instruction_set()));
    let features = features();
    if !features.is_empty() {
        fields.insert("features".into(), json!(features));
    }
    fields.insert("n_threads".into(), sitting.n_threads.into());
    if let Some(batch_size) = sitting.batch_size {
        fields.insert("batch_size".into(), batch_size.into());
    }
    if let Some(limit) = sitting.limit {
        fields.insert("limit".into(), limit.into());
    }
    if let Some(samples) = &sitting.samples {
        fields.insert("samples".into(), samples.clone().into());
    }
    fields.insert("paths".into(), sitting.paths.clone().into());
    fields
}

/// Returns the current time in UTC, such as `2026-01-31T12:00:00Z`.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// The build features that choose the compute backend.
fn features() -> Vec<&'static str> {
    let built = [
        ("cuda", cfg!(feature = "cuda")),
        ("flash-attn", cfg!(feature = "flash-attn")),
        ("metal", cfg!(feature = "metal")),
        ("mkl", cfg!(feature = "mkl")),
        ("accelerate", cfg!(feature = "accelerate")),
    ];
    built.into_iter().filter(|(_, is_built)| *is_built).map(|(name, _)| name).collect()
}

/// The processor extensions that affect speed or the compute type.
fn instruction_set() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let present = [
        ("avx", std::is_x86_feature_detected!("avx")),
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("f16c", std::is_x86_feature_detected!("f16c")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
        ("avx512fp16", std::is_x86_feature_detected!("avx512fp16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let present = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let present: [(&'static str, bool); 0] = [];
    present.into_iter().filter(|(_, is_present)| *is_present).map(|(name, _)| name).collect()
}
