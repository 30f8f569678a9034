//! A plain download: resumed, checked, and moved into place as a complete file.
#![expect(clippy::disallowed_methods, reason = "a download writes the file that it is asked for")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use md5::Digest;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Client, Response, StatusCode, Url};

use super::retry::{Attempts, GivenUp, PATIENCE_OF_DOWNLOADS, Transient, with_retries};
use super::secret::Secret;
use super::{retry, runtime};

/// Permanent and transient failures both carry a [`DownloadError`].
type Failure = retry::Failure<DownloadError, DownloadError>;

/// A connection without a byte for this long is broken.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A file to download, and its destination.
#[derive(Clone, Debug)]
pub struct Download<'a> {
    /// `http` or `https`; redirects are followed.
    pub url: &'a str,
    /// The destination, which exists only once it is complete. Until then its bytes are in `<destination>.partial`.
    pub destination: &'a Path,
    /// The expected checksum.
    pub checksum: Option<Checksum>,
    /// The size in bytes, if known.
    pub n_bytes: Option<u64>,
    /// The token, which is sent only to the host of `url`, never to a redirect's host.
    pub bearer_token: Option<&'a Secret>,
}

/// The hash of a complete file, in hex of either case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// 32 hex digits.
    Md5(String),
    /// 64 hex digits.
    Sha256(String),
}

/// Why a file could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// It is not an address.
    #[error("`{url}` is not an address that can be fetched: {message}")]
    Address {
        /// The address as given.
        url: String,
        /// The reason.
        message: String,
    },
    /// The server refused, or kept failing.
    #[error("failed to fetch `{url}`: the server answered {status}{hint}")]
    Status {
        /// The address as given.
        url: String,
        /// The HTTP status.
        status: u16,
        /// `; hint: …` or empty.
        hint: &'static str,
    },
    /// The connection failed or broke repeatedly.
    #[error(
        "failed to fetch `{url}`: {message}; hint: the part that arrived is kept; run the same command again to \
         continue"
    )]
    Connection {
        /// The address as given.
        url: String,
        /// The cause.
        message: String,
    },
    /// The bytes are not the expected ones.
    #[error("`{url}` has {kind} {found}, but {expected} was expected{hint}")]
    Checksum {
        /// The address as given.
        url: String,
        /// `MD5` or `SHA-256`.
        kind: &'static str,
        /// The hash of the downloaded file.
        found: String,
        /// The expected hash.
        expected: String,
        /// `; hint: …` or empty.
        hint: &'static str,
    },
    /// The file has another size than expected.
    #[error("`{url}` has {found} bytes, but {expected} were expected; hint: a proxy may alter the file")]
    Size {
        /// The address as given.
        url: String,
        /// The size in bytes.
        found: u64,
        /// The expected size in bytes.
        expected: u64,
    },
    /// The file could not be written.
    #[error("failed to write `{}`: {source}{}", path.display(), full_disk_hint(source))]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

/// Returns a hint for a full disk.
fn full_disk_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; hint: free some disk space and run the same command again; the part that arrived is kept"
        }
        _ => "",
    }
}

