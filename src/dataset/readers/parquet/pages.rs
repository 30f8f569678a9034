//! Single values of a Parquet column of bytes, in any order.
//!
//! A column is divided into row groups, and these into pages. A page is compressed as a whole, and is about 1 MB or all
//! images of a row group. An evaluation reads samples in practically random order. So a row group's page headers are
//! read once, when one of its images is first read. After that an image costs only its page. Decoded pages are kept
//! within a limit, so that a dataset of small images is decoded once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, ensure};
use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::reader::{ChunkReader, Length, SerializedPageReader};
use parquet::schema::types::ColumnDescPtr;

use super::shard::{ShardFile, guarded};

/// The most bytes of decoded pages to keep: enough for all of CIFAR-10, and little compared with a model.
const CACHE_BYTES_MAX: usize = 128 << 20;

/// The values of one page; absent ones are `None`.
type Values = Arc<Vec<Option<ByteArray>>>;

/// A column of bytes in one file.
pub(super) struct BytesColumn {
    file: Arc<ShardFile>,
    descriptor: ColumnDescPtr,
    groups: Vec<Group>,
}

/// The part of the column in one row group.
struct Group {
    first_row: usize,
    n_rows: usize,
    chunk: ColumnChunkMetaData,
    pages: OnceLock<Result<Vec<PageLocation>, String>>,
}

impl BytesColumn {
    /// Opens the column number `column` of a file with `metadata`; reads no page.
    pub(super) fn new(file: Arc<ShardFile>, metadata: &ParquetMetaData, column: usize) -> anyhow::Result<BytesColumn> {
        let mut groups = Vec::new();
        let mut first_row = 0;
        for (number, group) in metadata.row_groups().iter().enumerate() {
            let chunk = group.columns().get(column).context("a row group lacks a column")?.clone();
            let (start, len) = chunk.byte_range();
            ensure!(
                start.checked_add(len).is_some_and(|end| end <= file.len()),
                "row group {number} reaches beyond its end; hint: fetch it again"
            );
            let n_rows = usize::try_from(group.num_rows())?;
            groups.push(Group { first_row, n_rows, chunk, pages: OnceLock::new() });
            first_row += n_rows;
        }
        let descriptor = metadata.file_metadata().schema_descr().column(column);
        Ok(BytesColumn { file, descriptor, groups })
    }

    /// Returns the value of `row`, or `None` if it is absent. `shard` is the column's number in `cache`.
    pub(super) fn value(&self, row: usize, shard: usize, cache: &PageCache) -> anyhow::Result<Option<ByteArray>> {
        let number =
            self.groups.partition_point(|group| group.first_row <= row).checked_sub(1).context("no such row")?;
        let group = &self.groups[number];
        let row = row - group.first_row;
        let pages = group.pages.get_or_init(|| guarded(|| self.index(group)).map_err(|error| format!("{error:#}")));
        let pages = pages.as_ref().map_err(|message| anyhow::anyhow!("{message}"))?;
        let starts_before = |page: &PageLocation| usize::try_from(page.first_row_index).is_ok_and(|first| first <= row);
        let page = pages.partition_point(starts_before).checked_sub(1).context("it has no page")?;
        let key = (shard, number, page);
        let values = match cache.get(key) {
            Some(values) => values,
            None => {
                let (values, n_bytes) = guarded(|| self.decode(group, pages, page))?;
                cache.put(key, &values, n_bytes);
                values
            }
        };
        let row_in_page = row - usize::try_from(pages[page].first_row_index)?;
        values.get(row_in_page).cloned().context("its page ends before the row")
    }

    /// Returns the locations of a row group's data pages, with the first row of each; reads only page headers.
    fn index(&self, group: &Group) -> anyhow::Result<Vec<PageLocation>> {
        let recorder = Arc::new(Recorder { file: Arc::clone(&self.file), starts: Mutex::default() });
        let mut reader = SerializedPageReader::new(Arc::clone(&recorder), &group.chunk, group.n_rows, None)?;
        let (start, len) = group.chunk.byte_range();
        let mut pages: Vec<PageLocation> = Vec::new();
        let mut n_rows = 0;
        loop {
            let header = reader.peek_next_page()?;
            // While peeking, the page reader asks only for the place of each header.
            let starts = recorder.take();
            if let Some(page) = pages.last_mut().filter(|page| page.compressed_page_size == 0) {
                let end = starts.first().copied().unwrap_or(start + len);
                page.compressed_page_size = i32::try_from(end.saturating_sub(u64::try_from(page.offset)?))?;
            }
            let Some(header) = header else { break };
            if !header.is_dict {
                let offset = *starts.last().context("the place of a page is not known")?;
                pages.push(PageLocation {
                    offset: i64::try_from(offset)?,
                    compressed_page_size: 0,
                    first_row_index: i64::try_from(n_rows)?,
                });
                // The column is not nested, or its lists have at most one element, so each level is a row.
                n_rows += header.num_rows.or(header.num_levels).context("a page does not say how many rows it has")?;
            }
            reader.skip_next_page()?;
        }
        ensure!(
            n_rows == group.n_rows,
            "its pages hold {n_rows} {}, but {} rows are promised",
            if self.descriptor.max_rep_level() > 0 { "images (a sample has one)" } else { "rows" },
            group.n_rows
        );
        Ok(pages)
    }

