//! What `emt finetune` trains on: datasets of images, and texts.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::FinetuneArgs;
use super::flags::share_of;
use crate::cli::results;
use crate::cli::sources::found;
use crate::dataset::{self, Catalog, DataRoots, Dataset, FoundOnHub, read_texts};
use crate::study::{Restrain, Source};

/// What a source of texts begins with.
const TEXT: &str = "text:";

/// The file of a source of texts.
pub(super) fn text_file(source: &str) -> Option<&Path> {
    source.strip_prefix(TEXT).map(Path::new)
}

impl FinetuneArgs {
    /// What holds the training back from forgetting, with its datasets opened.
    pub(super) fn restrain(&self, quiet: bool, err: &mut dyn Write) -> Result<Restrain<'_>> {
        let flags = &self.restraints;
        flags.check()?;
        let mut replay = Vec::new();
        for text in &flags.replay {
            let (name, share) = share_of(text)?;
            replay.push((self.source(name, None, quiet, err)?, share));
        }
        let mut named: Vec<&str> = Vec::new();
        match (&flags.ewc, &flags.ewc_datasets) {
            (None, _) => {}
            (Some(_), Some(names)) => named.extend(results::list(names)),
            (Some(_), None) => {
                for text in &flags.replay {
                    named.push(share_of(text)?.0);
                }
            }
        }
        let mut earlier = Vec::new();
        for name in named {
            match self.source(name, None, quiet, err)? {
                Source::Images(dataset) => earlier.push(*dataset),
                Source::Texts { name, .. } => {
                    bail!("--ewc measures on images, and `{name}` holds texts; hint: --ewc-datasets A,B")
                }
            }
        }
        Ok(Restrain {
            keep_base: flags.keep_base,
            ewc: flags.ewc,
            n_ewc_samples: flags.ewc_limit,
            l2_sp: flags.l2_sp,
            replay,
            replay_weight: flags.replay_weight,
            earlier,
            old_answer: &flags.old_answer_template,
        })
    }

    /// What is trained on.
    pub(super) fn sources(&self, quiet: bool, err: &mut dyn Write) -> Result<Vec<Source>> {
        let mut sources: Vec<Source> = Vec::new();
        let given: Vec<String> = results::list(&self.train).map(str::to_owned).collect();
        for text in &given {
            let source = self.source(text, self.split.as_deref(), quiet, err)?;
            ensure!(
                sources.iter().all(|other| other.name() != source.name()),
                "--train names `{}` twice; hint: give one of them a name with NAME=PATH",
                source.name()
            );
            sources.push(source);
        }
        let images =
            |source: &Source| if let Source::Images(dataset) = source { Some(dataset.as_ref().clone()) } else { None };
        let datasets: Vec<Dataset> = sources.iter().filter_map(images).collect();
        ensure!(
            self.labels.is_none() || datasets.len() < 2,
            "--labels is for one dataset, and --train names {}; hint: train on them one after the other with --from-adapter",
            datasets.len()
        );
        ensure!(!datasets.is_empty(), "--train names no dataset; hint: a name of `emt data list`, or a folder");
        ensure!(
            self.mix.is_none() || sources.len() > 1,
            "--mix has no effect on one dataset: it mixes several; hint: --limit N trains on fewer of its samples"
        );
        let of_images: Vec<String> = given.into_iter().filter(|text| text_file(text).is_none()).collect();
        self.reading.columns().refuse_idle(&of_images, &datasets)?;
        Ok(sources)
    }

    /// The split `asked` of a dataset, or its training split; or texts.
    fn source(&self, text: &str, asked: Option<&str>, quiet: bool, err: &mut dyn Write) -> Result<Source> {
        if let Some(path) = text_file(text) {
            let name = path.file_stem().map_or_else(|| text.to_owned(), |stem| stem.to_string_lossy().into_owned());
            return Ok(Source::Texts { name, samples: read_texts(path)? });
        }
        let (catalog, roots) = (self.places.catalog()?, self.places.roots());
        let found = found(&catalog, &self.hub.datasets(quiet, err)?, text, asked.or(Some("train")))?;
        Ok(Source::Images(Box::new(open_split(self, &catalog, &roots, text, &found, asked)?)))
    }
}

/// Opens the split `asked`, or the one to train on.
fn open_split(
    args: &FinetuneArgs,
    catalog: &Catalog,
    roots: &DataRoots,
    text: &str,
    found: &FoundOnHub,
    asked: Option<&str>,
) -> Result<Dataset> {
    // The catalog and the hub know several splits; a path says itself which split it is, or holds several.
    let has_splits = found.text != text || catalog.names().any(|name| name == text);
    let split = asked.or(has_splits.then_some("train"));
    let open = |split: Option<&str>| {
        let request = args.reading.request_of(text, &found.text, split, args.labels.as_deref());
        dataset::open(catalog, roots, &request).with_context(|| format!("`{text}` cannot be trained on"))
    };
    let mut opened = open(split)?;
    if opened.chosen_of.iter().any(|split| split == "train") {
        opened = open(Some("train"))?;
    }
    if asked.is_none() && !opened.is_training_split && opened.split != "all" {
        bail!(
            "`{text}` is the split `{}`, which is held out; hint: give the folder of its training split, or --split {} \
             to train on it anyway",
            opened.split,
            opened.split
        );
    }
    Ok(opened)
}
