//! Datasets by their name on the hub: fetched from a server that speaks its paths, found in the cache without any.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use super::http_server::{HttpServer, Reply, Request};
use super::support::{Finished, emt, finish, root};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct Hub {
    server: HttpServer,
    folder: tempfile::TempDir,
}

/// `me/photos`, as `datasets` pushes it: two splits in Parquet, a card, and what nobody needs.
fn repository() -> BTreeMap<String, Vec<u8>> {
    let golden = root().join("tests/golden/hub/pets/data");
    let mut files: BTreeMap<String, Vec<u8>> = ["README.md", ".gitattributes", "notes/x.bin"]
        .into_iter()
        .map(|name| (name.to_owned(), b"# Pets\n".to_vec()))
        .collect();
    for name in ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet", "train-00000-of-00001.parquet"] {
        files.insert(format!("data/{name}"), fs::read(golden.join(name)).unwrap());
    }
    files
}

fn reply(request: &Request, files: &BTreeMap<String, Vec<u8>>) -> Reply {
    let path = request.path.trim_start_matches('/');
    if path == "api/datasets/me/photos/revision/main" {
        let siblings: Vec<Value> = files.keys().map(|name| json!({"rfilename": name})).collect();
        return Reply::json(200, &json!({"sha": COMMIT, "siblings": siblings}));
    }
    let name = path.strip_prefix(&format!("datasets/me/photos/resolve/{COMMIT}/"));
    match name.and_then(|name| files.get(name)) {
        Some(bytes) => {
            let tag = blake3::hash(bytes).to_hex()[..40].to_owned();
            Reply::new(200, bytes.as_slice()).with("etag", format!("\"{tag}\"")).with("x-repo-commit", COMMIT)
        }
        None => Reply::new(404, "").with("x-error-code", if name.is_some() { "EntryNotFound" } else { "RepoNotFound" }),
    }
}

impl Hub {
    fn start() -> Self {
        let files = Arc::new(repository());
        let server = HttpServer::start(move |request| reply(request, &files));
        Self { server, folder: tempfile::tempdir().unwrap() }
    }

    fn emt(&self) -> Command {
        let mut command = emt();
        command.env("HF_HOME", self.folder.path().join("home")).env("HF_ENDPOINT", self.server.url());
        command
    }

    fn verify(&self, arguments: &[&str]) -> Finished {
        finish(self.emt().args(["data", "verify", "--quiet"]).args(arguments))
    }

    fn snapshot(&self) -> PathBuf {
        self.folder.path().join("home/hub/datasets--me--photos/snapshots").join(COMMIT)
    }
}

