//! Files mapped into memory, and files created in memory. The only unsafe code of the crate outside the kernels.
#![expect(unsafe_code, reason = "mapping a file is unsafe: another process could change it while it is read")]
#![expect(clippy::disallowed_methods, reason = "model/checkpoint owns the files of a checkpoint")]

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

/// A file's bytes, read on access. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct MappedFile {
    path: Arc<PathBuf>,
    bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Bytes {
    Mapped(Arc<Mmap>),
    InMemory(Arc<Vec<u8>>),
}

impl MappedFile {
    /// Maps `path`. An empty file is an error.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let describe = || format!("failed to read `{}`", path.display());
        let file = File::open(path).with_context(describe)?;
        let n_bytes = file.metadata().with_context(describe)?.len();
        anyhow::ensure!(
            n_bytes > 0,
            "failed to read `{}`: the file is empty; hint: copy or download it again",
            path.display()
        );
        // SAFETY: the mapping is read-only and private to this process. What remains is a file that another process
        // truncates or rewrites meanwhile; checkpoints are not written to while they are evaluated.
        let map = unsafe { Mmap::map(&file) }.with_context(describe)?;
        Ok(Self { path: Arc::new(path.to_owned()), bytes: Bytes::Mapped(Arc::new(map)) })
    }

    /// A file that exists only in memory. `path` names it in errors.
    pub(super) fn in_memory(path: &Path, bytes: Arc<Vec<u8>>) -> Self {
        Self { path: Arc::new(path.to_owned()), bytes: Bytes::InMemory(bytes) }
    }

    /// Releases the memory of the bytes in `range`. They are read again on the next access.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes {
            // SAFETY: the mapping is of a file and never written to, so what is read again is what was there.
            let done = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
            // A failure only costs memory.
            drop(done);
        }
        #[cfg(not(unix))]
        drop(range);
    }

    /// The path of the file, or its name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::InMemory(bytes) => bytes,
        }
    }
}
