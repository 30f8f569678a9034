//! How datasets are read that a person names, for every command that reads images.

use std::path::Path;

use anyhow::{Error, Result, bail};
use clap::{Args, ValueEnum};

use crate::dataset::{Dataset, Exif, FoundOnHub, OpenRequest, said_name};

/// Flags of reading.
#[derive(Args, Clone, Debug, Default)]
pub struct ReadingOptions {
    /// What is done with the orientation that an image carries in its EXIF data
    ///
    /// `apply` turns every image upright, `ignore` turns none. `auto` does what the reference loader of the source does: Python's
    /// `datasets` turns images of its tables and of folders with metadata.csv; Pillow and torchvision turn only TIFF.
    #[arg(long, value_enum, default_value_t = ExifName::Auto, hide_short_help = true, help_heading = "Data")]
    exif: ExifName,
    #[command(flatten)]
    columns: ColumnOptions,
}

/// Which columns of tables hold what.
#[derive(Args, Clone, Debug, Default)]
pub struct ColumnOptions {
    /// Column of tables that has the images, as bytes or paths [default: image, path, file_name, ...]
    ///
    /// Tables are CSV, JSON lines, Parquet and Arrow files; other datasets have no columns. DATASET:COLUMN names the column of one
    /// dataset alone; several of them are separated by commas.
    #[arg(long, value_name = "COLUMN", hide_short_help = true, help_heading = "Data")]
    image_column: Option<String>,
    /// Column of tables that has the labels [default: label, fine_label, labels, class]
    ///
    /// DATASET:COLUMN names the column of one dataset alone.
    #[arg(long, value_name = "COLUMN", hide_short_help = true, help_heading = "Data")]
    label_column: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ExifName {
    #[default]
    Auto,
    Apply,
    Ignore,
}

impl ReadingOptions {
    /// What to open, read as these flags say; a person typed `given`, which was `found`.
    pub fn request<'a>(&'a self, given: &str, found: &'a FoundOnHub, labels: Option<&'a Path>) -> OpenRequest<'a> {
        self.request_of(given, &found.text, found.split.as_deref(), labels)
    }

    /// What to open of `text` for what a person typed as `given`.
    pub fn request_of<'a>(
        &'a self,
        given: &str,
        text: &'a str,
        split: Option<&'a str>,
        labels: Option<&'a Path>,
    ) -> OpenRequest<'a> {
        let exif = match self.exif {
            ExifName::Auto => Exif::Auto,
            ExifName::Apply => Exif::Apply,
            ExifName::Ignore => Exif::Ignore,
        };
        let (image_column, label_column) = self.columns.of(given);
        OpenRequest { text, split, labels_file: labels, exif, image_column, label_column }
    }

    /// Which columns hold what.
    pub fn columns(&self) -> &ColumnOptions {
        &self.columns
    }
}

impl ColumnOptions {
    /// The flags and what they say.
    fn flags(&self) -> Flags<'_> {
        [("--image-column", self.image_column.as_deref()), ("--label-column", self.label_column.as_deref())]
    }

    /// Whether a person named any column.
    pub fn is_given(&self) -> bool {
        self.flags().iter().any(|(_, column)| column.is_some())
    }

    /// The columns of images and of labels of the dataset that a person typed as `given`.
    pub fn of<'a>(&'a self, given: &str) -> (Option<&'a str>, Option<&'a str>) {
        let [(_, image), (_, label)] = self.flags();
        (image.and_then(|text| Columns::parse(text).of(given)), label.and_then(|text| Columns::parse(text).of(given)))
    }

    /// An error about one of several datasets, with what gives each its own columns.
    pub fn of_one(&self, error: Error) -> Error {
        match self.flags().into_iter().find(|(_, column)| column.is_some_and(|column| !column.contains(':'))) {
            Some((flag, Some(column))) => error.context(format!(
                "{flag} {column} is for all tables of this command, and {flag} DATASET:{column} for one"
            )),
            _ => error,
        }
    }

    /// Refuses columns that no dataset has: there is no table, or no dataset of a name that a flag names.
    ///
    /// `given` are the datasets as a person typed them, `opened` the same ones.
    pub fn refuse_idle(&self, given: &[String], opened: &[Dataset]) -> Result<()> {
        let is_table = |name: &str| {
            let mut named = given.iter().zip(opened).filter(|(given, _)| is_called(given, name));
            named.next().map(|(_, dataset)| dataset.is_table)
        };
        for (flag, column) in self.flags() {
            match column.map(Columns::parse) {
                None => {}
                Some(Columns::Of(pairs)) => {
                    for (name, _) in pairs {
                        match is_table(name) {
                            Some(true) => {}
                            Some(false) => {
                                bail!("{flag} is for tables (.csv, .jsonl, .parquet, .arrow), and `{name}` is not one")
                            }
                            None => bail!(
                                "{flag} names the dataset `{name}`, which is not given; hint: {flag} DATASET:COLUMN, \
                                 where DATASET is one of {}",
                                given.iter().map(|given| said_name(given)).collect::<Vec<_>>().join(", ")
                            ),
                        }
                    }
                }
                Some(Columns::OfAll(_)) if opened.iter().any(|dataset| dataset.is_table) => {}
                Some(Columns::OfAll(_)) => {
                    bail!(
                        "{flag} is for tables (.csv, .jsonl, .parquet, .arrow), and none of {} is one; hint: leave it \
                         out",
                        given.join(", ")
                    )
                }
            }
        }
        Ok(())
    }
}

/// Flags and what they say.
type Flags<'a> = [(&'static str, Option<&'a str>); 2];

/// What one of the flags says.
#[derive(Debug, PartialEq, Eq)]
enum Columns<'a> {
    /// The column of every table.
    OfAll(&'a str),
    /// Dataset and column.
    Of(Vec<(&'a str, &'a str)>),
}

impl<'a> Columns<'a> {
    /// A name alone, or `DATASET:COLUMN,DATASET:COLUMN`.
    fn parse(text: &'a str) -> Self {
        let pairs: Option<Vec<_>> = text.split(',').map(|part| part.trim().rsplit_once(':')).collect();
        pairs.map_or(Self::OfAll(text), Self::Of)
    }

    fn of(&self, given: &str) -> Option<&'a str> {
        match self {
            Self::OfAll(column) => Some(column),
            Self::Of(pairs) => pairs.iter().find(|(name, _)| is_called(given, name)).map(|(_, column)| *column),
        }
    }
}

/// Whether the dataset that a person typed as `given` is meant by `name`.
fn is_called(given: &str, name: &str) -> bool {
    given == name || said_name(given) == name
}

#[cfg(test)]
mod tests;
