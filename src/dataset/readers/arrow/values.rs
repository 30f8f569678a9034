//! Single values of a record batch's columns, read from their place in the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result, bail, ensure};

use super::flat::{Column, Kind};
use crate::dataset::readers::class_names::whole;
use crate::dataset::readers::{IMAGE_BYTES_MAX, class_names::RawLabels};

/// A label as stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(i64),
    Text(String),
}

/// The values of the dictionaries read so far, by dictionary number.
pub(super) type Dictionaries = BTreeMap<u64, Vec<Option<Value>>>;

/// The body of a record batch in a file of `n_bytes`.
pub(super) struct Body<'f> {
    pub(super) file: &'f mut File,
    pub(super) start: u64,
    pub(super) n_bytes: u64,
}

impl Body<'_> {
    /// Reads `len` bytes at `start` of the buffer, if they are within it and the file.
    pub(super) fn bytes(&mut self, buffer: (u64, u64), start: u64, len: u64) -> Result<Vec<u8>> {
        let is_inside = start.checked_add(len).is_some_and(|end| end <= buffer.1);
        let place = self.start.checked_add(buffer.0).and_then(|place| place.checked_add(start));
        let place = place.filter(|place| is_inside && place.checked_add(len).is_some_and(|end| end <= self.n_bytes));
        let place = place.context("a value reaches beyond the end of the file; hint: save it again")?;
        self.file.seek(SeekFrom::Start(place))?;
        let mut bytes = vec![0; usize::try_from(len)?];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self, buffer: (u64, u64), index: u64, n_bytes: usize, is_signed: bool) -> Result<i64> {
        let start = index.checked_mul(n_bytes as u64).context("it is damaged")?;
        of_bytes(&self.bytes(buffer, start, n_bytes as u64)?, is_signed)
    }

    /// Whether the value of `row` is present.
    fn is_there(&mut self, column: &Column, row: u64) -> Result<bool> {
        if column.validity.1 == 0 {
            return Ok(column.kind != Kind::Null);
        }
        Ok(self.bytes(column.validity, row / 8, 1)?[0] >> (row % 8) & 1 == 1)
    }

    /// Returns the only element of the list in `row`, as a row of the element column; `None` for an empty list.
    fn element(&mut self, column: &Column, row: u64) -> Result<Option<u64>> {
        let (first, end) = match column.kind {
            Kind::FixedList { n_elements } => {
                let n_elements = n_elements as u64;
                let first = row.checked_mul(n_elements).context("it is damaged")?;
                (first, first.saturating_add(n_elements))
            }
            Kind::List { is_large } => self.offsets(column, row, is_large)?,
            _ => bail!("it is not a list"),
        };
        ensure!(
            end <= first.saturating_add(1),
            "row {row} of a batch holds {} of them, and a sample has one",
            end - first
        );
        Ok((end > first).then_some(first))
    }

    /// Returns two neighbouring offsets.
    fn offsets(&mut self, column: &Column, row: u64, is_large: bool) -> Result<(u64, u64)> {
        let buffer = *column.buffers.first().context("it is damaged")?;
        let n_bytes = if is_large { 8 } else { 4 };
        let (first, end) = (self.number(buffer, row, n_bytes, true)?, self.number(buffer, row + 1, n_bytes, true)?);
        ensure!(0 <= first && first <= end, "it is damaged: its offsets do not rise");
        Ok((u64::try_from(first)?, u64::try_from(end)?))
    }

    /// Returns the bytes or the text in `row`; `None` if it is absent.
    pub(super) fn value(&mut self, column: &Column, row: u64) -> Result<Option<Vec<u8>>> {
        if !self.is_there(column, row)? {
            return Ok(None);
        }
        match column.kind {
            Kind::Bytes { is_large, .. } => {
                let (first, end) = self.offsets(column, row, is_large)?;
                ensure!(end - first <= IMAGE_BYTES_MAX, "it is larger than {IMAGE_BYTES_MAX} bytes");
                self.bytes(*column.buffers.get(1).context("it is damaged")?, first, end - first).map(Some)
            }
            Kind::View { .. } => self.view(column, row).map(Some),
            _ => bail!("it holds neither bytes nor text"),
        }
    }

    /// Returns a view's value: a short value is in the view itself, a longer one where the view points.
    fn view(&mut self, column: &Column, row: u64) -> Result<Vec<u8>> {
        let views = *column.buffers.first().context("it is damaged")?;
        let view = self.bytes(views, row.checked_mul(16).context("it is damaged")?, 16)?;
        let len = u64::try_from(of_bytes(&view[..4], true)?)?;
        if len <= 12 {
            return Ok(view[4..4 + usize::try_from(len)?].to_vec());
        }
        ensure!(len <= IMAGE_BYTES_MAX, "it is larger than {IMAGE_BYTES_MAX} bytes");
        let number = usize::try_from(of_bytes(&view[8..12], true)?)?;
        let buffer = *column.buffers.get(number + 1).context("it is damaged")?;
        self.bytes(buffer, u64::try_from(of_bytes(&view[12..], true)?)?, len)
    }

    /// Returns the child column and row with the value of `row`, through lists of one element.
    pub(super) fn below<'c>(&mut self, column: &'c Column, row: u64) -> Result<Option<(&'c Column, u64)>> {
        let (mut column, mut row) = (column, row);
        while matches!(column.kind, Kind::List { .. } | Kind::FixedList { .. }) {
            if !self.is_there(column, row)? {
                return Ok(None);
            }
            let Some(element) = self.element(column, row)? else { return Ok(None) };
            (column, row) = (column.children.first().context("it is damaged")?, element);
        }
        Ok(self.is_there(column, row)?.then_some((column, row)))
    }

    /// Returns the label in `row`; `None` if it is absent.
    pub(super) fn label(&mut self, column: &Column, row: u64, dictionaries: &Dictionaries) -> Result<Option<Value>> {
        let Some((column, row)) = self.below(column, row)? else { return Ok(None) };
        let first = column.buffers.first().copied().context("it is damaged");
        let value = match column.kind {
            Kind::Bool => Value::Number(i64::from(self.bytes(first?, row / 8, 1)?[0] >> (row % 8) & 1)),
            Kind::Int { n_bytes, is_signed } => Value::Number(self.number(first?, row, n_bytes, is_signed)?),
            Kind::Float { n_bytes: 4 } => {
                let bits = u32::try_from(self.number(first?, row, 4, false)?)?;
                Value::Number(whole(f64::from(f32::from_bits(bits)))?)
            }
            Kind::Float { n_bytes: 8 } => {
                let raw = self.bytes(first?, row.checked_mul(8).context("it is damaged")?, 8)?;
                Value::Number(whole(f64::from_le_bytes(raw.as_slice().try_into()?))?)
            }
            Kind::Bytes { is_text: true, .. } | Kind::View { is_text: true } => {
                let Some(text) = self.value(column, row)? else { return Ok(None) };
                Value::Text(String::from_utf8(text).context("a label is not UTF-8 text")?)
            }
            _ => bail!("a label is a whole number or a text"),
        };
        let (Some(number), Value::Number(index)) = (column.dictionary, &value) else { return Ok(Some(value)) };
        let values = dictionaries.get(&number).context("a dictionary is missing")?;
        let index = usize::try_from(*index).context("it is damaged")?;
        values.get(index).cloned().context("a label is not in its dictionary")
    }
}

fn of_bytes(raw: &[u8], is_signed: bool) -> Result<i64> {
    let number = raw.iter().rev().fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
    let n_bits = 8 * u32::try_from(raw.len())?;
    if is_signed {
        // The sign is the highest of the bits that were read.
        return Ok((number << (64 - n_bits)) as i64 >> (64 - n_bits));
    }
    i64::try_from(number).context("a number is larger than any label")
}

/// Returns all labels, which have one type.
pub(super) fn raw_labels(values: Vec<Option<Value>>) -> Result<RawLabels> {
    if values.iter().flatten().next().is_some_and(|value| matches!(value, Value::Number(_))) {
        let number = |value| match value {
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(Value::Text(_)) => bail!("its labels are of several types"),
            None => Ok(None),
        };
        return Ok(RawLabels::Numbers(values.into_iter().map(number).collect::<Result<_>>()?));
    }
    let texts = values.into_iter().map(|value| match value {
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(Value::Number(_)) => bail!("its labels are of several types"),
        None => Ok(None),
    });
    Ok(RawLabels::of_texts(texts.collect::<Result<Vec<_>>>()?.into_iter()))
}
