//! Parquet in the image layout of the Hugging Face hub: a column of images (`{bytes, path}` or bytes) and one of labels.
//!
//! Opening reads the footers and the label column; an image is read when it is asked for, see [`pages`].

mod pages;
mod shard;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use self::pages::{BytesColumn, PageCache};
use self::shard::{ShardFile, guarded};
use super::class_names::{self, Classified, RawLabels};
use super::{Opened, ReadImage, decode_named, unreadable};
use crate::dataset::UnreadableImage;
use crate::dataset::labels::ClassFinder;
use crate::domain::RgbImage;

/// More rows than any dataset of images has: what a footer says of them is not believed.
const ROWS_MAX: usize = 20_000_000;

/// What the hub calls the column of images.
const IMAGE_COLUMNS: [&str; 2] = ["image", "img"];

/// What the hub calls the column of labels; of CIFAR-100's two the fine one.
const LABEL_COLUMNS: [&str; 4] = ["label", "fine_label", "labels", "class"];

/// The key under which `datasets` writes the features of a file.
const FEATURES_KEY: &str = "huggingface";

/// Rows that are decoded at once.
const BATCH_LEN: usize = 8192;

/// Opens the shards of one split; their rows are numbered through. `sheet` names numbered classes where nothing else does.
pub(in crate::dataset) fn open(
    shards: &[PathBuf],
    sheet: Option<&Path>,
) -> anyhow::Result<(Classified, Arc<dyn ReadImage>)> {
    let mut images = Images { shards: Vec::new(), cache: PageCache::default() };
    let mut all = RawLabels::Texts(Vec::new());
    let mut column = String::new();
    let mut names: Option<Vec<String>> = None;
    for (number, path) in shards.iter().enumerate() {
        let named = || format!("failed to read `{}`", path.display());
        let shard = guarded(|| Shard::read(path)).with_context(named)?;
        if number == 0 {
            (column, names) = (shard.label_column, shard.names);
            all = shard.labels;
        } else {
            ensure!(
                shard.label_column == column && shard.names == names,
                "`{}` and `{}` have other labels than one another; hint: are they of one dataset?",
                shards[0].display(),
                path.display()
            );
            match (&mut all, shard.labels) {
                (RawLabels::Numbers(all), RawLabels::Numbers(more)) => all.extend(more),
                (RawLabels::Texts(all), RawLabels::Texts(more)) => all.extend(more),
                _ => bail!("{}: its labels are of another type than the first shard's", named()),
            }
        }
        let first_row = images.shards.last().map_or(0, |(first_row, n_rows, _)| first_row + n_rows);
        images.shards.push((first_row, shard.n_rows, shard.images));
    }
    if names.is_none() && matches!(all, RawLabels::Numbers(_)) {
        let folder = shards.first().and_then(|path| path.parent()).unwrap_or(Path::new("."));
        names = match class_names::beside(folder, &column) {
            // A person's sheet stands in for a card that cannot be read.
            Err(_) if sheet.is_some() => None,
            found => found?,
        };
    }
    let mend = format!(
        "--labels FILE with one name a line, in the order of the numbers, or put the dataset's card (README.md with \
         dataset_info) or dataset_infos.json, which name the classes of `{column}`, beside the file"
    );
    let classified = all.classify(names, sheet, &|row| images.describe(row), &mend)?;
    Ok((classified, Arc::new(images)))
}

/// Opens the shards of a split of the catalog, whose classes are known: they are found by their names, in whatever order.
pub(in crate::dataset) fn open_known(shards: &[PathBuf], finder: &ClassFinder) -> anyhow::Result<Opened> {
    let (classified, reader) = open(shards, None)?;
    let class = |key: &String| finder.find(key).with_context(|| format!("it has the class `{key}`, which is unknown"));
    let known = classified.keys.iter().map(class).collect::<anyhow::Result<Vec<usize>>>()?;
    let rows = classified.classes.into_iter().enumerate();
    let samples = rows.map(|(row, class)| (format!("{row:05}"), known[class])).collect();
    Ok(Opened { samples, reader, warnings: Vec::new() })
}

