//! An on-disk cache of image features, for later runs with the same frozen tower.
//!
//! An entry is a file. Its name is the hash of everything that decides its numbers, and it starts with a checksum of
//! that name and the content, so damaged, truncated or renamed files are rejected. Files are written under a temporary
//! name and renamed, so concurrent runs see whole entries or none.
#![expect(clippy::disallowed_methods, reason = "record owns the caches")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::RecordError;

/// The first bytes of an entry; another format gets another number.
const MAGIC: &[u8; 8] = b"EMTFEAT1";

const N_CHECKSUM_BYTES: usize = 32;

const EXTENSION: &str = "features";

/// Temporary files older than this were left by killed processes.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// The folder is measured again after 1 / `SHARE_BETWEEN_SCANS` of the limit was written, since other processes may
/// also write to it.
const SHARE_BETWEEN_SCANS: u64 = 16;

/// The name of an entry: a hash of everything that decides its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureKey(String);

impl FeatureKey {
    /// The key of the features that `computed_by` (tower, preparation, compute type, kernels) gives for an image with
    /// this `content`.
    pub fn new(computed_by: &str, content: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [computed_by, content] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        Self(hasher.finalize().to_hex().to_string())
    }
}

/// A folder of features, open for a run. Many threads and processes may use it concurrently.
#[derive(Debug)]
pub struct FeatureCache {
    dir: PathBuf,
    n_bytes_max: u64,
    n_lookups: AtomicU64,
    n_found: AtomicU64,
    n_refused: AtomicU64,
    n_written: AtomicU64,
    size: Mutex<Size>,
    warnings: Mutex<Warnings>,
}

/// The folder's last known size.
#[derive(Debug)]
struct Size {
    n_bytes: u64,
    n_bytes_since_scan: u64,
}

/// Warnings, each reported once.
#[derive(Debug, Default)]
struct Warnings {
    untold: Vec<String>,
    is_damage_told: bool,
    is_failure_told: bool,
}

impl FeatureCache {
    /// Opens the folder `dir` for up to `n_bytes_max` bytes, and creates it if it is missing.
    ///
    /// # Errors
    /// The folder cannot be created or listed.
    pub fn open(dir: &Path, n_bytes_max: u64) -> Result<Self, RecordError> {
        fs::create_dir_all(dir).map_err(|error| RecordError::writing(dir, error))?;
        let n_bytes = scan(dir).map_err(|error| RecordError::reading(dir, error))?;
        Ok(Self {
            dir: dir.to_owned(),
            n_bytes_max,
            n_lookups: AtomicU64::new(0),
            n_found: AtomicU64::new(0),
            n_refused: AtomicU64::new(0),
            n_written: AtomicU64::new(0),
            size: Mutex::new(Size { n_bytes, n_bytes_since_scan: 0 }),
            warnings: Mutex::default(),
        })
    }

    /// Returns the features under `key`, if there is an intact entry. A damaged entry is removed and reported once.
    pub fn get(&self, key: &FeatureKey) -> Option<Vec<u8>> {
        self.n_lookups.fetch_add(1, Ordering::Relaxed);
        let path = self.path(key);
        let mut bytes = fs::read(&path).ok()?;
        if !is_whole(key, &bytes) {
            self.reject(&path);
            return None;
        }
        self.n_found.fetch_add(1, Ordering::Relaxed);
        bytes.drain(..MAGIC.len() + N_CHECKSUM_BYTES);
        Some(bytes)
    }

    /// Withdraws a found entry whose content cannot be used.
    pub fn disown(&self, key: &FeatureKey) {
        self.n_found.fetch_sub(1, Ordering::Relaxed);
        self.reject(&self.path(key));
    }

    /// Stores `features` under `key` unless the folder is full. A failed write is reported once and is not an error,
    /// since the run has the features.
    pub fn put(&self, key: &FeatureKey, features: &[u8]) {
        let n_bytes = (MAGIC.len() + N_CHECKSUM_BYTES + features.len()) as u64;
        if !self.has_room(n_bytes) {
            self.n_refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match self.write(key, features) {
            Ok(()) => self.grow(n_bytes),
            Err(error) => {
                let mut warnings = lock(&self.warnings);
                if !std::mem::replace(&mut warnings.is_failure_told, true) {
                    let dir = self.dir.display();
                    warnings
                        .untold
                        .push(format!("the feature cache `{dir}` cannot be written, the run continues: {error}"));
                }
            }
        }
    }

    /// Returns warnings that were not reported yet.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.warnings).untold)
    }

