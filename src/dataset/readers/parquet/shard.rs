//! One file of a Parquet dataset, as the `parquet` crate reads it.
#![expect(clippy::disallowed_methods, reason = "a reader opens its file")]

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use bytes::Bytes;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

/// The beginning of the pointer that Git leaves if large files were not downloaded.
const GIT_LFS: &[u8] = b"version https://git-lfs";

/// A file that is opened for each read, because threads read different places at once.
#[derive(Clone)]
pub(super) struct ShardFile {
    path: PathBuf,
    n_bytes: u64,
}

impl ShardFile {
    /// Opens a file and checks that it looks like Parquet.
    pub(super) fn open(path: &Path) -> anyhow::Result<ShardFile> {
        let file = File::open(path)?;
        let n_bytes = file.metadata()?.len();
        let mut start = Vec::new();
        file.take(GIT_LFS.len() as u64).read_to_end(&mut start)?;
        if start == GIT_LFS {
            bail!("it is a Git LFS pointer, not the data; hint: git lfs pull");
        }
        ensure!(
            start.starts_with(b"PAR1"),
            "it does not begin like a Parquet file; hint: check that it is complete, and that its extension is right"
        );
        Ok(ShardFile { path: path.to_owned(), n_bytes })
    }

    fn at(&self, start: u64) -> ParquetResult<File> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }
}

impl Length for ShardFile {
    fn len(&self) -> u64 {
        self.n_bytes
    }
}

impl ChunkReader for ShardFile {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(self.at(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let end = u64::try_from(length).ok().and_then(|length| start.checked_add(length));
        // Checked before anything is allocated, because a damaged header may claim any length.
        if end.is_none_or(|end| end > self.n_bytes) {
            return Err(ParquetError::EOF(format!("{length} bytes from {start} reach beyond the end of the file")));
        }
        let mut bytes = vec![0; length];
        self.at(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Runs `work` on an untrusted file and turns panics of the `parquet` crate into errors.
pub(super) fn guarded<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| bail!("it is damaged: its decoder gave up; hint: fetch it again"))
}
