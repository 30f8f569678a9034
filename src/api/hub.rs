//! The model hub's HTTP interface: the commit of a revision, its files, and each file's hash and size.

use std::path::Path;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION};
use reqwest::{Client, Method, Response, Url, redirect};

use super::download::{Checksum, Download, DownloadError, SILENCE_MAX, download};
use super::hub_cache::HubKind;
use super::retry::{Attempts, Failure, GivenUp, PATIENCE_OF_DOWNLOADS, with_retries};
use super::runtime;
use super::secret::Secret;

/// Redirects inside the hub, such as to a repository's new name.
const N_REDIRECTS_MAX: usize = 5;
/// A listing is small; a larger response is not one.
const LISTING_BYTES_MAX: usize = 64 << 20;

/// A hub, such as `https://huggingface.co` or a mirror of it.
#[derive(Clone, Debug)]
pub struct HubClient {
    endpoint: Url,
    token: Option<Secret>,
    client: Client,
    kind: HubKind,
}

/// A revision of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRevision {
    /// The commit to which the revision currently points.
    pub commit: String,
    /// Paths of its files, with `/`.
    pub files: Vec<String>,
}

/// The expected properties of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// The hub's identifier of the contents: SHA-256 for a large file, otherwise git's hash.
    pub etag: String,
    /// The size in bytes, if the hub reports it.
    pub n_bytes: Option<u64>,
}

/// Why the hub did not return what was requested.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// It is not an address.
    #[error("`{endpoint}` is not the address of a hub: {message}; hint: set HF_ENDPOINT to an http or https address")]
    Endpoint {
        /// The address as given.
        endpoint: String,
        /// The reason.
        message: String,
    },
    /// There is no such repository, or it is not public.
    #[error(
        "`{repository}` is not at {endpoint}, or is private; hint: check its name; a private repository needs a valid \
         HF_TOKEN"
    )]
    NoRepository {
        /// The repository.
        repository: String,
        /// The hub.
        endpoint: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("`{repository}` has no revision `{revision}`; hint: name one of its branches, tags or commits")]
    NoRevision {
        /// The repository.
        repository: String,
        /// The revision.
        revision: String,
    },
    /// Its owner controls access.
    #[error("access to `{repository}` is restricted; hint: accept its terms at {page} and set HF_TOKEN to your token")]
    Restricted {
        /// The repository.
        repository: String,
        /// The page with its terms.
        page: String,
    },
    /// Another HTTP error.
    #[error("failed to ask `{url}`: the hub answered {status}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub cannot be reached.
    #[error("failed to reach `{url}`: {message}")]
    Connection {
        /// The address.
        url: String,
        /// The cause.
        message: String,
    },
    /// The response is not the hub's.
    #[error("`{url}` did not answer like a hub: {message}; hint: check HF_ENDPOINT and proxies")]
    Reply {
        /// The address.
        url: String,
        /// The missing part.
        message: String,
    },
    /// A file could not be downloaded.
    #[error(transparent)]
    Download(#[from] DownloadError),
}

impl HubError {
    /// Whether the hub was unreachable or unable to answer anyone, so that cached files may be used instead.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Download(DownloadError::Connection { .. }) => true,
            Self::Status { status, .. } | Self::Download(DownloadError::Status { status, .. }) => {
                *status == 429 || *status >= 500
            }
            _ => false,
        }
    }
}