    /// Returns one line about the share of lookups that were found, and the cache's size.
    pub fn summary(&self) -> String {
        let [n_lookups, n_found, n_written, n_refused] =
            [&self.n_lookups, &self.n_found, &self.n_written, &self.n_refused]
                .map(|count| count.load(Ordering::Relaxed));
        let covered = match n_lookups {
            0 => "nothing was looked up".to_owned(),
            n => format!("{:.1}% of {n} lookups were covered", n_found as f64 / n as f64 * 100.0),
        };
        let n_bytes = scan(&self.dir).unwrap_or_else(|_| lock(&self.size).n_bytes);
        let full = match n_refused {
            0 => String::new(),
            n => format!("; it is full, {n} were not kept (hint: a larger --feature-cache-gb, or delete the folder)"),
        };
        format!(
            "feature cache `{}`: {covered}, {n_written} new entries, {} of {}{full}",
            self.dir.display(),
            size(n_bytes),
            size(self.n_bytes_max)
        )
    }

    fn path(&self, FeatureKey(name): &FeatureKey) -> PathBuf {
        self.dir.join(&name[..2]).join(format!("{name}.{EXTENSION}"))
    }

    /// Removes an entry that cannot be trusted, so that a new one can replace it.
    fn reject(&self, path: &Path) {
        // Another process may have removed it at the same time.
        let _ = fs::remove_file(path);
        let mut warnings = lock(&self.warnings);
        if !std::mem::replace(&mut warnings.is_damage_told, true) {
            warnings.untold.push(format!(
                "the entry `{}` of the feature cache is damaged and is computed again; further damaged entries are not reported",
                path.display()
            ));
        }
    }

    fn has_room(&self, n_bytes: u64) -> bool {
        lock(&self.size).n_bytes.saturating_add(n_bytes) <= self.n_bytes_max
    }

    fn grow(&self, n_bytes: u64) {
        self.n_written.fetch_add(1, Ordering::Relaxed);
        let mut size = lock(&self.size);
        size.n_bytes += n_bytes;
        size.n_bytes_since_scan += n_bytes;
        if size.n_bytes_since_scan > self.n_bytes_max / SHARE_BETWEEN_SCANS {
            size.n_bytes_since_scan = 0;
            // If the folder cannot be listed, the known size is kept.
            size.n_bytes = scan(&self.dir).unwrap_or(size.n_bytes);
        }
    }

    /// Writes an entry without a sync; the checksum detects what a crash of the machine leaves.
    fn write(&self, key: &FeatureKey, features: &[u8]) -> io::Result<()> {
        static N_UNFINISHED: AtomicU64 = AtomicU64::new(0);
        let path = self.path(key);
        let number = N_UNFINISHED.fetch_add(1, Ordering::Relaxed);
        let unfinished = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file = match fs::File::create(&unfinished) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
                    fs::File::create(&unfinished)?
                }
                created => created?,
            };
            file.write_all(MAGIC)?;
            file.write_all(&checksum(key, features))?;
            file.write_all(features)?;
            drop(file);
            fs::rename(&unfinished, &path)
        };
        write().inspect_err(|_| {
            // Only the first error is reported.
            let _ = fs::remove_file(&unfinished);
        })
    }
}

/// Formats a size for display.
fn size(n_bytes: u64) -> String {
    let n_bytes = n_bytes as f64;
    if n_bytes < 1e9 { format!("{:.1} MB", n_bytes / 1e6) } else { format!("{:.1} GB", n_bytes / 1e9) }
}

fn checksum(FeatureKey(name): &FeatureKey, features: &[u8]) -> [u8; N_CHECKSUM_BYTES] {
    *blake3::Hasher::new().update(name.as_bytes()).update(features).finalize().as_bytes()
}

fn is_whole(key: &FeatureKey, bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(MAGIC) else { return false };
    rest.split_at_checked(N_CHECKSUM_BYTES).is_some_and(|(sum, features)| sum == checksum(key, features))
}