/// What is known of one file after opening it.
struct Shard {
    images: BytesColumn,
    n_rows: usize,
    label_column: String,
    labels: RawLabels,
    names: Option<Vec<String>>,
}

impl Shard {
    fn read(path: &Path) -> anyhow::Result<Shard> {
        let file = ShardFile::open(path)?;
        let reader = SerializedFileReader::new(file.clone())
            .context("its end, which says what lies where, is damaged; hint: fetch it again")?;
        let metadata = reader.metadata();
        let n_rows = count_rows(metadata)?;
        let key_values = metadata.file_metadata().key_value_metadata().into_iter().flatten();
        let features = key_values.filter(|pair| pair.key == FEATURES_KEY).find_map(|pair| pair.value.as_deref());
        let schema = metadata.file_metadata().schema_descr();
        let image = image_column(schema)?;
        let (label, label_column) = label_column(schema, features)?;
        let labels = read_labels(&reader, label, n_rows)
            .with_context(|| format!("failed to read its column `{label_column}`"))?;
        let names = features.and_then(|features| class_names::in_metadata(features, &label_column));
        let images = BytesColumn::new(Arc::new(file), metadata, image)?;
        Ok(Shard { images, n_rows, label_column, labels, names })
    }
}

fn count_rows(metadata: &ParquetMetaData) -> anyhow::Result<usize> {
    let mut n_rows = 0usize;
    for group in metadata.row_groups() {
        let more = usize::try_from(group.num_rows()).ok().filter(|&more| more <= ROWS_MAX - n_rows);
        n_rows += more.with_context(|| format!("it claims {} rows in a row group", group.num_rows()))?;
    }
    Ok(n_rows)
}

/// All columns, for a message.
fn column_names(schema: &SchemaDescriptor) -> String {
    schema.columns().iter().map(|column| column.path().string()).collect::<Vec<_>>().join(", ")
}

fn is_bytes(column: &ColumnDescriptor) -> bool {
    column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0
}

/// The column of encoded images: by its name, else the only one of the hub's shape.
fn image_column(schema: &SchemaDescriptor) -> anyhow::Result<usize> {
    let columns = schema.columns();
    let place = |parts: &[&str]| columns.iter().position(|column| is_bytes(column) && column.path().parts() == parts);
    let by_name = IMAGE_COLUMNS.iter().find_map(|&name| place(&[name, "bytes"]).or_else(|| place(&[name])));
    if let Some(column) = by_name {
        return Ok(column);
    }
    let is_of_shape =
        |column: &ColumnDescriptor| is_bytes(column) && matches!(column.path().parts(), [_, bytes] if bytes == "bytes");
    let mut of_shape = (0..columns.len()).filter(|&column| is_of_shape(&columns[column]));
    match (of_shape.next(), of_shape.next()) {
        (Some(column), None) => Ok(column),
        _ => bail!(
            "it has no column of images; hint: `image` or `img`, as bytes or as {{bytes, path}}; it has {}",
            column_names(schema)
        ),
    }
}

/// The column of labels and its name: by its name, else the only ClassLabel.
fn label_column(schema: &SchemaDescriptor, features: Option<&str>) -> anyhow::Result<(usize, String)> {
    let columns = schema.columns();
    let place = |name: &str| columns.iter().position(|column| column.path().parts() == [name]);
    let by_name = LABEL_COLUMNS.iter().find_map(|&name| Some((place(name)?, name.to_owned())));
    let by_features = || {
        let name = class_names::only_class_label(features?)?;
        Some((place(&name)?, name))
    };
    by_name.or_else(by_features).with_context(|| {
        format!(
            "it has no column of labels; hint: `label` or `fine_label`, numbers or text; it has {}",
            column_names(schema)
        )
    })
}

