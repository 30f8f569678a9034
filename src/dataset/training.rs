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
mod tests {
    use super::*;
    use crate::domain::RgbImage;

    fn training_of(text: &str, split: Option<&str>) -> anyhow::Result<Dataset> {
        let request = OpenRequest { text, split, labels_file: None, ..OpenRequest::default() };
        open_training(&Catalog::embedded(), &DataRoots::default(), &request)
    }

    /// A PNG of one colour.
    fn picture(path: &Path, level: u8) {
        let image = RgbImage::new(2, 2, vec![level; 12]).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::save_buffer(path, image.pixels(), 2, 2, image::ExtendedColorType::Rgb8).unwrap();
    }

    #[test]
    fn the_catalog_names_the_training_split() {
        let training = training_of("embedded/mnist", None).unwrap();
        assert_eq!((training.split.as_str(), training.is_training_split, training.samples.len()), ("train", true, 200));
        let error = training_of("cifar10", None).unwrap_err().to_string();
        assert!(error.contains("train") && error.contains("emt data fetch cifar10"), "{error}");
    }

    #[test]
    fn a_folder_has_it_beside_or_inside() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("photos");
        for (index, class) in ["cat", "dog"].into_iter().enumerate() {
            picture(&root.join(format!("val/{class}/0.png")), index as u8);
            picture(&root.join(format!("train/{class}/1.png")), 10 + index as u8);
        }
        let root = root.display().to_string();
        for (text, split) in
            [(format!("{root}/val"), None), (root.clone(), Some("val")), (format!("mine={root}/val"), None)]
        {
            let training = training_of(&text, split).unwrap();
            assert_eq!((training.split.as_str(), training.samples.len()), ("train", 2), "{text}");
        }
        std::fs::remove_dir_all(format!("{root}/train")).unwrap();
        let error = training_of(&format!("{root}/val"), None).unwrap_err().to_string();
        assert!(error.contains("no training split") && error.contains("photos/train"), "{error}");
    }

    #[test]
    fn a_folder_without_a_split_in_its_name_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        for class in ["cat", "dog"] {
            picture(&folder.path().join(format!("photos/{class}/0.png")), 1);
        }
        let text = folder.path().join("photos").display().to_string();
        let error = format!("{:#}", training_of(&text, None).unwrap_err());
        assert!(error.contains("photos") && error.contains("split"), "{error}");
    }

    #[test]
    fn a_sheet_has_it_beside() {
        let folder = tempfile::tempdir().unwrap();
        for (split, level) in [("test", 1), ("train", 2)] {
            let rows = ["cat", "dog"].map(|class| {
                picture(&folder.path().join(format!("{split}-{class}.png")), level);
                format!("{split}-{class}.png,{class}\n")
            });
            std::fs::write(folder.path().join(format!("{split}.csv")), format!("path,label\n{}", rows.concat()))
                .unwrap();
        }
        let training = training_of(&folder.path().join("test.csv").display().to_string(), None).unwrap();
        assert_eq!((training.split.as_str(), training.samples.len()), ("train", 2));
    }
}