#[test]
fn a_dataset_of_the_hub_is_fetched_split_by_split_and_stays() {
    let hub = Hub::start();
    let absent = hub.verify(&["me/photos", "--split", "test"]);
    assert_eq!(absent.code, Some(2));
    assert!(absent.stdout.contains("--download looks for it on the hub"), "{}", absent.stdout);
    assert!(hub.server.requests().is_empty(), "without the flag nothing is asked");

    let unknown = hub.verify(&["me/photos", "--split", "val", "--download"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("no split val"), "{}", unknown.stderr);
    assert!(!hub.snapshot().exists(), "nothing is fetched of what is not clear");

    let fetched = hub.verify(&["me/photos", "--split", "test", "--download"]);
    assert_eq!(fetched.code, Some(0), "{}{}", fetched.stdout, fetched.stderr);
    assert!(fetched.stdout.contains("me/photos (test): good; 14 of 14 images decode"), "{}", fetched.stdout);
    assert!(hub.snapshot().join("README.md").is_file());
    assert!(hub.snapshot().join("data/test-00001-of-00002.parquet").is_file());
    assert!(!hub.snapshot().join("data/train-00000-of-00001.parquet").exists(), "only the split is fetched");
    assert!(!hub.snapshot().join("notes").exists());
    let link = fs::read_link(hub.snapshot().join("data/test-00000-of-00002.parquet")).unwrap();
    assert!(link.starts_with("../../../blobs"), "{}", link.display());

    // From the cache alone.
    let n_requests = hub.server.requests().len();
    let again = hub.verify(&["me/photos", "--split", "test"]);
    let again_text = fetched.stdout.clone();
    assert_eq!((again.code, again.stdout), (Some(0), fetched.stdout));
    let behind = hub.verify(&["me/photos/test"]);
    assert_eq!((behind.code, behind.stdout), (Some(0), again_text.clone()));
    let other = hub.verify(&["me/photos", "--split", "train"]);
    assert!(other.code == Some(2) && other.stderr.contains("no split train"), "{}", other.stderr);
    assert_eq!(hub.server.requests().len(), n_requests);
}

#[test]
fn a_run_names_the_dataset_and_its_commit() {
    let hub = Hub::start();
    let out = hub.folder.path().join("run");
    let mut command = hub.emt();
    command.args([
        "eval",
        "--model",
        "embedded",
        "--datasets",
        "me/photos",
        "--split",
        "test",
        "--limit",
        "3",
        "--download",
    ]);
    let finished = finish(command.arg("--out").arg(&out));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let run: Value = serde_json::from_slice(&fs::read(out.join("run.json")).unwrap()).unwrap();
    assert_eq!(run["spec"]["datasets"][0]["dataset"], "me/photos");
    assert_eq!(run["environment"]["hub"]["datasets/me/photos"]["commit"], COMMIT);
    let trials = fs::read_to_string(out.join("trials.jsonl")).unwrap();
    assert!(trials.lines().all(|line| line.contains("\"sample\":\"me/photos/test/000")), "{trials}");
}

#[test]
fn the_held_out_split_is_the_default_and_the_terminal_says_so() {
    let hub = Hub::start();
    let out = hub.folder.path().join("run");
    let mut command = hub.emt();
    command.args(["eval", "--model", "embedded", "--datasets", "me/photos", "--limit", "3", "--download"]);
    let finished = finish(command.arg("--out").arg(&out));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("note: me/photos: using the split `test` of test, train"), "{}", finished.stderr);
    assert!(!hub.snapshot().join("data/train-00000-of-00001.parquet").exists(), "only that split is fetched");
    let run: Value = serde_json::from_slice(&fs::read(out.join("run.json")).unwrap()).unwrap();
    assert_eq!(run["spec"]["datasets"][0]["split"], "test");
    let source = &run["environment"]["datasets"]["me/photos"];
    assert_eq!((source["given"].as_str(), source["name"].as_str()), (Some("me/photos"), Some("me/photos")));

    // The report finds the images of the cache, and where the cache is another one by now, by the name on the hub.
    let n_images = |command: &mut Command| {
        let finished = finish(command.arg("report").arg(&out).arg("--out").arg(hub.folder.path().join("page")));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let page = fs::read_to_string(hub.folder.path().join("page/report.html")).unwrap();
        (page.matches("data:image/png;base64,").count(), finished.stderr)
    };
    let (n_shown, stderr) = n_images(&mut hub.emt());
    assert!(n_shown > 0, "{stderr}");
    fs::rename(hub.folder.path().join("home"), hub.folder.path().join("moved")).unwrap();
    assert_eq!(n_images(hub.emt().env("HF_HOME", hub.folder.path().join("moved"))).0, n_shown);
    let (n_left, stderr) = n_images(&mut hub.emt());
    assert!(
        n_left == 0 && stderr.contains("no longer exists") && stderr.contains("--datasets me/photos=PATH"),
        "{stderr}"
    );
}

#[test]
fn a_folder_of_the_name_wins_and_an_unknown_name_says_what_was_tried() {
    let hub = Hub::start();
    let unknown = hub.verify(&["me/nothing", "--download"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("me/nothing") && unknown.stderr.contains("is not at"), "{}", unknown.stderr);
    let offline = finish(hub.emt().env("HF_HUB_OFFLINE", "1").args(["data", "verify", "me/photos", "--download"]));
    assert!(offline.code == Some(2) && offline.stderr.contains("HF_HUB_OFFLINE"), "{}", offline.stderr);
}
