//! Images on pages, where they are at hand.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, bail};

use super::data::Places;
use super::reading::ColumnOptions;
use super::sources::{self, Source, found, is_embedded};
use super::{forms, results};
use crate::compare::CandidateComparison;
use crate::dataset::{self, Catalog, DataRoots, Dataset, DatasetHub, Exif, OpenRequest, said_name};
use crate::diagnose::{Diagnosis, ImageDiagnosis};
use crate::domain::{DatasetSpec, Outcome, Trial};
use crate::record::Manifest;
use crate::report::{
    Absence, DiagnosedImage, ErrorImage, GalleryImage, Picture, Thumbnail, diagnosed_choice, error_choice,
    gallery_choice,
};

/// Errors of a single run that are shown with their images, where nobody says how many.
pub(super) const N_ERRORS_SHOWN: usize = 60;

/// Where images are found, and how many are wanted. What is said here goes before what runs recorded.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// At most so many of a run.
    pub n_max: usize,
    /// Whether images are shown at all.
    pub shows_images: bool,
    /// Where datasets lie, as `--datasets` takes them.
    pub datasets: Option<&'a str>,
    /// Where the catalog's lie.
    pub places: &'a Places,
    /// The columns of tables.
    pub columns: &'a ColumnOptions,
    /// Where datasets of the hub are found.
    pub hub: &'a DatasetHub<'a>,
}

/// Flags of a report that say how datasets are found and read.
const FLAGS: [&str; 5] = ["datasets", "data", "download", "image-column", "label-column"];

/// A dataset whose images are at hand.
struct Shown {
    dataset: Dataset,
    /// By id, and by its end, the place of each sample.
    places: HashMap<String, usize>,
}

/// What an id says of a sample within its dataset, whatever the dataset is called here: its end, behind name and split.
fn end_of<'i>(id: &'i str, dataset: &str, split: &str) -> &'i str {
    let behind =
        |id: &'i str, start: &str| id.strip_prefix(start).and_then(|rest| rest.strip_prefix('/')).unwrap_or(id);
    behind(behind(id, dataset), split)
}

impl Shown {
    fn new(dataset: Dataset) -> Self {
        let mut places = HashMap::new();
        for (place, sample) in dataset.samples.iter().enumerate() {
            places.insert(sample.id.clone(), place);
            // An end leads to the first that has it; the content tells whether it is the one.
            places.entry(format!("*/{}", end_of(&sample.id, &dataset.name, &dataset.split))).or_insert(place);
        }
        Self { dataset, places }
    }

    fn place(&self, dataset: &str, id: &str) -> Option<usize> {
        let by_end = || self.places.get(&format!("*/{}", end_of(id, dataset, &self.dataset.split)));
        self.places.get(id).or_else(by_end).copied()
    }
}

/// Finds images by sample id, and shows them if their content is what was evaluated.
pub(super) struct Gallery {
    n_max: usize,
    shows_images: bool,
    datasets: BTreeMap<String, Shown>,
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

    /// The datasets that it opened, in the order of `specs`.
    pub fn into_datasets(mut self, specs: &[DatasetSpec]) -> Vec<Dataset> {
        specs.iter().filter_map(|spec| Some(self.datasets.remove(&spec.dataset)?.dataset)).collect()
    }

