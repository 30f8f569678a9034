//! The metadata of an Arrow stream: flatbuffers, of which only the required tables are read.
//!
//! Every place is checked against the length, so a damaged file is an error.

use anyhow::{Context, Result, bail, ensure};

/// The deepest nesting of a schema's fields.
const DEPTH_MAX: usize = 16;

/// A table within the bytes of a message.
#[derive(Clone, Copy)]
pub(super) struct Table<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Table<'b> {
    /// Returns the root table of the bytes.
    pub(super) fn root(bytes: &'b [u8]) -> Result<Self> {
        Self { bytes, at: 0 }.at(0)
    }

    /// Returns the table to which `place` points.
    fn at(self, place: usize) -> Result<Self> {
        let table = Self { at: place.checked_add(self.number(place, 4)? as usize).context(DAMAGED)?, ..self };
        ensure!(table.at < self.bytes.len(), DAMAGED);
        Ok(table)
    }

    /// Returns the little-endian integer of `n_bytes` at `place`.
    fn number(self, place: usize, n_bytes: usize) -> Result<u64> {
        let raw = place.checked_add(n_bytes).and_then(|end| self.bytes.get(place..end)).context(DAMAGED)?;
        Ok(raw.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    /// Returns the place of the field number `index`; `None` if it is not stored.
    fn field(self, index: usize) -> Result<Option<usize>> {
        let back = self.number(self.at, 4)? as u32 as i32;
        let directory = i64::try_from(self.at)? - i64::from(back);
        let directory = usize::try_from(directory).context(DAMAGED)?;
        let slot = 4 + 2 * index;
        if slot + 2 > self.number(directory, 2)? as usize {
            return Ok(None);
        }
        let offset = self.number(directory + slot, 2)? as usize;
        Ok((offset > 0).then_some(self.at + offset))
    }

    /// Returns the number in the field `index`, or `default` if it is not stored.
    pub(super) fn value(self, index: usize, n_bytes: usize, default: u64) -> Result<u64> {
        self.field(index)?.map_or(Ok(default), |place| self.number(place, n_bytes))
    }

    /// Returns the table in the field `index`.
    pub(super) fn table(self, index: usize) -> Result<Option<Self>> {
        self.field(index)?.map(|place| self.at(place)).transpose()
    }

    /// Returns the place of a list's first element, and the number of elements.
    fn list(self, index: usize) -> Result<(usize, usize)> {
        let Some(place) = self.field(index)? else { return Ok((0, 0)) };
        let start = place.checked_add(self.number(place, 4)? as usize).context(DAMAGED)?;
        let n_elements = self.number(start, 4)? as usize;
        ensure!(n_elements <= self.bytes.len(), DAMAGED);
        Ok((start + 4, n_elements))
    }

    /// Returns the tables of a list.
    pub(super) fn tables(self, index: usize) -> Result<Vec<Self>> {
        let (start, n_elements) = self.list(index)?;
        (0..n_elements).map(|element| self.at(start + 4 * element)).collect()
    }

    /// Returns the pairs of 64-bit numbers of a list.
    pub(super) fn pairs(self, index: usize) -> Result<Vec<(u64, u64)>> {
        let (start, n_elements) = self.list(index)?;
        let pair = |element| Ok((self.number(start + 16 * element, 8)?, self.number(start + 16 * element + 8, 8)?));
        (0..n_elements).map(pair).collect()
    }

    /// Returns the 64-bit numbers of a list.
    pub(super) fn numbers(self, index: usize) -> Result<Vec<u64>> {
        let (start, n_elements) = self.list(index)?;
        (0..n_elements).map(|element| self.number(start + 8 * element, 8)).collect()
    }

    /// Returns the text in the field `index`.
    pub(super) fn text(self, index: usize) -> Result<&'b str> {
        let (start, n_bytes) = self.list(index)?;
        let raw = start.checked_add(n_bytes).and_then(|end| self.bytes.get(start..end)).context(DAMAGED)?;
        std::str::from_utf8(raw).context(DAMAGED)
    }
}

/// The message for a place outside the bytes.
const DAMAGED: &str = "its metadata is damaged; hint: save it again";

/// The types of a field's values, as far as they matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Int {
        n_bytes: usize,
        is_signed: bool,
    },
    Float {
        n_bytes: usize,
    },
    /// Bytes or text, with offsets of 4 or 8 bytes.
    Bytes {
        is_large: bool,
        is_text: bool,
    },
    /// Bytes or text behind views.
    View {
        is_text: bool,
    },
    List {
        is_large: bool,
    },
    FixedList {
        n_elements: usize,
    },
    Struct,
    /// Two buffers that are not read.
    Other,
}

/// A column, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) children: Vec<Field>,
    /// The number of the dictionary, and the type of its indices.
    pub(super) dictionary: Option<(u64, Kind)>,
}

/// Returns the fields of a schema, and the text under `key` in its metadata.
pub(super) fn schema(table: Table, key: &str) -> Result<(Vec<Field>, Option<String>)> {
    ensure!(table.value(0, 2, 0)? == 0, "it comes from a machine with another byte order, which is not read");
    let fields = table.tables(1)?.into_iter().map(|table| field(table, 0)).collect::<Result<_>>()?;
    let pairs = table.tables(2)?;
    let found = pairs.into_iter().find(|pair| pair.text(0).is_ok_and(|name| name == key));
    Ok((fields, found.map(|pair| pair.text(1).map(str::to_owned)).transpose()?))
}

