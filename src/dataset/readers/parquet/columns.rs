//! Finds the image and label columns of a Parquet file, and reads the labels.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::pages::BytesColumn;
use super::shard::ShardFile;
use crate::dataset::readers::class_names::{self, RawLabels};
use crate::dataset::readers::manifest::{IMAGE_COLUMNS, LABEL_COLUMNS, PATH_COLUMNS, spelled};

/// Rows decoded at once.
const BATCH_LEN: usize = 8192;

/// The images of one file: encoded, or as paths.
pub(super) struct ImageColumns {
    /// Encoded images.
    pub(super) bytes: Option<BytesColumn>,
    /// Paths of images, if there are no bytes.
    pub(super) path: Option<BytesColumn>,
    /// The file.
    pub(super) file: PathBuf,
}

/// The indices of the image columns.
pub(super) struct ImagePlaces {
    pub(super) bytes: Option<usize>,
    pub(super) path: Option<usize>,
}

/// Returns all column names, for a message.
fn column_names(schema: &SchemaDescriptor) -> String {
    schema.columns().iter().map(|column| column.path().string()).collect::<Vec<_>>().join(", ")
}

/// Returns the first part of each column's path.
fn top_names(schema: &SchemaDescriptor) -> Vec<&str> {
    schema.columns().iter().filter_map(|column| column.path().parts().first()).map(String::as_str).collect()
}

/// Whether a column holds bytes, or lists of bytes.
fn is_bytes(column: &ColumnDescriptor) -> bool {
    column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() <= 1
}

fn is_text(column: &ColumnDescriptor) -> bool {
    matches!(column.logical_type_ref(), Some(LogicalType::String)) || column.converted_type() == ConvertedType::UTF8
}

/// Returns the parts of a column's path below its name, without list wrappers.
fn field<'c>(column: &'c ColumnDescriptor, name: &str) -> Option<Vec<&'c str>> {
    let (_, rest) = column.path().parts().split_first().filter(|(first, _)| *first == name)?;
    let n_of_list = if column.max_rep_level() == 1 { 2.min(rest.len()) } else { 0 };
    Some(rest[n_of_list..].iter().map(String::as_str).collect())
}

/// Finds the columns of images: by name, otherwise the only one of the hub's shape, otherwise paths.
pub(super) fn image_columns(schema: &SchemaDescriptor, asked: Option<&str>) -> anyhow::Result<ImagePlaces> {
    let columns = schema.columns();
    let place = |name: &str, wanted: &[&str]| {
        columns.iter().position(|column| is_bytes(column) && field(column, name).is_some_and(|parts| parts == wanted))
    };
    let of_name = |name: &str| {
        let (bytes, path) = (place(name, &["bytes"]), place(name, &["path"]));
        if bytes.is_some() || path.is_some() {
            return Some(ImagePlaces { bytes, path });
        }
        let itself = place(name, &[])?;
        let is_path = is_text(&columns[itself]);
        Some(ImagePlaces { bytes: (!is_path).then_some(itself), path: is_path.then_some(itself) })
    };
    let names = top_names(schema);
    let in_any_case = |name: &&str| of_name(spelled(&names, name)?);
    if let Some(asked) = asked {
        return in_any_case(&asked).with_context(|| {
            format!("it has no column `{asked}` of images, bytes or paths; it has {}", column_names(schema))
        });
    }
    let is_of_shape = |column: &&ColumnDescriptor| {
        is_bytes(column) && matches!(column.path().parts(), [_, .., bytes] if bytes == "bytes")
    };
    let mut of_shape =
        columns.iter().map(AsRef::as_ref).filter(is_of_shape).map(|column| column.path().parts()[0].clone());
    let only = of_shape.next().filter(|_| of_shape.next().is_none());
    let by_name = IMAGE_COLUMNS.iter().find_map(|&name| of_name(name));
    let found = by_name.or_else(|| of_name(&only?)).or_else(|| PATH_COLUMNS.iter().find_map(|&name| of_name(name)));
    let found = found.or_else(|| IMAGE_COLUMNS.iter().chain(&PATH_COLUMNS).find_map(in_any_case));
    found.with_context(|| {
        format!(
            "it has no column of images; hint: `image` or `img`, as bytes, as paths or as {{bytes, path}}, or --image-column \
             NAME; it has {}",
            column_names(schema)
        )
    })
}