    /// Opens the datasets of `runs`, as far as they are at hand.
    ///
    /// # Errors
    /// What a flag names is not there, or is of no run.
    pub fn open<'s>(wanted: Wanted<'_>, runs: impl Iterator<Item = &'s Manifest>) -> Result<Self> {
        let runs: Vec<&Manifest> = runs.collect();
        if wanted.shows_images && wanted.n_max > 0 {
            let names = runs.iter().flat_map(|run| &run.spec.datasets).map(|spec| spec.dataset.as_str());
            sources::refuse_flags_of_files(names, &FLAGS)?;
        }
        Self::open_recorded(wanted, &runs)
    }

    /// Like [`open`](Self::open), for a command in which `--datasets` chooses among those of the runs.
    ///
    /// # Errors
    /// What `wanted` names is not there, or is of no run.
    pub fn open_recorded(wanted: Wanted<'_>, runs: &[&Manifest]) -> Result<Self> {
        let shows_images = wanted.shows_images && wanted.n_max > 0;
        let mut gallery = Self { n_max: wanted.n_max, shows_images, ..Self::none() };
        if !gallery.shows_images {
            return Ok(gallery);
        }
        let names: Vec<&str> =
            runs.iter().flat_map(|run| &run.spec.datasets).map(|spec| spec.dataset.as_str()).collect();
        let search = Search { wanted, catalog: wanted.places.catalog()?, roots: wanted.places.roots() };
        let given = search.given()?;
        let mut is_used = vec![false; given.len()];
        for run in runs {
            for spec in &run.spec.datasets {
                if gallery.datasets.contains_key(&spec.dataset) {
                    continue;
                }
                let source = Source::of_run(&run.environment, &spec.dataset);
                let named = given.iter().position(|text| search.is_of(text, spec, source.as_ref()));
                let found = match named {
                    Some(place) => {
                        is_used[place] = true;
                        Ok(search.open_given(given[place], spec, source.as_ref())?)
                    }
                    None => search.open_recorded(spec, source.as_ref()),
                };
                match found {
                    Ok(dataset) => drop(gallery.datasets.insert(spec.dataset.clone(), Shown::new(dataset))),
                    Err(warning) if gallery.warnings.contains(&warning) => {}
                    Err(warning) => gallery.warnings.push(warning),
                }
            }
        }
        let mut idle = given.iter().zip(&is_used).filter(|(_, is_used)| !**is_used && forms::was_typed("datasets"));
        if let Some((text, _)) = idle.next() {
            let name = search.name_of(text)?;
            bail!(
                "--datasets says where images are, but no run here has the dataset `{name}`; hint: NAME=PATH, where \
                 NAME is one of {}",
                names.join(", ")
            );
        }
        if wanted.columns.is_given() && !gallery.datasets.is_empty() {
            let opened = gallery.datasets.iter().map(|(name, shown)| (name.clone(), shown.dataset.clone()));
            let (texts, opened): (Vec<String>, Vec<Dataset>) = opened.unzip();
            wanted.columns.refuse_idle(&texts, &opened)?;
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
        self.datasets.insert(dataset.name.clone(), Shown::new(dataset));
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

    /// Lost images of a diagnosis, some of each of its datasets.
    pub fn of_diagnosis<'a>(
        &self,
        diagnosis: &Diagnosis,
        images: &'a [ImageDiagnosis],
    ) -> Result<Vec<DiagnosedImage<'a>>> {
        let chosen = diagnosis.datasets.iter().flat_map(|dataset| diagnosed_choice(images, &dataset.dataset));
        chosen
            .map(|image| {
                let picture = self.picture(&image.dataset, &image.sample, &image.content)?;
                Ok(DiagnosedImage { image, picture })
            })
            .collect()
    }

    fn picture(&self, name: &str, sample: &str, content: &str) -> Result<Picture> {
        let absent = |why| Ok(Picture::Absent(why));
        if !self.shows_images {
            return absent(Absence::TurnedOff);
        }
        let Some(shown) = self.datasets.get(name) else { return absent(Absence::NotAtHand) };
        let dataset = &shown.dataset;
        if !dataset.may_redistribute {
            return absent(Absence::MayNotBeEmbedded);
        }
        let Some(place) = shown.place(name, sample) else { return absent(Absence::NotAtHand) };
        match dataset.read(place) {
            Ok(image) if image.content() == content => Ok(Picture::Shown(Thumbnail::of(&image)?)),
            Ok(_) => absent(Absence::Differs),
            Err(_) => absent(Absence::Unreadable),
        }
    }
}

/// Where the datasets of runs are looked for.
struct Search<'a> {
    wanted: Wanted<'a>,
    catalog: Catalog,
    roots: DataRoots,
}

