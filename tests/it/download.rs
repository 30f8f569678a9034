//! Downloads from a real server: resumed, checked, retried, and never half in place.

use std::fs;
use std::path::PathBuf;

use emt::api::{Checksum, Download, DownloadError, Secret, download};
use sha2::{Digest, Sha256};

use crate::http_server::{HttpServer, Reply, Request};

fn content() -> Vec<u8> {
    (0..200_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn sha256(bytes: &[u8]) -> Checksum {
    Checksum::Sha256(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect())
}

/// A well-behaved file server.
fn file_reply(request: &Request, etag: &str) -> Reply {
    let bytes = content();
    let is_same = request.headers.get("if-range").is_none_or(|version| version == etag);
    match request.range_start().filter(|_| is_same) {
        Some(start) if start >= bytes.len() => {
            Reply::new(416, "").with("content-range", format!("bytes */{}", bytes.len()))
        }
        Some(start) => Reply::new(206, &bytes[start..])
            .with("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()))
            .with("etag", etag),
        None => Reply::new(200, bytes).with("etag", etag),
    }
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("data/file.bin")
    }

    fn partial(&self) -> PathBuf {
        self.folder.path().join("data/file.bin.partial")
    }

    fn leave_partial(&self, bytes: &[u8]) {
        fs::create_dir_all(self.folder.path().join("data")).unwrap();
        fs::write(self.partial(), bytes).unwrap();
    }

    fn fetch(&self, server: &HttpServer, checksum: Option<Checksum>) -> Result<(), DownloadError> {
        let url = format!("{}/file.bin", server.url());
        let request = Download { url: &url, destination: &self.file(), checksum, n_bytes: None, bearer_token: None };
        download(&request, &mut |_, _| {})
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("data")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[test]
fn a_download_arrives_whole_with_progress_and_leaves_nothing_else() {
    let server = HttpServer::start(|request| file_reply(request, "\"1\""));
    let place = Place::new();
    let (url, token) = (format!("{}/file.bin", server.url()), Secret::new("hf_token"));
    let mut last = (0, None);
    let request = Download {
        url: &url,
        destination: &place.file(),
        checksum: Some(sha256(&content())),
        n_bytes: Some(800_000),
        bearer_token: token.as_ref(),
    };
    download(&request, &mut |done, total| {
        assert!(done >= last.0);
        last = (done, total);
    })
    .unwrap();
    assert_eq!(last, (800_000, Some(800_000)));
    assert_eq!(fs::read(place.file()).unwrap(), content());
    assert_eq!(place.names(), ["file.bin"]);
    assert_eq!(server.requests()[0].headers["authorization"], "Bearer hf_token");
}

#[test]
fn a_connection_that_breaks_is_resumed_where_it_broke() {
    let server = HttpServer::start(|request| match request.index {
        0 => file_reply(request, "\"1\"").cut_after(300_000),
        1 => Reply::new(503, "busy").with("retry-after", 0),
        _ => file_reply(request, "\"1\""),
    });
    let place = Place::new();
    place.fetch(&server, None).unwrap();
    assert_eq!(fs::read(place.file()).unwrap(), content());
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[2].range_start(), Some(300_000));
    assert_eq!(requests[2].headers["if-range"], "\"1\"");
}

#[test]
fn a_file_that_changed_between_two_parts_is_read_anew() {
    let server = HttpServer::start(|request| match request.index {
        0 => Reply::new(200, vec![7; 500_000]).with("etag", "\"old\"").cut_after(100_000),
        _ => file_reply(request, "\"new\""),
    });
    let place = Place::new();
    place.fetch(&server, None).unwrap();
    assert_eq!(fs::read(place.file()).unwrap(), content());
}

#[test]
fn an_earlier_partial_file_is_used_where_a_checksum_can_tell() {
    let server = HttpServer::start(|request| file_reply(request, "\"1\""));
    let place = Place::new();
    place.leave_partial(&content()[..700_000]);
    place.fetch(&server, Some(sha256(&content()))).unwrap();
    assert_eq!(fs::read(place.file()).unwrap(), content());
    assert_eq!(server.requests()[0].range_start(), Some(700_000));
}

#[test]
fn a_complete_partial_file_is_not_fetched_again() {
    let server = HttpServer::start(|request| file_reply(request, "\"1\""));
    let place = Place::new();
    place.leave_partial(&content());
    place.fetch(&server, Some(sha256(&content()))).unwrap();
    assert_eq!(fs::read(place.file()).unwrap(), content());
    assert_eq!(server.n_requests(), 1);
}

#[test]
fn an_earlier_partial_file_of_other_bytes_is_found_out_and_replaced() {
    let server = HttpServer::start(|request| file_reply(request, "\"1\""));
    for checksum in [Some(sha256(&content())), None] {
        let place = Place::new();
        place.leave_partial(&[9; 1000]);
        place.fetch(&server, checksum).unwrap();
        assert_eq!(fs::read(place.file()).unwrap(), content());
    }
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let server = HttpServer::start(|_| Reply::new(200, content()));
    let place = Place::new();
    place.leave_partial(&content()[..700_000]);
    place.fetch(&server, Some(sha256(&content()))).unwrap();
    assert_eq!(fs::read(place.file()).unwrap(), content());
}

#[test]
fn a_wrong_checksum_leaves_no_file_and_says_what_came() {
    let server = HttpServer::start(|_| Reply::new(200, "<html>sign in").with("content-type", "text/html"));
    let place = Place::new();
    let error = place.fetch(&server, Some(Checksum::Md5("0".repeat(32)))).unwrap_err();
    assert!(matches!(error, DownloadError::Checksum { .. }));
    assert!(error.to_string().contains("a web page instead of the file"), "{error}");
    assert!(place.names().is_empty());
}

#[test]
fn a_redirect_is_followed_and_the_token_stays_behind() {
    let target = HttpServer::start(|request| file_reply(request, "\"1\""));
    // Another host name for the same machine, so that it is another host to the client.
    let address = target.url().replace("127.0.0.1", "localhost");
    let server = HttpServer::start(move |_| Reply::new(302, "").with("location", format!("{address}/signed?key=1")));
    let place = Place::new();
    let (url, token) = (server.url(), Secret::new("hf_token"));
    let request = Download {
        url: &url,
        destination: &place.file(),
        checksum: Some(sha256(&content())),
        n_bytes: Some(800_000),
        bearer_token: token.as_ref(),
    };
    download(&request, &mut |_, _| {}).unwrap();
    assert!(server.requests()[0].headers.contains_key("authorization"));
    assert!(!target.requests()[0].headers.contains_key("authorization"));
}

#[test]
fn what_is_not_there_is_asked_for_once() {
    let server = HttpServer::start(|_| Reply::new(404, "no"));
    let error = Place::new().fetch(&server, None).unwrap_err();
    assert!(matches!(error, DownloadError::Status { status: 404, .. }), "{error}");
    assert_eq!(server.n_requests(), 1);
}

#[test]
fn a_server_that_keeps_failing_is_given_up_and_the_bytes_are_kept() {
    let server = HttpServer::start(|request| match request.index {
        0 => file_reply(request, "\"1\"").cut_after(1000),
        _ => Reply::new(500, "no").with("retry-after-ms", 1),
    });
    let place = Place::new();
    let error = place.fetch(&server, None).unwrap_err();
    assert!(matches!(error, DownloadError::Status { status: 500, .. }), "{error}");
    assert!(!place.file().exists());
    assert_eq!(fs::read(place.partial()).unwrap(), &content()[..1000]);
}

#[test]
fn only_http_is_fetched() {
    let place = Place::new();
    for url in ["file:///etc/passwd", "ftp://h/x", "nonsense"] {
        let request = Download { url, destination: &place.file(), checksum: None, n_bytes: None, bearer_token: None };
        let error = download(&request, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, DownloadError::Address { .. }), "{error}");
    }
}

#[test]
fn a_file_of_another_size_is_refused_before_it_arrives() {
    let server = HttpServer::start(|_| Reply::new(200, content()));
    let place = Place::new();
    let url = server.url();
    let request =
        Download { url: &url, destination: &place.file(), checksum: None, n_bytes: Some(5), bearer_token: None };
    let error = download(&request, &mut |_, _| panic!("nothing of it is wanted")).unwrap_err();
    assert!(matches!(error, DownloadError::Size { found: 800_000, expected: 5, .. }), "{error}");
    assert!(!place.file().exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_that_says_so() {
    let server = HttpServer::start(|_| Reply::new(200, content()));
    let place = Place::new();
    place.leave_partial(&[]);
    fs::remove_file(place.partial()).unwrap();
    // A device that is always full stands in for the disk.
    std::os::unix::fs::symlink("/dev/full", place.partial()).unwrap();
    let error = place.fetch(&server, None).unwrap_err().to_string();
    assert!(error.contains("file.bin.partial") && error.contains("hint: free some disk space"), "{error}");
    assert!(!place.file().exists());
}