/// Returns the bytes of all entries below `dir`, and removes files that killed processes left.
fn scan(dir: &Path) -> io::Result<u64> {
    let mut n_bytes = 0;
    for folder in fs::read_dir(dir)? {
        let folder = folder?;
        // Our folders are named by two digits of the hash.
        if folder.file_name().len() != 2 || !folder.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(folder.path())? {
            let path = entry?.path();
            // It may have been removed since it was listed.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(EXTENSION) => n_bytes += metadata.len(),
                Some("tmp") if is_leftover(&metadata) => {
                    let _ = fs::remove_file(&path);
                }
                _ => {}
            }
        }
    }
    Ok(n_bytes)
}

fn is_leftover(metadata: &fs::Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age > LEFTOVER_AGE)
}

/// Locks a mutex. A panic in another thread leaves nothing half-changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(content: &str) -> FeatureKey {
        FeatureKey::new("a tower", content)
    }

    fn only_entry(dir: &Path) -> PathBuf {
        let folder = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
        fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn what_was_kept_is_found_by_another_process_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(cache.get(&key("cat")), None);
        cache.put(&key("cat"), b"its features");
        let other = FeatureCache::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(other.get(&key("cat")).unwrap(), b"its features");
        assert_eq!(other.get(&FeatureKey::new("another tower", "cat")), None);
        assert!(other.summary().contains("50.0% of 2 lookups were covered"), "{}", other.summary());
        assert_eq!(fs::read_dir(only_entry(dir.path()).parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn the_parts_of_a_key_do_not_run_into_each_other() {
        assert_ne!(FeatureKey::new("ab", "c"), FeatureKey::new("a", "bc"));
    }

    #[test]
    fn an_entry_with_any_byte_changed_or_missing_is_told_of_once_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(dir.path(), 1 << 20).unwrap();
        cache.put(&key("cat"), b"its features");
        let path = only_entry(dir.path());
        let whole = fs::read(&path).unwrap();
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            for bytes in [&damaged[..], &whole[..place]] {
                fs::write(&path, bytes).unwrap();
                assert_eq!(cache.get(&key("cat")), None, "byte {place}");
                assert!(!path.exists());
            }
        }
        let warnings = cache.take_warnings();
        assert!(warnings.len() == 1 && warnings[0].contains(&path.display().to_string()), "{warnings:?}");
        assert!(cache.take_warnings().is_empty());
        cache.put(&key("cat"), b"its features");
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn an_entry_under_another_name_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(dir.path(), 1 << 20).unwrap();
        cache.put(&key("cat"), b"its features");
        let path = cache.path(&key("dog"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(cache.path(&key("cat")), &path).unwrap();
        assert_eq!(cache.get(&key("dog")), None);
    }

    #[test]
    fn a_full_folder_keeps_what_it_has_and_refuses_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(dir.path(), 150).unwrap();
        for content in ["a", "b", "c"] {
            cache.put(&key(content), &[7; 20]);
        }
        assert!(cache.get(&key("a")).is_some() && cache.get(&key("b")).is_some() && cache.get(&key("c")).is_none());
        assert!(cache.summary().contains("it is full, 1 were not kept"), "{}", cache.summary());
        // A cache that is opened later counts the existing entries.
        let later = FeatureCache::open(dir.path(), 150).unwrap();
        later.put(&key("c"), &[7; 20]);
        assert!(later.get(&key("c")).is_none());
    }

    #[test]
    fn runs_at_the_same_time_overshoot_by_a_small_share() {
        let dir = tempfile::tempdir().unwrap();
        let caches = [(); 2].map(|()| FeatureCache::open(dir.path(), 10_000).unwrap());
        for number in 0..200 {
            for (index, cache) in caches.iter().enumerate() {
                cache.put(&key(&format!("{index} {number}")), &[7; 60]);
            }
        }
        let n_bytes = scan(dir.path()).unwrap();
        assert!((9_000..=11_300).contains(&n_bytes), "{n_bytes}");
    }

    #[test]
    fn many_threads_write_and_read_one_entry_and_see_it_whole() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(dir.path(), 1 << 30).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        cache.put(&key("cat"), &[7; 10_000]);
                        assert_eq!(cache.get(&key("cat")).unwrap(), [7; 10_000]);
                    }
                });
            }
        });
        assert!(cache.take_warnings().is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_of_once_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(&dir.path().join("cache"), 1 << 20).unwrap();
        fs::remove_dir(dir.path().join("cache")).unwrap();
        fs::write(dir.path().join("cache"), b"").unwrap();
        cache.put(&key("cat"), b"its features");
        cache.put(&key("dog"), b"its features");
        let warnings = cache.take_warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("cannot be written"), "{warnings:?}");
    }
}
