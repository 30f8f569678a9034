//! Images on pages, where they are at hand.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;

use super::data::Places;
use crate::compare::CandidateComparison;
use crate::dataset::{self, Dataset, Exif, OpenRequest};
use crate::domain::{DatasetSpec, Outcome, RunSpec, Trial};
use crate::report::{Absence, ErrorImage, GalleryImage, Picture, Thumbnail, error_choice, gallery_choice};

/// Errors of a single run that are shown with their images, where nobody says how many.
pub(super) const N_ERRORS_SHOWN: usize = 60;

/// Where images are found, and how many are wanted.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// At most so many of a run.
    pub n_max: usize,
    /// Whether images are shown at all.
    pub shows_images: bool,
    /// Where datasets lie that the catalog does not know, as `--datasets` takes them.
    pub datasets: Option<&'a str>,
    /// Where the catalog's lie.
    pub places: &'a Places,
}

/// Finds images by sample id, and shows them if their content is what was evaluated.
pub(super) struct Gallery {
    n_max: usize,
    shows_images: bool,
    datasets: BTreeMap<String, (Dataset, HashMap<String, usize>)>,
    /// What a reader should know of images that could not be found.
    pub warnings: Vec<String>,
}

impl Gallery {
    /// One that shows none.
    pub fn none() -> Self {
        Self { n_max: 0, shows_images: false, datasets: BTreeMap::new(), warnings: Vec::new() }
    }

    /// One of datasets that are open.
    pub fn of_datasets(datasets: Vec<Dataset>, n_max: usize) -> Self {
        let mut gallery = Self { n_max, shows_images: n_max > 0, ..Self::none() };
        if gallery.shows_images {
            datasets.into_iter().for_each(|dataset| gallery.add(dataset));
        }
        gallery
    }

    /// Opens the datasets of `runs`, as far as they are at hand.
    pub fn open<'s>(wanted: Wanted<'_>, runs: impl Iterator<Item = &'s RunSpec>) -> Result<Self> {
        let shows_images = wanted.shows_images && wanted.n_max > 0;
        let mut gallery = Self { n_max: wanted.n_max, shows_images, ..Self::none() };
        if !gallery.shows_images {
            return Ok(gallery);
        }
        let (catalog, roots) = (wanted.places.catalog()?, wanted.places.roots());
        let mut given = Vec::new();
        for text in
            wanted.datasets.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|text| !text.is_empty())
        {
            given.push(dataset::open(&catalog, &roots, &OpenRequest { text, ..OpenRequest::default() })?);
        }
        for spec in runs.flat_map(|run| &run.datasets) {
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

    /// Errors of a single run with their images, shared out over its datasets; none of a dataset that is not at hand.
    pub fn errors_of<'a>(&self, specs: &[DatasetSpec], trials: &'a [Trial]) -> Result<Vec<ErrorImage<'a>>> {
        let at_hand: Vec<&DatasetSpec> =
            specs.iter().filter(|spec| self.datasets.contains_key(&spec.dataset)).collect();
        let mut images = Vec::new();
        for spec in &at_hand {
            for (trial, encoder) in error_choice(trials, &spec.dataset, self.n_max.div_ceil(at_hand.len())) {
                let encoder = encoder.and_then(|one| {
                    let is_right = match one.outcome {
                        Outcome::Correct => true,
                        Outcome::Incorrect(_) => false,
                        Outcome::Unscored(_) => return None,
                    };
                    Some((one.text()?, is_right))
                });
                let picture = self.picture(&trial.dataset, &trial.sample, &trial.content)?;
                images.push(ErrorImage { trial, encoder, picture });
            }
        }
        images.truncate(self.n_max);
        Ok(images)
    }

    fn add(&mut self, dataset: Dataset) {
        let places = dataset.samples.iter().enumerate().map(|(place, sample)| (sample.id.clone(), place)).collect();
        self.datasets.insert(dataset.name.clone(), (dataset, places));
    }

    /// The lost images of a candidate, shared out over its datasets.
    pub fn of<'a>(&self, candidate: &'a CandidateComparison) -> Result<Vec<GalleryImage<'a>>> {
        let n_datasets = candidate.datasets.iter().filter(|dataset| !dataset.lost.is_empty()).count().max(1);
        let mut images = Vec::new();
        for dataset in &candidate.datasets {
            for lost in gallery_choice(&dataset.lost, self.n_max.div_ceil(n_datasets)) {
                images.push(GalleryImage {
                    dataset: &dataset.dataset,
                    lost,
                    picture: self.picture(&dataset.dataset, &lost.sample, &lost.content)?,
                });
            }
        }
        images.truncate(self.n_max);
        Ok(images)
    }

    fn picture(&self, dataset: &str, sample: &str, content: &str) -> Result<Picture> {
        let absent = |why| Ok(Picture::Absent(why));
        if !self.shows_images {
            return absent(Absence::TurnedOff);
        }
        let Some((dataset, places)) = self.datasets.get(dataset) else { return absent(Absence::NotAtHand) };
        if !dataset.may_redistribute {
            return absent(Absence::MayNotBeEmbedded);
        }
        let Some(&place) = places.get(sample) else { return absent(Absence::NotAtHand) };
        match dataset.read(place) {
            Ok(image) if image.content() == content => Ok(Picture::Shown(Thumbnail::of(&image)?)),
            Ok(_) => absent(Absence::Differs),
            Err(_) => absent(Absence::Unreadable),
        }
    }
}
