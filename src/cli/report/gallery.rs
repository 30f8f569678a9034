//! The images that were lost, where they are at hand.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;

use super::ReportArgs;
use crate::cli::comparison::RecordedRun;
use crate::compare::{CandidateComparison, LostImage};
use crate::dataset::{self, Dataset, Exif, OpenRequest};
use crate::report::{Absence, GalleryImage, Picture, Thumbnail, gallery_choice};

/// Finds lost images by sample id, and shows them if their content is what was evaluated.
pub(super) struct Gallery {
    n_max: usize,
    shows_images: bool,
    datasets: BTreeMap<String, (Dataset, HashMap<String, usize>)>,
    /// What a reader should know of images that could not be found.
    pub warnings: Vec<String>,
}

impl Gallery {
    /// Opens the datasets of `runs`, as far as they are at hand.
    pub fn open(args: &ReportArgs, runs: &[RecordedRun]) -> Result<Self> {
        let mut gallery = Self {
            n_max: args.max_images,
            shows_images: !args.no_images && args.max_images > 0,
            datasets: BTreeMap::new(),
            warnings: Vec::new(),
        };
        if !gallery.shows_images {
            return Ok(gallery);
        }
        let (catalog, roots) = (args.places.catalog()?, args.places.roots());
        let mut given = Vec::new();
        for text in args.datasets.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|text| !text.is_empty())
        {
            given.push(dataset::open(&catalog, &roots, &OpenRequest { text, ..OpenRequest::default() })?);
        }
        for spec in runs.iter().flat_map(|run| &run.manifest.spec.datasets) {
            if gallery.datasets.contains_key(&spec.dataset) {
                continue;
            }
            let exif = Exif::of_recorded(spec.exif.as_deref());
            let request = OpenRequest { text: &spec.dataset, split: Some(&spec.split), exif, ..OpenRequest::default() };
            let found = match given.iter().position(|dataset| dataset.name == spec.dataset) {
                Some(place) => Ok(given.swap_remove(place)),
                None => dataset::open(&catalog, &roots, &request),
            };
            match found {
                Ok(dataset) => gallery.add(dataset),
                Err(_) => gallery.warnings.push(format!(
                    "the images of {} are not at hand and are shown as placeholders; --data or --datasets says where they lie",
                    spec.dataset
                )),
            }
        }
        Ok(gallery)
    }

    fn add(&mut self, dataset: Dataset) {
        let places = dataset.samples.iter().enumerate().map(|(place, sample)| (sample.id.clone(), place)).collect();
        self.datasets.insert(dataset.name.clone(), (dataset, places));
    }

    /// The lost images of a candidate, shared out over its datasets.
    pub fn of<'a>(&mut self, candidate: &'a CandidateComparison) -> Result<Vec<GalleryImage<'a>>> {
        let n_datasets = candidate.datasets.iter().filter(|dataset| !dataset.lost.is_empty()).count().max(1);
        let mut images = Vec::new();
        for dataset in &candidate.datasets {
            for lost in gallery_choice(&dataset.lost, self.n_max.div_ceil(n_datasets)) {
                images.push(GalleryImage {
                    dataset: &dataset.dataset,
                    lost,
                    picture: self.picture(&dataset.dataset, lost)?,
                });
            }
        }
        images.truncate(self.n_max);
        Ok(images)
    }

    fn picture(&self, dataset: &str, lost: &LostImage) -> Result<Picture> {
        let absent = |why| Ok(Picture::Absent(why));
        if !self.shows_images {
            return absent(Absence::TurnedOff);
        }
        let Some((dataset, places)) = self.datasets.get(dataset) else { return absent(Absence::NotAtHand) };
        if !dataset.may_redistribute {
            return absent(Absence::MayNotBeEmbedded);
        }
        let Some(&place) = places.get(&lost.sample) else { return absent(Absence::NotAtHand) };
        match dataset.read(place) {
            Ok(image) if image.content() == lost.content => Ok(Picture::Shown(Thumbnail::of(&image)?)),
            Ok(_) => absent(Absence::Differs),
            Err(_) => absent(Absence::Unreadable),
        }
    }
}
