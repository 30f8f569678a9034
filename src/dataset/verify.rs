//! Verification of datasets on disk: published checksums, and whether every image decodes.

use std::path::PathBuf;

use rayon::prelude::*;

use super::catalog::Catalog;
use super::checksum::md5_of_file;
use super::open::{DataRoots, OpenRequest, located_files, open};
use super::{Dataset, UnreadableImage};
use crate::domain::select;

/// Images decoded between two progress reports.
const CHUNK_LEN: usize = 512;

/// A file with a published checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCheck {
    /// The file.
    pub path: PathBuf,
    /// The published MD5.
    pub expected: String,
    /// The MD5 of the file on disk.
    pub found: String,
}

impl FileCheck {
    /// Whether the file is the published one.
    pub fn is_equal(&self) -> bool {
        self.found.eq_ignore_ascii_case(&self.expected)
    }
}

/// The result of verifying a split.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The opened dataset.
    pub dataset: Dataset,
    /// Files with a published checksum.
    pub files: Vec<FileCheck>,
    /// Images that were decoded or failed.
    pub n_tried: usize,
    /// The images that failed.
    pub unreadable: Vec<UnreadableImage>,
}

impl Verification {
    /// Whether no problem was found.
    pub fn is_good(&self) -> bool {
        self.files.iter().all(FileCheck::is_equal) && self.unreadable.is_empty() && self.dataset.warnings.is_empty()
    }
}

/// Opens a dataset, checks its files and decodes its images, at most `limit` of them if given.
pub fn verify(
    catalog: &Catalog,
    roots: &DataRoots,
    request: &OpenRequest,
    limit: Option<usize>,
    on_progress: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<Verification> {
    // Checksums come first: a damaged file may not even open, and its checksum explains why.
    let mut files = Vec::new();
    for (path, expected) in located_files(catalog, roots, request)? {
        files.push(FileCheck { found: md5_of_file(&path)?, path, expected });
    }
    if let Some(damaged) = files.iter().find(|file| !file.is_equal()) {
        let opened = open(catalog, roots, request);
        if let Err(error) = opened {
            return Err(error.context(format!(
                "`{}` is not the published file: its MD5 is {}, not {}",
                damaged.path.display(),
                damaged.found,
                damaged.expected
            )));
        }
    }
    let dataset = open(catalog, roots, request)?;
    let names: Vec<&str> = dataset.labels.names().collect();
    let positions = select(&dataset.samples, &names, dataset.sample_seed, limit);
    let mut unreadable = Vec::new();
    let mut n_tried = 0;
    for chunk in positions.chunks(CHUNK_LEN) {
        let failures: Vec<UnreadableImage> =
            chunk.par_iter().filter_map(|&position| dataset.read(position).err()).collect();
        unreadable.extend(failures);
        n_tried += chunk.len();
        on_progress(n_tried, positions.len());
    }
    Ok(Verification { dataset, files, n_tried, unreadable })
}