    /// Reads and decodes a page; returns its values and their size in memory in bytes.
    fn decode(&self, group: &Group, pages: &[PageLocation], page: usize) -> anyhow::Result<(Values, usize)> {
        let open = |locations: Vec<PageLocation>| {
            SerializedPageReader::new(Arc::clone(&self.file), &group.chunk, group.n_rows, Some(locations))
        };
        // The dictionary is before the first page, so the first page is passed even if another one is read.
        let first = pages[0].clone();
        let has_dictionary = u64::try_from(first.offset)? != group.chunk.byte_range().0;
        let n_skipped = usize::from(has_dictionary) + usize::from(page > 0);
        let mut reader = open(if page == 0 { vec![first.clone()] } else { vec![first.clone(), pages[page].clone()] })?;
        for _ in 0..n_skipped {
            reader.skip_next_page()?;
        }
        let data = reader.get_next_page()?.context("a page is missing")?;
        let mut queue = VecDeque::new();
        if has_dictionary && matches!(data.encoding(), Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY) {
            queue.extend(open(vec![first])?.get_next_page()?);
        }
        queue.push_back(data);
        let n_values = queue.iter().filter(|page| page.is_data_page()).map(|page| page.num_values() as usize).sum();
        let mut n_bytes: usize = queue.iter().map(|page| page.buffer().len()).sum();
        let mut column = ColumnReaderImpl::<ByteArrayType>::new(self.descriptor.clone(), Box::new(InMemory(queue)));
        let (mut levels, mut repetitions, mut present) = (Vec::new(), Vec::new(), Vec::new());
        let is_list = self.descriptor.max_rep_level() > 0;
        column.read_records(n_values, Some(&mut levels), is_list.then_some(&mut repetitions), &mut present)?;
        ensure!(
            repetitions.iter().all(|&repetition| repetition == 0),
            "a row holds several images, and a sample has one"
        );
        let mut present = present.into_iter();
        let values: Vec<Option<ByteArray>> = if self.descriptor.max_def_level() == 0 {
            present.map(Some).collect()
        } else {
            let is_present = |level: i16| level == self.descriptor.max_def_level();
            levels.into_iter().map(|level| if is_present(level) { present.next() } else { None }).collect()
        };
        n_bytes += values.len() * size_of::<Option<ByteArray>>();
        Ok((Arc::new(values), n_bytes))
    }
}

/// A file that records where reads begin.
struct Recorder {
    file: Arc<ShardFile>,
    starts: Mutex<Vec<u64>>,
}

impl Recorder {
    /// Returns the places since the last call.
    fn take(&self) -> Vec<u64> {
        self.starts.lock().map(|mut starts| std::mem::take(&mut *starts)).unwrap_or_default()
    }
}

impl Length for Recorder {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl ChunkReader for Recorder {
    type T = <ShardFile as ChunkReader>::T;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        if let Ok(mut starts) = self.starts.lock() {
            starts.push(start);
        }
        self.file.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.file.get_bytes(start, length)
    }
}

/// Pages that were already read.
struct InMemory(VecDeque<Page>);

impl Iterator for InMemory {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.pop_front().map(Ok)
    }
}

impl PageReader for InMemory {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        Ok(self.0.pop_front())
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        Ok(self.0.front().map(|page| PageMetadata {
            num_rows: None,
            num_levels: Some(page.num_values() as usize),
            is_dict: page.is_dictionary_page(),
        }))
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        self.0.pop_front().map(drop).ok_or_else(|| ParquetError::EOF("there is no page to skip".to_owned()))
    }
}

/// A page's shard, row group and index in the row group.
type Key = (usize, usize, usize);

/// Decoded pages of all shards; the least recently used one is dropped first.
#[derive(Default)]
pub(super) struct PageCache(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    kept: BTreeMap<Key, Kept>,
    n_bytes: usize,
    clock: u64,
}

struct Kept {
    values: Values,
    n_bytes: usize,
    used: u64,
}

impl PageCache {
    fn get(&self, key: Key) -> Option<Values> {
        let mut pages = self.0.lock().ok()?;
        pages.clock += 1;
        let clock = pages.clock;
        let kept = pages.kept.get_mut(&key)?;
        kept.used = clock;
        Some(Arc::clone(&kept.values))
    }

    fn put(&self, key: Key, values: &Values, n_bytes: usize) {
        let Ok(mut pages) = self.0.lock() else { return };
        let used = pages.clock;
        if let Some(replaced) = pages.kept.insert(key, Kept { values: Arc::clone(values), n_bytes, used }) {
            pages.n_bytes -= replaced.n_bytes;
        }
        pages.n_bytes += n_bytes;
        while pages.n_bytes > CACHE_BYTES_MAX {
            let Some(oldest) = pages.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key) else { break };
            pages.n_bytes -= pages.kept.remove(&oldest).map_or(0, |kept| kept.n_bytes);
        }
    }
}

#[cfg(test)]
mod tests;
