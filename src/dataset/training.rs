//! The training split of an evaluated dataset.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::Dataset;
use super::catalog::Catalog;
use super::open::{DataRoots, OpenRequest, is_there, is_training, last_split, open};
use super::readers::shards::Shards;

const TRAIN: &str = "train";

/// Opens the training split of the dataset that `request` opens: another split in the catalog, or what is next to the
/// path under the name `train` (`photos/train` for `photos/val`, `train.csv` for `val.csv`, `train-*.parquet` for
/// `test-*.parquet`).
///
/// # Errors
/// There is none, or it cannot be opened; the message says where it was searched and how to get it.
pub fn open_training(catalog: &Catalog, roots: &DataRoots, request: &OpenRequest) -> anyhow::Result<Dataset> {
    if catalog.names().any(|name| name == request.text) {
        let entry = catalog.entry(request.text)?;
        let Some(split) = entry.wire.splits.keys().find(|split| is_training(split)) else {
            bail!("the catalog knows no training split of `{}`", request.text);
        };
        return open(catalog, roots, &OpenRequest { split: Some(split), ..*request });
    }
    let (name, path) = match request.text.split_once('=') {
        Some((name, path)) if !is_there(Path::new(request.text)) => (Some(name), path),
        _ => (None, request.text),
    };
    let named = |path: &Path| match name {
        Some(name) => format!("{name}={}", path.display()),
        None => path.display().to_string(),
    };
    let dataset = match sibling(Path::new(path), request.split)? {
        Some(beside) => {
            ensure!(
                is_there(&beside),
                "there is no training split next to `{}`; hint: its images at `{}`",
                request.text,
                beside.display()
            );
            open(catalog, roots, &OpenRequest { text: &named(&beside), split: None, ..*request })?
        }
        // The path contains several splits.
        None => open(catalog, roots, &OpenRequest { split: Some(TRAIN), ..*request })
            .with_context(|| format!("`{}` has no training split", request.text))?,
    };
    ensure!(
        dataset.is_training_split,
        "`{}` does not say its split, so its training split is not known; hint: name its folders train and test, or \
         the like",
        request.text
    );
    Ok(dataset)
}

/// Returns the place of the training split if the path itself names another one; `None` if the path may contain
/// several.
fn sibling(path: &Path, split: Option<&str>) -> anyhow::Result<Option<PathBuf>> {
    let absolute = std::path::absolute(path).with_context(|| format!("`{}` is not a path", path.display()))?;
    let place = match Shards::find(&absolute, split)? {
        // `split` chose one of several splits' shards in one folder.
        Some(shards) if shards.split.is_some() && split.is_none() => shards.place,
        _ => absolute,
    };
    if last_split(&place).is_none() {
        return Ok(None);
    }
    let extension = place.extension().filter(|_| place.is_file());
    let mut beside = place.with_file_name(TRAIN);
    if let Some(extension) = extension {
        beside.set_extension(extension);
    }
    Ok(Some(beside))
}

#[cfg(test)]
mod tests;