fn field(table: Table, depth: usize) -> Result<Field> {
    ensure!(depth < DEPTH_MAX, DAMAGED);
    let children = table.tables(5)?.into_iter().map(|table| field(table, depth + 1)).collect::<Result<_>>()?;
    let dictionary = table.table(4)?.map(|dictionary| {
        let index = dictionary.table(1)?.map_or(Ok(Kind::Int { n_bytes: 4, is_signed: true }), int)?;
        anyhow::Ok((dictionary.value(0, 8, 0)?, index))
    });
    let name = table.text(0)?.to_owned();
    let kind = kind(table.value(2, 1, 0)?, table.table(3)?.context(DAMAGED)?)
        .with_context(|| format!("its column `{name}` cannot be read"))?;
    Ok(Field { name, kind, children, dictionary: dictionary.transpose()? })
}

fn int(table: Table) -> Result<Kind> {
    let n_bits = table.value(0, 4, 0)?;
    ensure!(matches!(n_bits, 8 | 16 | 32 | 64), DAMAGED);
    Ok(Kind::Int { n_bytes: n_bits as usize / 8, is_signed: table.value(1, 1, 0)? != 0 })
}

fn kind(number: u64, table: Table) -> Result<Kind> {
    Ok(match number {
        1 => Kind::Null,
        2 => int(table)?,
        3 => Kind::Float { n_bytes: 2 << table.value(0, 2, 0)?.min(2) },
        4 => Kind::Bytes { is_large: false, is_text: false },
        5 => Kind::Bytes { is_large: false, is_text: true },
        6 => Kind::Bool,
        // Decimals, dates, times, intervals, fixed-size bytes.
        7..=11 | 15 | 18 => Kind::Other,
        12 | 17 => Kind::List { is_large: false },
        13 => Kind::Struct,
        16 => Kind::FixedList { n_elements: table.value(0, 4, 0)? as usize },
        19 => Kind::Bytes { is_large: true, is_text: false },
        20 => Kind::Bytes { is_large: true, is_text: true },
        21 => Kind::List { is_large: true },
        23 => Kind::View { is_text: false },
        24 => Kind::View { is_text: true },
        other => {
            bail!("its type (number {other} of Arrow's) is not read; hint: leave the column out, or save it as Parquet")
        }
    })
}

/// The places of a column's parts in the body of a record batch.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) kind: Kind,
    /// The number of the dictionary to which its values are indices.
    pub(super) dictionary: Option<u64>,
    pub(super) n_rows: u64,
    /// Start and length of the validity bits; the length is 0 if all values are present.
    pub(super) validity: (u64, u64),
    /// Start and length of each further buffer.
    pub(super) buffers: Vec<(u64, u64)>,
    pub(super) children: Vec<Column>,
}

/// Returns the columns of a record batch, in the order of `fields`.
pub(super) fn columns(batch: Table, fields: &[Field]) -> Result<Vec<Column>> {
    ensure!(
        batch.table(3)?.is_none(),
        "it is compressed, which is not read; hint: save it without compression, or as Parquet"
    );
    let mut parts = Parts {
        nodes: batch.pairs(1)?.into_iter(),
        buffers: batch.pairs(2)?.into_iter(),
        n_view_buffers: batch.numbers(4)?.into_iter(),
    };
    fields.iter().map(|field| parts.column(field)).collect()
}

struct Parts {
    nodes: std::vec::IntoIter<(u64, u64)>,
    buffers: std::vec::IntoIter<(u64, u64)>,
    n_view_buffers: std::vec::IntoIter<u64>,
}

impl Parts {
    fn buffer(&mut self) -> Result<(u64, u64)> {
        self.buffers.next().context(DAMAGED)
    }

    fn column(&mut self, field: &Field) -> Result<Column> {
        let (n_rows, n_absent) = self.nodes.next().context(DAMAGED)?;
        let (kind, dictionary) = match field.dictionary {
            Some((number, index)) => (index, Some(number)),
            None => (field.kind, None),
        };
        let bits = if kind == Kind::Null { (0, 0) } else { self.buffer()? };
        let n_buffers = match kind {
            Kind::Null | Kind::Struct | Kind::FixedList { .. } => 0,
            Kind::Bool | Kind::Int { .. } | Kind::Float { .. } | Kind::List { .. } | Kind::Other => 1,
            Kind::Bytes { .. } => 2,
            Kind::View { .. } => 1 + self.n_view_buffers.next().context(DAMAGED)?,
        };
        let buffers = (0..n_buffers).map(|_| self.buffer()).collect::<Result<_>>()?;
        // A dictionary's values are stored elsewhere.
        let below: &[Field] = if dictionary.is_some() { &[] } else { &field.children };
        let children = below.iter().map(|field| self.column(field)).collect::<Result<_>>()?;
        let validity = if n_absent == 0 { (0, 0) } else { bits };
        Ok(Column { kind, dictionary, n_rows, validity, buffers, children })
    }
}