/// Downloads a file. `on_progress` receives the number of bytes so far and, if known, the total.
///
/// Resumes an earlier `.partial` if that is safe: the file has a checksum, or the server confirms that its file has not
/// changed. If a server ignores ranges, the download starts over.
pub fn download(request: &Download, on_progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<(), DownloadError> {
    let address_error = |message: String| DownloadError::Address { url: request.url.to_owned(), message };
    let url = Url::parse(request.url).map_err(|error| address_error(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(address_error(format!("`{}` is neither http nor https", url.scheme())));
    }
    let handle = runtime::handle().map_err(&address_error)?;
    let client = runtime::client_builder(&url)
        .read_timeout(SILENCE_MAX)
        .build()
        .map_err(|error| address_error(runtime::describe(error)))?;
    let mut transfer = Transfer::new(request, url, client)?;
    let mut started_over = false;
    loop {
        handle.block_on(with_retries(
            &PATIENCE_OF_DOWNLOADS,
            &mut Fetching { transfer: &mut transfer, on_progress: &mut *on_progress },
        ))?;
        match transfer.finish() {
            // Bytes of an earlier run may belong to another file: start over once.
            Err(DownloadError::Checksum { .. } | DownloadError::Size { .. }) if transfer.resumed && !started_over => {
                started_over = true;
                transfer.start_over()?;
            }
            done => return done,
        }
    }
}

/// A transfer and its progress callback.
struct Fetching<'t, 'r> {
    transfer: &'t mut Transfer<'r>,
    on_progress: &'t mut dyn FnMut(u64, Option<u64>),
}

impl Attempts for Fetching<'_, '_> {
    type Output = ();
    type Error = DownloadError;
    type Transient = DownloadError;

    async fn attempt(&mut self) -> Result<(), Failure> {
        let n_before = self.transfer.n_bytes;
        match self.transfer.attempt(self.on_progress).await {
            Err(Failure::Transient(transient)) => {
                let made_progress = self.transfer.n_bytes > n_before;
                Err(Failure::Transient(Box::new(Transient { made_progress, ..*transient })))
            }
            settled => settled,
        }
    }

    fn give_up(&self, last: GivenUp<DownloadError>) -> DownloadError {
        last.error
    }
}

/// A download in progress.
struct Transfer<'a> {
    request: &'a Download<'a>,
    url: Url,
    client: Client,
    partial: PathBuf,
    /// The file next to the partial file that holds the server's version tag of it.
    validator_path: PathBuf,
    validator: Option<String>,
    file: File,
    n_bytes: u64,
    /// Whether bytes of an earlier call are part of the file.
    resumed: bool,
    is_html: bool,
}

impl<'a> Transfer<'a> {
    fn new(request: &'a Download<'a>, url: Url, client: Client) -> Result<Self, DownloadError> {
        let partial = with_suffix(request.destination, ".partial");
        let validator_path = with_suffix(request.destination, ".partial.version");
        if let Some(folder) = request.destination.parent() {
            fs::create_dir_all(folder).map_err(|source| file_error(folder, source))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&partial)
            .map_err(|source| file_error(&partial, source))?;
        let n_bytes = file.metadata().map_err(|source| file_error(&partial, source))?.len();
        let validator = fs::read_to_string(&validator_path).ok().filter(|text| !text.is_empty());
        let mut transfer = Self {
            request,
            url,
            client,
            partial,
            validator_path,
            validator,
            file,
            n_bytes,
            resumed: n_bytes > 0,
            is_html: false,
        };
        if n_bytes > 0 && request.checksum.is_none() && transfer.validator.is_none() {
            transfer.start_over()?;
        }
        Ok(transfer)
    }

    fn start_over(&mut self) -> Result<(), DownloadError> {
        if self.n_bytes > 0 {
            self.file.set_len(0).map_err(|source| file_error(&self.partial, source))?;
        }
        self.n_bytes = 0;
        self.resumed = false;
        self.validator = None;
        let _ = fs::remove_file(&self.validator_path);
        Ok(())
    }

    /// Makes one request and reads its whole response.
    async fn attempt(&mut self, on_progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<(), Failure> {
        let mut get = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(token) = self.request.bearer_token {
            get = get.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if self.n_bytes > 0 {
            get = get.header(RANGE, format!("bytes={}-", self.n_bytes));
            if let Some(validator) = &self.validator {
                get = get.header(IF_RANGE, validator);
            }
        }
        let response = get.send().await.map_err(|error| self.broken(error))?;
        let Some((mut response, n_total)) = self.accept(response)? else { return Ok(()) };
        // Checked before gigabytes are downloaded in vain.
        n_total.map_or(Ok(()), |found| self.check_size(found))?;
        on_progress(self.n_bytes, n_total);
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(error))? {
            self.file.write_all(&chunk).map_err(|source| file_error(&self.partial, source))?;
            self.n_bytes += chunk.len() as u64;
            on_progress(self.n_bytes, n_total);
        }
        match n_total {
            Some(n_total) if n_total > self.n_bytes => {
                let message = format!("the connection ended after {} of {n_total} bytes", self.n_bytes);
                Err(self.connection(message))
            }
            _ => Ok(()),
        }
    }

    /// Decides from a response's head where its body belongs; `None` if the file is already complete.
    fn accept(&mut self, response: Response) -> Result<Option<(Response, Option<u64>)>, Failure> {
        let status = response.status();
        let n_asked = self.n_bytes;
        match status {
            StatusCode::PARTIAL_CONTENT if n_asked > 0 => match content_range(&response) {
                Some((Some(n_start), n_total)) if n_start == n_asked => Ok(Some((response, n_total))),
                _ => {
                    self.start_over()?;
                    Err(self.connection("the server sent a range that was not requested".to_owned()))
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE if n_asked > 0 => match content_range(&response) {
                Some((None, Some(n_total))) if n_total == n_asked => Ok(None),
                _ => {
                    self.start_over()?;
                    Err(self.connection("the partial file is longer than the server's file".to_owned()))
                }
            },
            status if status.is_success() && status != StatusCode::PARTIAL_CONTENT => {
                self.start_over()?;
                self.remember_version(&response)?;
                let n_total = response.content_length();
                Ok(Some((response, n_total)))
            }
            status => Err(self.refused(status, runtime::retry_after(response.headers()))),
        }
    }

    fn remember_version(&mut self, response: &Response) -> Result<(), DownloadError> {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.is_html = header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html"));
        // A weak tag guarantees equal meaning, not equal bytes.
        self.validator = header(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| header(LAST_MODIFIED));
        match &self.validator {
            Some(validator) => {
                fs::write(&self.validator_path, validator).map_err(|source| file_error(&self.validator_path, source))
            }
            None => Ok(()),
        }
    }

    fn refused(&self, status: StatusCode, wait: Option<Duration>) -> Failure {
        let hint = match status.as_u16() {
            401 | 403 => "; hint: the file may need a token (HF_TOKEN) or the acceptance of its licence",
            404 | 410 => "; hint: the file is not there; fetch it by hand from the dataset's source",
            _ => "",
        };
        let error = DownloadError::Status { url: self.request.url.to_owned(), status: status.as_u16(), hint };
        match status.as_u16() {
            408 | 409 | 425 | 429 | 500.. => Failure::transient(error, wait),
            _ => Failure::Permanent(error),
        }
    }

    fn broken(&self, error: reqwest::Error) -> Failure {
        if error.is_redirect() || error.is_builder() {
            let message = runtime::describe(error);
            return Failure::Permanent(DownloadError::Address { url: self.request.url.to_owned(), message });
        }
        self.connection(runtime::describe(error))
    }

    fn connection(&self, message: String) -> Failure {
        let error = DownloadError::Connection { url: self.request.url.to_owned(), message };
        Failure::transient(error, None)
    }

    fn discard(&self) {
        let _ = fs::remove_file(&self.partial);
        let _ = fs::remove_file(&self.validator_path);
    }

    fn check_size(&self, found: u64) -> Result<(), DownloadError> {
        match self.request.n_bytes {
            Some(expected) if expected != found => {
                Err(DownloadError::Size { url: self.request.url.to_owned(), found, expected })
            }
            _ => Ok(()),
        }
    }

    /// Checks the complete file and renames it to its destination.
    fn finish(&mut self) -> Result<(), DownloadError> {
        self.file.sync_all().map_err(|source| file_error(&self.partial, source))?;
        if let Err(error) = self.check_size(self.n_bytes) {
            if !self.resumed {
                self.discard();
            }
            return Err(error);
        }
        if let Some(checksum) = &self.request.checksum {
            let (kind, expected, found) = match checksum {
                Checksum::Md5(expected) => ("MD5", expected, hash_file::<md5::Md5>(&self.partial)),
                Checksum::Sha256(expected) => ("SHA-256", expected, hash_file::<sha2::Sha256>(&self.partial)),
            };
            let found = found.map_err(|source| file_error(&self.partial, source))?;
            if !found.eq_ignore_ascii_case(expected.trim()) {
                let hint = if self.is_html {
                    "; hint: the server sent a web page instead of the file"
                } else {
                    "; hint: the file has changed at its source, or a proxy alters it"
                };
                let (url, expected) = (self.request.url.to_owned(), expected.trim().to_owned());
                if !self.resumed {
                    self.discard();
                }
                return Err(DownloadError::Checksum { url, kind, found, expected, hint });
            }
        }
        fs::rename(&self.partial, self.request.destination)
            .map_err(|source| file_error(self.request.destination, source))?;
        let _ = fs::remove_file(&self.validator_path);
        Ok(())
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn file_error(path: &Path, source: io::Error) -> DownloadError {
    DownloadError::File { path: path.to_owned(), source }
}

/// Returns start and total of `Content-Range: bytes 5-9/10`; the start is `None` in `bytes */10`.
fn content_range(response: &Response) -> Option<(Option<u64>, Option<u64>)> {
    let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
    Some((start, total.trim().parse().ok()))
}

fn hash_file<H: Digest>(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = H::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n_read = file.read(&mut buffer)?;
        if n_read == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..n_read]);
    }
}