fn read_labels(reader: &SerializedFileReader<ShardFile>, column: usize, n_rows: usize) -> anyhow::Result<RawLabels> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let descriptor = schema.column(column);
    let max_level = descriptor.max_def_level();
    ensure!(descriptor.max_rep_level() == 0, "it holds lists, and a sample has one label");
    let is_text = match descriptor.physical_type() {
        Type::INT32 | Type::INT64 => false,
        Type::BYTE_ARRAY => true,
        other => bail!("it holds {other}, and a label is a whole number or a text"),
    };
    let (mut numbers, mut texts): (Vec<i64>, Vec<String>) = (Vec::new(), Vec::new());
    for group in 0..reader.metadata().num_row_groups() {
        let n_of_group = usize::try_from(reader.metadata().row_group(group).num_rows())?;
        match reader.get_row_group(group)?.get_column_reader(column)? {
            ColumnReader::Int32ColumnReader(values) => {
                read_values(values, n_of_group, max_level, &mut |value| {
                    numbers.push(i64::from(value));
                    Ok(())
                })?;
            }
            ColumnReader::Int64ColumnReader(values) => {
                read_values(values, n_of_group, max_level, &mut |value| {
                    numbers.push(value);
                    Ok(())
                })?;
            }
            ColumnReader::ByteArrayColumnReader(values) => {
                read_values(values, n_of_group, max_level, &mut |value: ByteArray| {
                    let text = std::str::from_utf8(value.data()).context("a label is no UTF-8 text")?;
                    ensure!(!text.trim().is_empty(), "row {} has an empty label", texts.len());
                    texts.push(text.to_owned());
                    Ok(())
                })?;
            }
            _ => bail!("its row groups are of different types"),
        }
    }
    let labels = if is_text { RawLabels::Texts(texts) } else { RawLabels::Numbers(numbers) };
    let n_found = match &labels {
        RawLabels::Texts(texts) => texts.len(),
        RawLabels::Numbers(numbers) => numbers.len(),
    };
    ensure!(n_found == n_rows, "it has {n_found} labels for {n_rows} rows");
    Ok(labels)
}

/// Hands on the `n_rows` values of one row group; an absent one is an error.
fn read_values<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    n_rows: usize,
    max_level: i16,
    push: &mut dyn FnMut(T::T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut n_read = 0;
    while n_read < n_rows {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (n_records, ..) =
            reader.read_records(BATCH_LEN.min(n_rows - n_read), Some(&mut levels), None, &mut values)?;
        ensure!(n_records > 0, "it ends after {n_read} of {n_rows} rows of a row group");
        if let Some(absent) = levels.iter().position(|&level| level < max_level) {
            bail!("the label of row {} of a row group is absent", n_read + absent);
        }
        values.into_iter().try_for_each(&mut *push)?;
        n_read += n_records;
    }
    Ok(())
}

/// The images of all shards.
struct Images {
    /// The first row of each, the number of its rows, and its images.
    shards: Vec<(usize, usize, BytesColumn)>,
    cache: PageCache,
}

impl Images {
    fn find(&self, position: usize) -> Option<(usize, usize, &BytesColumn)> {
        let shard = self.shards.partition_point(|(first_row, ..)| *first_row <= position).checked_sub(1)?;
        let (first_row, n_rows, images) = &self.shards[shard];
        let row = position - first_row;
        (row < *n_rows).then_some((shard, row, images))
    }

    /// How people find the image: the file, and the row in it.
    fn describe(&self, position: usize) -> String {
        match self.find(position) {
            Some((_, row, images)) => format!("{} (row {row})", images.path().display()),
            None => format!("row {position}"),
        }
    }
}

impl ReadImage for Images {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        let path = self.describe(position);
        let Some((shard, row, images)) = self.find(position) else {
            return Err(unreadable(&path, "there is no such row", &[]));
        };
        match images.value(row, shard, &self.cache) {
            Ok(Some(bytes)) => decode_named(&path, bytes.data()),
            Ok(None) => Err(unreadable(&path, "its bytes are absent", &[])),
            Err(error) => Err(unreadable(&path, &format!("{error:#}"), &[])),
        }
    }
}