/// Finds the column of labels and its name: by name, otherwise the only ClassLabel.
pub(super) fn label_column(
    schema: &SchemaDescriptor,
    features: Option<&str>,
    asked: Option<&str>,
) -> anyhow::Result<(usize, String)> {
    let columns = schema.columns();
    let place =
        |name: &str| columns.iter().position(|column| field(column, name).is_some_and(|parts| parts.is_empty()));
    let named = |name: &str| Some((place(name)?, name.to_owned()));
    let names = top_names(schema);
    let in_any_case = |name: &&str| named(spelled(&names, name)?);
    if let Some(asked) = asked {
        return in_any_case(&asked)
            .with_context(|| format!("it has no column `{asked}` of labels; it has {}", column_names(schema)));
    }
    let by_name = LABEL_COLUMNS.iter().find_map(|&name| named(name));
    let found = by_name.or_else(|| named(&class_names::only_class_label(features?)?));
    found.or_else(|| LABEL_COLUMNS.iter().find_map(in_any_case)).with_context(|| {
        format!(
            "it has no column of labels; hint: `label` or `fine_label`, numbers or text, or --label-column NAME; it has {}",
            column_names(schema)
        )
    })
}

/// Reads the labels of all rows.
pub(super) fn read_labels(
    reader: &SerializedFileReader<ShardFile>,
    column: usize,
    n_rows: usize,
) -> anyhow::Result<RawLabels> {
    let descriptor = reader.metadata().file_metadata().schema_descr().column(column);
    ensure!(descriptor.max_rep_level() <= 1, "it holds lists of lists, and a sample has one label");
    let levels = (descriptor.max_def_level(), descriptor.max_rep_level());
    let is_text = match descriptor.physical_type() {
        Type::BOOLEAN | Type::INT32 | Type::INT64 | Type::FLOAT | Type::DOUBLE => false,
        Type::BYTE_ARRAY => true,
        other => bail!("it holds {other}, and a label is a whole number or a text"),
    };
    let (mut numbers, mut texts): (Vec<Option<i64>>, Vec<Option<String>>) = (Vec::new(), Vec::new());
    for group in 0..reader.metadata().num_row_groups() {
        let n_of_group = usize::try_from(reader.metadata().row_group(group).num_rows())?;
        match reader.get_row_group(group)?.get_column_reader(column)? {
            ColumnReader::BoolColumnReader(values) => {
                read_values(values, n_of_group, levels, &mut numbers, &|value| Ok(i64::from(value)))?;
            }
            ColumnReader::Int32ColumnReader(values) => {
                read_values(values, n_of_group, levels, &mut numbers, &|value| Ok(i64::from(value)))?;
            }
            ColumnReader::Int64ColumnReader(values) => {
                read_values(values, n_of_group, levels, &mut numbers, &Ok)?;
            }
            ColumnReader::FloatColumnReader(values) => {
                read_values(values, n_of_group, levels, &mut numbers, &|value| class_names::whole(f64::from(value)))?;
            }
            ColumnReader::DoubleColumnReader(values) => {
                read_values(values, n_of_group, levels, &mut numbers, &class_names::whole)?;
            }
            ColumnReader::ByteArrayColumnReader(values) => {
                let text = |value: ByteArray| {
                    Ok(std::str::from_utf8(value.data()).context("a label is not UTF-8 text")?.to_owned())
                };
                read_values(values, n_of_group, levels, &mut texts, &text)?;
            }
            _ => bail!("its row groups are of different types"),
        }
    }
    let labels = if is_text { RawLabels::of_texts(texts.into_iter()) } else { RawLabels::Numbers(numbers) };
    ensure!(labels.len() == n_rows, "it has {} labels for {n_rows} rows", labels.len());
    Ok(labels)
}

/// Adds the values of the `n_rows` rows of one row group to `all`; absent values and empty lists are `None`.
fn read_values<T: DataType, V>(
    mut reader: ColumnReaderImpl<T>,
    n_rows: usize,
    (max_definition, max_repetition): (i16, i16),
    all: &mut Vec<Option<V>>,
    convert: &dyn Fn(T::T) -> anyhow::Result<V>,
) -> anyhow::Result<()> {
    let mut n_read = 0;
    while n_read < n_rows {
        let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (n_records, _, n_levels) = reader.read_records(
            BATCH_LEN.min(n_rows - n_read),
            (max_definition > 0).then_some(&mut definitions),
            (max_repetition > 0).then_some(&mut repetitions),
            &mut values,
        )?;
        ensure!(n_records > 0, "it ends after {n_read} of {n_rows} rows of a row group");
        let mut values = values.into_iter();
        for level in 0..n_levels {
            let is_first = repetitions.get(level).is_none_or(|&repetition| repetition == 0);
            ensure!(is_first, "row {} has several labels, and a sample has one", all.len().saturating_sub(1));
            let is_present = definitions.get(level).is_none_or(|&definition| definition == max_definition);
            let value = if is_present { Some(values.next().context("a value is missing")?) } else { None };
            let row = all.len();
            all.push(value.map(convert).transpose().with_context(|| format!("row {row}"))?);
        }
        n_read += n_records;
    }
    Ok(())
}
