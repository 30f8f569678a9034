//! What a registry would get.

use std::path::Path;

use super::architecture::tracked_or_skip;
use super::support::root;

/// A registry takes no more than 10 MB.
const N_BYTES_MAX: usize = 9_000_000;

/// What `Cargo.toml` keeps out of the package: top-level names, and files of `src` by the end of their names.
fn excluded() -> Vec<String> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let exclude = manifest["package"]["exclude"].as_array().unwrap();
    exclude.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_packaged_crate_stays_below_9_mb() {
    let Some(tracked) = tracked_or_skip() else { return };
    let excluded = excluded();
    let is_packaged = |path: &&String| {
        let top = path.split('/').next().unwrap_or_default();
        let is_left_out = |pattern: &String| match pattern.strip_prefix("src/**/") {
            Some(name) => match name.strip_prefix('*') {
                Some(end) => path.starts_with("src/") && path.ends_with(end),
                None => path.starts_with("src/") && path.ends_with(&format!("/{name}")),
            },
            None => pattern == top,
        };
        !excluded.iter().any(is_left_out) && root().join(path).is_file()
    };
    let mut package = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best()));
    // As cargo packs: without owners and times.
    package.mode(tar::HeaderMode::Deterministic);
    let mut n_files = 0;
    for path in tracked.iter().filter(is_packaged) {
        package.append_path_with_name(root().join(path), Path::new("emt").join(path)).unwrap();
        n_files += 1;
    }
    let n_bytes = package.into_inner().unwrap().finish().unwrap().len();
    eprintln!("{n_files} files, {n_bytes} bytes packed");
    assert!(n_bytes < N_BYTES_MAX, "{n_bytes} bytes");
    // The miniature alone has more than 7 MB: less would mean that it was not counted.
    assert!(n_bytes > 7_000_000, "{n_bytes} bytes of {n_files} files");
}
