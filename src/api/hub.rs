//! The model hub's HTTP interface: which commit a revision is, which files it has, and what each of them must be.

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
/// A listing is small; what is larger is none.
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
    /// The commit that it is now.
    pub commit: String,
    /// Paths of its files, with `/`.
    pub files: Vec<String>,
}

/// What a file must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// What the hub calls its contents: of a large file the SHA-256, else the hash by which git knows it.
    pub etag: String,
    /// Its size in bytes, where the hub says so.
    pub n_bytes: Option<u64>,
}

/// Why the hub did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not an address.
    #[error("`{endpoint}` is not the address of a hub: {message}; hint: set HF_ENDPOINT to an http or https address")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        message: String,
    },
    /// There is no such repository, or it is not shown to everybody.
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
    /// Its owner decides who may have it.
    #[error("access to `{repository}` is restricted; hint: accept its terms at {page} and set HF_TOKEN to your token")]
    Restricted {
        /// The repository.
        repository: String,
        /// Where its terms stand.
        page: String,
    },
    /// Another refusal.
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
    /// The answer is not the hub's.
    #[error("`{url}` did not answer like a hub: {message}; hint: check HF_ENDPOINT and proxies")]
    Reply {
        /// The address.
        url: String,
        /// What is missing.
        message: String,
    },
    /// A file did not arrive.
    #[error(transparent)]
    Download(#[from] DownloadError),
}

impl HubError {
    /// Whether the hub was not there at all, or could not answer anybody: what is on the disk may serve instead.
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
    /// A client of the hub at `endpoint`. `token` goes to that host alone, never to where it redirects.
    ///
    /// # Errors
    /// `endpoint` is no http or https address.
    pub fn new(endpoint: &str, token: Option<Secret>) -> Result<Self, HubError> {
        let error = |message: String| HubError::Endpoint { endpoint: endpoint.to_owned(), message };
        let url = Url::parse(endpoint.trim_end_matches('/')).map_err(|cause| error(cause.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(error("it is neither http nor https".to_owned()));
        }
        let client = runtime::client_builder(&url)
            .read_timeout(SILENCE_MAX)
            // What a redirect says of a file, and whether the token may follow it, is looked at here.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|cause| error(runtime::describe(cause)))?;
        Ok(Self { endpoint: url, token, client, kind: HubKind::Model })
    }

    /// The same client, which asks for datasets.
    #[must_use]
    pub fn of_datasets(self) -> Self {
        Self { kind: HubKind::Dataset, ..self }
    }

    /// The commit and the files of a branch, tag or commit of `repository` (`org/name`).
    ///
    /// # Errors
    /// It is not there, not for everybody, or the hub cannot be reached.
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

    /// What the file `name` of a commit must be.
    ///
    /// # Errors
    /// As [`revision`](Self::revision); the hub does not say what the file is.
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
        // The length of a redirect's own body is nothing to go by.
        let own_length = text(headers, CONTENT_LENGTH.as_str()).filter(|_| response.status().is_success());
        let n_bytes = text(headers, "x-linked-size").or(own_length).and_then(|size| size.parse().ok());
        Ok(HubFile { etag: etag.to_owned(), n_bytes })
    }

    /// Downloads the file `name` of a commit; goes on with what an earlier call left. Size and, of large files, SHA-256
    /// are checked.
    ///
    /// # Errors
    /// It did not arrive, is another one, or cannot be written.
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
        // Models stand at the top.
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

    /// Asks until there is an answer that is not worth asking again.
    fn ask(&self, method: Method, url: &Url, asked: &Asked) -> Result<Response, HubError> {
        let handle =
            runtime::handle().map_err(|message| HubError::Endpoint { endpoint: self.endpoint.to_string(), message })?;
        handle.block_on(with_retries(&PATIENCE_OF_DOWNLOADS, &mut Asking { client: self, method, url, asked }))
    }

    /// One request, and those that it is redirected to inside the hub.
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

    /// Where a redirect leads inside the hub; `None` of other answers, and of those that hand a large file over to
    /// another server: what they say of the file is the answer.
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

/// A question that may be asked again.
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

/// What a request is about, for its errors.
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

/// Hashes name files of the cache: nothing else may.
fn is_plain(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