impl<'a> Search<'a> {
    /// What `--datasets` names. A configuration file is shared with commands that choose datasets by it.
    fn given(&self) -> Result<Vec<&'a str>> {
        let texts = self.wanted.datasets.into_iter().flat_map(results::list);
        let (embedded, texts): (Vec<&str>, Vec<&str>) = texts.partition(|text| is_embedded(text));
        if let Some(text) = embedded.first().filter(|_| forms::was_typed("datasets")) {
            bail!(
                "--datasets {text} has no effect: its images are part of the program, and --datasets chooses none of a run's \
                 datasets; hint: leave it out"
            );
        }
        Ok(texts)
    }

    /// The name of what `--datasets` says, which must be there.
    fn name_of(&self, text: &str) -> Result<String> {
        let found = found(&self.catalog, self.wanted.hub, text, None)?;
        let name = said_name(text);
        let request = OpenRequest { text: &found.text, split: found.split.as_deref(), ..self.request(None, &name) };
        Ok(dataset::open(&self.catalog, &self.roots, &request)?.description.name)
    }

    /// Whether `--datasets` means a dataset of a run by `text`.
    fn is_of(&self, text: &str, spec: &DatasetSpec, source: Option<&Source>) -> bool {
        let is_called = said_name(text) == spec.dataset || source.is_some_and(|source| source.given == text);
        is_called || {
            let request = OpenRequest { text, split: split_of(spec), ..self.request(source, &spec.dataset) };
            dataset::open(&self.catalog, &self.roots, &request).is_ok_and(|dataset| dataset.name == spec.dataset)
        }
    }

    /// Columns and sheets: those of the flags, else those of the run.
    fn request<'s>(&'s self, source: Option<&'s Source>, name: &str) -> OpenRequest<'s> {
        let recorded = source.map(|source| (source.image_column.as_deref(), source.label_column.as_deref()));
        let (image, label) = self.wanted.columns.of(name);
        let (recorded_image, recorded_label) = recorded.unwrap_or_default();
        OpenRequest {
            image_column: image.or(recorded_image),
            label_column: label.or(recorded_label),
            // Images need no names of classes.
            labels_file: source.and_then(|source| source.labels.as_deref()).filter(|sheet| sheet.is_file()),
            ..OpenRequest::default()
        }
    }

    /// Opens a dataset of a run where `--datasets` says that it lies.
    fn open_given(&self, text: &str, spec: &DatasetSpec, source: Option<&Source>) -> Result<Dataset> {
        let found = found(&self.catalog, self.wanted.hub, text, split_of(spec))?;
        let exif = Exif::of_recorded(spec.exif.as_deref());
        let request = self.request(source, &spec.dataset);
        let request = OpenRequest { text: &found.text, split: found.split.as_deref(), exif, ..request };
        dataset::open(&self.catalog, &self.roots, &request)
    }

    /// Opens a dataset of a run where the run found it, else by its name; the error says where it was looked for.
    fn open_recorded(&self, spec: &DatasetSpec, source: Option<&Source>) -> std::result::Result<Dataset, String> {
        let name = &spec.dataset;
        let exif = Exif::of_recorded(spec.exif.as_deref());
        let request = OpenRequest { split: split_of(spec), exif, ..self.request(source, name) };
        let mut failed = None;
        if let Some(source) = source.filter(|source| source.path.as_ref().is_some_and(|path| path.exists())) {
            let text = source.text().unwrap_or_default();
            match dataset::open(&self.catalog, &self.roots, &OpenRequest { text: &text, ..request }) {
                Ok(dataset) => return Ok(dataset),
                Err(error) => failed = Some(error),
            }
        }
        let is_of_catalog = self.catalog.names().any(|known| known == name);
        let texts = [Some(name.as_str()), source.map(|source| source.given.as_str())];
        for text in texts.into_iter().flatten() {
            if let Ok(dataset) = self.open_by_name(text, source, request) {
                return Ok(dataset);
            }
        }
        let what = format!("the images of {name} were not found and are shown as placeholders");
        Err(match (failed, source.and_then(|source| source.path.as_ref())) {
            (Some(error), _) => format!("{what}: {error:#}; hint: --datasets {name}=PATH says where they are"),
            (None, Some(path)) => format!(
                "{what}: the run read them from `{}`, which no longer exists; hint: --datasets {name}=PATH says where \
                 they are now",
                path.display()
            ),
            (None, None) if is_of_catalog => format!("{what}; hint: --data DIR says where they are"),
            (None, None) => format!("{what}; hint: --datasets {name}=PATH says where they are"),
        })
    }

    /// A dataset of the catalog, below the folders of today or of the run, or one of the hub.
    fn open_by_name(&self, text: &str, source: Option<&Source>, request: OpenRequest) -> Result<Dataset> {
        let found = found(&self.catalog, self.wanted.hub, text, request.split)?;
        let request = OpenRequest { text: &found.text, split: found.split.as_deref(), ..request };
        let mut opened = dataset::open(&self.catalog, &self.roots, &request);
        for folder in source.iter().flat_map(|source| &source.data) {
            opened = opened.or_else(|_| {
                let roots = DataRoots { data: Some(folder.clone()), ..DataRoots::default() };
                dataset::open(&self.catalog, &roots, &request)
            });
        }
        opened
    }
}

/// The split of a run's dataset, as it is asked for.
fn split_of(spec: &DatasetSpec) -> Option<&str> {
    Some(spec.split.as_str()).filter(|split| *split != "all")
}