impl HubClient {
    /// Creates a client of the hub at `endpoint`. `token` is sent only to that host, never to a redirect's host.
    ///
    /// # Errors
    /// `endpoint` is not an http or https address.
    pub fn new(endpoint: &str, token: Option<Secret>) -> Result<Self, HubError> {
        let error = |message: String| HubError::Endpoint { endpoint: endpoint.to_owned(), message };
        let url = Url::parse(endpoint.trim_end_matches('/')).map_err(|cause| error(cause.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(error("it is neither http nor https".to_owned()));
        }
        let client = runtime::client_builder(&url)
            .read_timeout(SILENCE_MAX)
            // Redirects are handled here: they carry a file's metadata, and the token may not follow all of them.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|cause| error(runtime::describe(cause)))?;
        Ok(Self { endpoint: url, token, client, kind: HubKind::Model })
    }

    /// Returns the same client for datasets.
    #[must_use]
    pub fn of_datasets(self) -> Self {
        Self { kind: HubKind::Dataset, ..self }
    }

    /// Returns the commit and the files of a branch, tag or commit of `repository` (`org/name`).
    ///
    /// # Errors
    /// It does not exist, is not public, or the hub cannot be reached.
    pub fn revision(&self, repository: &str, revision: &str) -> Result<HubRevision, HubError> {
        let parts = ["api", self.kind.plural()].into_iter().chain(repository.split('/')).chain(["revision", revision]);
        let url = self.url(parts);
        let asked = Asked { repository, revision };
        let response = self.ask(Method::GET, &url, &asked)?;
        let reply = |message: &str| HubError::Reply { url: url.to_string(), message: message.to_owned() };
        let body = self.body(&url, response)?;
        let listing: Listing =
            serde_json::from_slice(&body).map_err(|_| reply("its listing has no sha and siblings"))?;
        if !is_plain(&listing.sha) {
            return Err(reply("its commit is not a hash"));
        }
        let files = listing.siblings.into_iter().map(|file| file.rfilename).collect();
        Ok(HubRevision { commit: listing.sha, files })
    }

    /// Returns the expected properties of the file `name` of a commit.
    ///
    /// # Errors
    /// Fails as [`revision`](Self::revision) does, or if the hub does not identify the file.
    pub fn file(&self, repository: &str, commit: &str, name: &str) -> Result<HubFile, HubError> {
        let url = self.file_url(repository, commit, name);
        let response = self.ask(Method::HEAD, &url, &Asked { repository, revision: commit })?;
        let headers = response.headers();
        let reply = |message: &str| HubError::Reply { url: url.to_string(), message: message.to_owned() };
        if text(headers, "x-repo-commit").is_some_and(|found| found != commit) {
            return Err(reply("the file is of another commit"));
        }
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        let etag = etag.filter(|etag| is_plain(etag)).ok_or_else(|| reply("the file has no ETag"))?;
        // The length of a redirect's own body is meaningless.
        let own_length = text(headers, CONTENT_LENGTH.as_str()).filter(|_| response.status().is_success());
        let n_bytes = text(headers, "x-linked-size").or(own_length).and_then(|size| size.parse().ok());
        Ok(HubFile { etag: etag.to_owned(), n_bytes })
    }

    /// Downloads the file `name` of a commit, resuming an earlier call. Checks the size and, for large files, the
    /// SHA-256.
    ///
    /// # Errors
    /// It cannot be downloaded, does not match, or cannot be written.
    pub fn fetch(
        &self,
        (repository, commit, name): (&str, &str, &str),
        file: &HubFile,
        destination: &Path,
        on_progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), HubError> {
        let is_sha256 = file.etag.len() == 64 && file.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        let url = self.file_url(repository, commit, name);
        let request = Download {
            url: url.as_str(),
            destination,
            checksum: is_sha256.then(|| Checksum::Sha256(file.etag.clone())),
            n_bytes: file.n_bytes,
            bearer_token: self.token.as_ref(),
        };
        Ok(download(&request, on_progress)?)
    }

    fn file_url(&self, repository: &str, commit: &str, name: &str) -> Url {
        // Models have no prefix.
        let kind = Some(self.kind.plural()).filter(|_| self.kind == HubKind::Dataset);
        self.url(kind.into_iter().chain(repository.split('/')).chain(["resolve", commit]).chain(name.split('/')))
    }

    fn url<'p>(&self, parts: impl Iterator<Item = &'p str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Sends requests until there is a response that is not worth retrying.
    fn ask(&self, method: Method, url: &Url, asked: &Asked) -> Result<Response, HubError> {
        let handle =
            runtime::handle().map_err(|message| HubError::Endpoint { endpoint: self.endpoint.to_string(), message })?;
        handle.block_on(with_retries(&PATIENCE_OF_DOWNLOADS, &mut Asking { client: self, method, url, asked }))
    }

    /// Sends one request and follows redirects inside the hub.
    async fn send(&self, method: &Method, url: &Url) -> Result<Response, String> {
        let mut url = url.clone();
        for _ in 0..N_REDIRECTS_MAX {
            let mut request = self.client.request(method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = &self.token {
                request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
            }
            let response = request.send().await.map_err(runtime::describe)?;
            match self.next_inside(&url, &response) {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(format!("more than {N_REDIRECTS_MAX} redirects"))
    }

    /// Returns the target of a redirect inside the hub. `None` for other responses, and for those that redirect a large
    /// file to another server, because their headers already describe the file.
    fn next_inside(&self, url: &Url, response: &Response) -> Option<Url> {
        let location = text(response.headers(), LOCATION.as_str()).filter(|_| response.status().is_redirection())?;
        let next = url.join(location).ok()?;
        let is_relative = Url::parse(location).is_err();
        let is_handed_over = text(response.headers(), "x-linked-etag").is_some();
        (next.origin() == self.endpoint.origin() && (is_relative || !is_handed_over)).then_some(next)
    }

    fn body(&self, url: &Url, mut response: Response) -> Result<Vec<u8>, HubError> {
        let broken = |message: String| HubError::Connection { url: url.to_string(), message };
        let handle = runtime::handle().map_err(&broken)?;
        handle.block_on(async {
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| broken(runtime::describe(error)))? {
                body.extend_from_slice(&chunk);
                if body.len() > LISTING_BYTES_MAX {
                    let message = "its listing is too long".to_owned();
                    return Err(HubError::Reply { url: url.to_string(), message });
                }
            }
            Ok(body)
        })
    }

    fn refused(&self, url: &Url, asked: &Asked, response: &Response) -> HubError {
        let repository = asked.repository.to_owned();
        let status = response.status().as_u16();
        match (text(response.headers(), "x-error-code"), status) {
            (Some("GatedRepo"), _) | (None, 403) => {
                let page = self.url(asked.repository.split('/')).to_string();
                HubError::Restricted { repository, page }
            }
            (Some("RevisionNotFound"), _) => HubError::NoRevision { repository, revision: asked.revision.to_owned() },
            (Some("RepoNotFound"), _) | (_, 401) | (None, 404) => {
                let endpoint = self.endpoint.as_str().trim_end_matches('/').to_owned();
                HubError::NoRepository { repository, endpoint }
            }
            _ => HubError::Status { url: url.to_string(), status },
        }
    }
}

/// A request that may be retried.
struct Asking<'a> {
    client: &'a HubClient,
    method: Method,
    url: &'a Url,
    asked: &'a Asked<'a>,
}

impl Attempts for Asking<'_> {
    type Output = Response;
    type Error = HubError;
    type Transient = HubError;

    async fn attempt(&mut self) -> Result<Response, Failure<HubError, HubError>> {
        let (error, wait) = match self.client.send(&self.method, self.url).await {
            Ok(response) if !is_failure(&response) => return Ok(response),
            Ok(response) => {
                let error = self.client.refused(self.url, self.asked, &response);
                if !matches!(response.status().as_u16(), 408 | 425 | 429 | 500..) {
                    return Err(Failure::Permanent(error));
                }
                (error, runtime::retry_after(response.headers()))
            }
            Err(message) => (HubError::Connection { url: self.url.to_string(), message }, None),
        };
        Err(Failure::transient(error, wait))
    }

    fn give_up(&self, last: GivenUp<HubError>) -> HubError {
        last.error
    }
}

/// The subject of a request, for its errors.
struct Asked<'a> {
    repository: &'a str,
    revision: &'a str,
}

#[derive(serde::Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<ListedFile>,
}

#[derive(serde::Deserialize)]
struct ListedFile {
    rfilename: String,
}

fn is_failure(response: &Response) -> bool {
    response.status().is_client_error() || response.status().is_server_error()
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a hash is a plain name: only such hashes may name files of the cache.
fn is_plain(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
