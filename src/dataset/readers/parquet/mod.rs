//! Parquet in the image layout of the Hugging Face hub: a column of images (`{bytes, path}`, bytes or paths, or lists
//! of one of them) and one of labels.
//!
//! Opening reads the footers and the label column. Images are read on demand, see [`pages`].

mod columns;
mod pages;
mod shard;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

use self::columns::{ImageColumns, image_columns, label_column, read_labels};
use self::pages::{BytesColumn, PageCache};
use self::shard::{ShardFile, guarded};
use super::class_names::{self, Classified, RawLabels};
use super::manifest::Columns;
use super::{N_SAMPLES_MAX, Opened, ReadImage, Reader, decode_named, read_beside, unreadable};
use crate::dataset::labels::ClassFinder;
use crate::dataset::{Orientation, UnreadableImage};
use crate::domain::RgbImage;

/// Shards in the hub's image layout, whose class names are the catalog's labels.
pub(super) const READER: Reader = Reader {
    name: "parquet",
    is_of_encoded_images: true,
    is_built_in: false,
    open: |wanted| open_known(wanted.paths, &ClassFinder::new(wanted.labels), wanted.orientation),
};

/// The metadata key of the features that `datasets` writes into a file.
const FEATURES_KEY: &str = "huggingface";

/// Opens the shards of one split and numbers their rows consecutively. `sheet` names numbered classes if nothing else
/// does.
pub(in crate::dataset) fn open(
    shards: &[PathBuf],
    sheet: Option<&Path>,
    asked: Columns,
    orientation: Orientation,
) -> anyhow::Result<(Classified, Arc<dyn ReadImage>)> {
    let mut images = Images { shards: Vec::new(), cache: PageCache::default(), orientation };
    let mut first: Option<(String, Option<Vec<String>>, RawLabels)> = None;
    for path in shards {
        let named = || format!("failed to read `{}`", path.display());
        let shard = guarded(|| Shard::read(path, asked)).with_context(named)?;
        match &mut first {
            None => first = Some((shard.label_column, shard.names, shard.labels)),
            Some((column, names, all)) => {
                ensure!(
                    shard.label_column == *column && shard.names == *names,
                    "`{}` and `{}` have different labels; hint: check that they belong to one dataset",
                    shards[0].display(),
                    path.display()
                );
                all.extend(shard.labels).with_context(named)?;
            }
        }
        let first_row = images.shards.last().map_or(0, |part: &Part| part.first_row + part.n_rows);
        images.shards.push(Part { first_row, n_rows: shard.n_rows, images: shard.images });
    }
    let (column, names, all) = first.context("no file is named")?;
    let describe = |row| images.describe(row);
    let classified = class_names::classify_table(all, names, &column, &shards[0], sheet, &describe)?;
    Ok((classified, Arc::new(images)))
}

/// Opens the shards of a catalog split, whose known classes are matched by name in any order.
pub(in crate::dataset) fn open_known(
    shards: &[PathBuf],
    finder: &ClassFinder,
    orientation: Orientation,
) -> anyhow::Result<Opened> {
    // Its images are equal in every format that holds them, so the orientation is Pillow's.
    let (classified, reader) = open(shards, None, Columns::default(), orientation)?;
    let class = |key: &String| finder.find(key).with_context(|| format!("it has the class `{key}`, which is unknown"));
    let known = classified.keys.iter().map(class).collect::<anyhow::Result<Vec<usize>>>()?;
    let classes = classified.classes.into_iter().map(|class| class.map(|class| known[class])).collect();
    Ok(super::labelled_rows(classes, reader))
}

/// What is known of one file after opening it.
struct Shard {
    images: ImageColumns,
    n_rows: usize,
    label_column: String,
    labels: RawLabels,
    names: Option<Vec<String>>,
}

impl Shard {
    fn read(path: &Path, asked: Columns) -> anyhow::Result<Shard> {
        let file = ShardFile::open(path)?;
        let reader = SerializedFileReader::new(file.clone()).context("its footer is damaged; hint: fetch it again")?;
        let metadata = reader.metadata();
        let n_rows = count_rows(metadata)?;
        let key_values = metadata.file_metadata().key_value_metadata().into_iter().flatten();
        let features = key_values.filter(|pair| pair.key == FEATURES_KEY).find_map(|pair| pair.value.as_deref());
        let schema = metadata.file_metadata().schema_descr();
        let found = image_columns(schema, asked.image)?;
        let (label, label_column) = label_column(schema, features, asked.label)?;
        let labels = read_labels(&reader, label, n_rows)
            .with_context(|| format!("failed to read its column `{label_column}`"))?;
        let names = features.and_then(|features| class_names::in_metadata(features, &label_column));
        let file = Arc::new(file);
        let column = |place: usize| BytesColumn::new(Arc::clone(&file), metadata, place);
        let images = ImageColumns {
            bytes: found.bytes.map(column).transpose()?,
            path: found.path.map(column).transpose()?,
            file: path.to_owned(),
        };
        Ok(Shard { images, n_rows, label_column, labels, names })
    }
}

fn count_rows(metadata: &ParquetMetaData) -> anyhow::Result<usize> {
    let mut n_rows = 0usize;
    for group in metadata.row_groups() {
        let more = usize::try_from(group.num_rows()).ok().filter(|&more| more <= N_SAMPLES_MAX - n_rows);
        n_rows += more.with_context(|| format!("it claims {} rows in a row group", group.num_rows()))?;
    }
    Ok(n_rows)
}

/// The images of all shards.
struct Images {
    shards: Vec<Part>,
    cache: PageCache,
    orientation: Orientation,
}

/// One of the shards.
struct Part {
    first_row: usize,
    n_rows: usize,
    images: ImageColumns,
}

impl Images {
    fn find(&self, position: usize) -> Option<(usize, usize, &ImageColumns)> {
        let shard = self.shards.partition_point(|part| part.first_row <= position).checked_sub(1)?;
        let part = &self.shards[shard];
        let row = position - part.first_row;
        (row < part.n_rows).then_some((shard, row, &part.images))
    }

    /// Returns the image's place for users: the file, and the row in it.
    fn describe(&self, position: usize) -> String {
        match self.find(position) {
            Some((_, row, images)) => format!("{} (row {row})", images.file.display()),
            None => format!("row {position}"),
        }
    }
}

impl ReadImage for Images {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        let place = self.describe(position);
        let Some((shard, row, images)) = self.find(position) else {
            return Err(unreadable(&place, "there is no such row", &[]));
        };
        // Two columns of a file have different numbers in the cache.
        let value = |column: &Option<BytesColumn>, number: usize| match column {
            Some(column) => column.value(row, 2 * shard + number, &self.cache),
            None => Ok(None),
        };
        let failed = |error: anyhow::Error| unreadable(&place, &format!("{error:#}"), &[]);
        if let Some(bytes) = value(&images.bytes, 0).map_err(failed)? {
            return decode_named(&place, bytes.data(), self.orientation);
        }
        match value(&images.path, 1).map_err(failed)? {
            Some(path) => read_beside(&images.file, &place, &String::from_utf8_lossy(path.data()), self.orientation),
            None => Err(unreadable(&place, "its bytes are absent", &[])),
        }
    }
}
