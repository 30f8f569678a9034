//! Models by their name on the hub: fetched from a server that speaks its paths, found in the cache without any.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use emt::model::checkpoint::weights::{Miniature, open_checkpoint};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::http_server::{HttpServer, Reply, Request};
use super::support::{Finished, any_adapters, any_shared, emt, finish, root};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_a_token_that_nobody_may_see";
const INDEX: &str = "model.safetensors.index.json";

type Files = BTreeMap<String, Vec<u8>>;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the hub calls a file: large ones by their SHA-256, others by git's shorter hash, for which a part of it serves here.
fn etag(name: &str, bytes: &[u8]) -> String {
    let hash = sha256(bytes);
    if is_large(name) { hash } else { hash[..40].to_owned() }
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

/// One of the miniature's checkpoints as its files would lie in a repository, with much beside that nobody needs.
fn repository(miniature: Miniature) -> Files {
    let checkpoint = open_checkpoint(Path::new("embedded"), miniature).unwrap();
    let names = [
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "model.safetensors",
    ];
    let mut files: Files =
        names.into_iter().filter_map(|name| Some((name.to_owned(), checkpoint.read_file(name).unwrap()?))).collect();
    for name in ["README.md", "cat.png", "flax_model.msgpack", "onnx/model.onnx", "pytorch_model.bin", "tf_model.h5"] {
        files.insert(name.to_owned(), b"nobody asks for this".to_vec());
    }
    files
}

/// The same weights as two shards and an index.
fn in_shards(mut files: Files) -> Files {
    let whole = files.remove("model.safetensors").unwrap();
    let whole = SafeTensors::deserialize(&whole).unwrap();
    let tensors: BTreeMap<&str, _> = whole.iter().collect();
    let mut map = serde_json::Map::new();
    for shard in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let part: BTreeMap<_, _> =
            tensors.iter().enumerate().filter(|(i, _)| i % 2 == shard).map(|(_, part)| part).collect();
        for tensor in part.keys() {
            map.insert(tensor.to_string(), name.clone().into());
        }
        files.insert(name, safetensors::serialize(part, None).unwrap());
    }
    files.insert(INDEX.to_owned(), json!({"metadata": {}, "weight_map": map}).to_string().into_bytes());
    files
}

/// The files of a folder.
fn files_of(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.path().is_file());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// A hub and the server that it hands large files over to.
struct HubServers {
    hub: HttpServer,
    cdn: HttpServer,
    /// While it is set, large files stop half-way.
    is_stuck: Arc<AtomicBool>,
    folder: tempfile::TempDir,
}

impl HubServers {
    fn start(repositories: Vec<(&'static str, Files)>) -> Self {
        let repositories: Arc<BTreeMap<&'static str, Files>> = Arc::new(repositories.into_iter().collect());
        let is_stuck = Arc::new(AtomicBool::new(false));
        let by_hash: BTreeMap<String, Vec<u8>> =
            repositories.values().flatten().map(|(_, bytes)| (sha256(bytes), bytes.clone())).collect();
        let stuck = Arc::clone(&is_stuck);
        let cdn = HttpServer::start(move |request| large_file(request, &by_hash, stuck.load(Ordering::Relaxed)));
        // Another name of the same machine, as it would be another machine.
        let address = cdn.url().replace("127.0.0.1", "localhost");
        let hub = HttpServer::start(move |request| hub_reply(request, &repositories, &address));
        Self { hub, cdn, is_stuck, folder: tempfile::tempdir().unwrap() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("home/hub")
    }

    fn repository(&self, id: &str) -> PathBuf {
        self.cache().join(format!("models--{}", id.replace('/', "--")))
    }

    fn snapshot(&self, id: &str) -> PathBuf {
        self.repository(id).join("snapshots").join(COMMIT)
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).join("run")
    }

    /// The program, which knows this hub.
    fn emt(&self) -> Command {
        let mut command = emt();
        command.env("HF_HOME", self.folder.path().join("home")).env("HF_ENDPOINT", self.hub.url());
        command.env("HF_TOKEN", TOKEN);
        command
    }

    /// `emt eval` of a few images with everything by its name on the hub.
    fn eval(&self, out: &str) -> Command {
        let mut command = self.emt();
        command.args(["eval", "--model", "org/tiny", "--encoder", "org/clip", "--datasets", "embedded/mnist"]);
        command.args(["--limit", "4", "--out"]).arg(self.out(out));
        command
    }
}

fn large_file(request: &Request, by_hash: &BTreeMap<String, Vec<u8>>, is_stuck: bool) -> Reply {
    let hash = request.path.trim_start_matches('/').split('?').next().unwrap();
    let Some(bytes) = by_hash.get(hash) else { return Reply::new(404, "") };
    let start = request.range_start().unwrap_or(0);
    if is_stuck {
        return match start {
            0 => Reply::new(200, bytes.as_slice()).with("etag", format!("\"{hash}\"")).cut_after(bytes.len() / 2),
            _ => Reply::Silence(Duration::from_secs(60)),
        };
    }
    let status = if start > 0 { 206 } else { 200 };
    Reply::new(status, &bytes[start..])
        .with("etag", format!("\"{hash}\""))
        .with("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()))
}

fn hub_reply(request: &Request, repositories: &BTreeMap<&'static str, Files>, cdn: &str) -> Reply {
    let refused = |status: u16, code: &str| Reply::new(status, "").with("x-error-code", code);
    let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
    let find = |owner: &str, name: &str| repositories.iter().find(|(id, _)| **id == format!("{owner}/{name}"));
    match parts.as_slice() {
        ["api", "models", "org", "gated", ..] => refused(403, "GatedRepo"),
        ["api", "models", "org", "busy", ..] => Reply::new(429, "").with("retry-after-ms", 1),
        ["api", "models", "org", "old", "revision", revision] => {
            Reply::new(307, "").with("location", format!("/api/models/org/tiny/revision/{revision}"))
        }
        ["api", "models", owner, name, "revision", revision] => match find(owner, name) {
            None => refused(401, "RepoNotFound"),
            Some(_) if !["main", "refs%2Fpr%2F1", COMMIT].contains(revision) => refused(404, "RevisionNotFound"),
            Some((_, files)) => {
                let siblings: Vec<Value> = files.keys().map(|name| json!({"rfilename": name})).collect();
                Reply::json(200, &json!({"sha": COMMIT, "siblings": siblings}))
            }
        },
        ["org", "old", "resolve", commit, file] => {
            Reply::new(307, "").with("location", format!("/org/tiny/resolve/{commit}/{file}"))
        }
        [owner, name, "resolve", commit, file] => {
            let found = find(owner, name).filter(|_| *commit == COMMIT);
            let Some(bytes) = found.and_then(|(_, files)| files.get(*file)) else {
                return refused(404, "EntryNotFound");
            };
            let tag = format!("\"{}\"", etag(file, bytes));
            let reply = match is_large(file) {
                true => Reply::new(302, "moved")
                    .with("location", format!("{cdn}/{}?signature=1", sha256(bytes)))
                    .with("x-linked-size", bytes.len())
                    .with("x-linked-etag", tag),
                false => Reply::new(200, bytes.as_slice()).with("etag", format!("W/{tag}")),
            };
            reply.with("x-repo-commit", COMMIT)
        }
        _ => Reply::new(404, ""),
    }
}

fn servers() -> HubServers {
    let (model, encoder) = (in_shards(repository(Miniature::Model)), repository(Miniature::Encoder));
    HubServers::start(vec![("org/tiny", model), ("org/clip", encoder)])
}

fn succeed(command: &mut Command) -> Finished {
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished
}

/// The words of a command that must fail.
fn refused(command: &mut Command) -> String {
    let finished = finish(command);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    finished.stderr
}

fn run_json(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap()
}

fn file_names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_model_fetched_from_the_hub_is_the_same_as_from_its_files_and_stays() {
    let servers = servers();
    let fetched = succeed(servers.eval("fetched").arg("--download"));
    let again = succeed(servers.eval("again").arg("--quiet").env("HF_ENDPOINT", "http://127.0.0.1:9"));
    let mut embedded = emt();
    embedded.args(["eval", "--model", "embedded", "--datasets", "embedded/mnist", "--limit", "4", "--out"]);
    succeed(embedded.arg(servers.out("embedded")));

    let trials = |name: &str| fs::read_to_string(servers.out(name).join("trials.jsonl")).unwrap();
    assert_eq!(trials("fetched"), trials("embedded"));
    assert_eq!(trials("again"), trials("fetched"));
    let (run, of_embedded) = (run_json(&servers.out("fetched")), run_json(&servers.out("embedded")));
    assert_eq!(run["identity"], of_embedded["identity"], "a name is no part of the identity");
    assert_eq!(run["spec"]["model"]["name"], "org/tiny");
    assert_eq!(run["spec"]["encoder"]["name"], "org/clip");
    assert_eq!(run["environment"]["hub"]["org/tiny"], json!({"revision": "main", "commit": COMMIT}));
    assert!(fetched.stderr.contains("org/clip model.safetensors"), "{}", fetched.stderr);
    assert!(again.stderr.is_empty(), "{}", again.stderr);
}

#[test]
fn the_cache_is_laid_out_as_pythons_and_holds_only_what_is_needed() {
    let servers = servers();
    succeed(servers.eval("run").arg("--download"));
    let (repository, snapshot) = (servers.repository("org/tiny"), servers.snapshot("org/tiny"));
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    let expected: Vec<String> = in_shards(self::repository(Miniature::Model))
        .into_keys()
        .filter(|name| ["json", "jinja", "safetensors"].iter().any(|end| name.ends_with(end)))
        .collect();
    assert_eq!(file_names(&snapshot).into_iter().collect::<Vec<_>>(), expected);
    for (name, bytes) in in_shards(self::repository(Miniature::Model)) {
        let blob = repository.join("blobs").join(etag(&name, &bytes));
        assert_eq!(blob.is_file(), expected.contains(&name), "{name}");
        if blob.is_file() {
            assert_eq!(fs::read(&blob).unwrap(), bytes);
            #[cfg(unix)]
            assert_eq!(
                fs::read_link(snapshot.join(&name)).unwrap(),
                Path::new("../../blobs").join(etag(&name, &bytes))
            );
        }
    }
    assert!(file_names(&repository.join("blobs")).iter().all(|name| !name.contains('.')), "nothing half is left");
}

#[test]
fn the_token_is_shown_to_the_hub_alone() {
    let servers = servers();
    let finished = succeed(servers.eval("run").arg("--download"));
    let (hub, cdn) = (servers.hub.requests(), servers.cdn.requests());
    assert!(!hub.is_empty() && !cdn.is_empty());
    let expected = format!("Bearer {TOKEN}");
    assert!(hub.iter().all(|request| request.headers.get("authorization") == Some(&expected)));
    assert!(cdn.iter().all(|request| !request.headers.contains_key("authorization")));
    assert!(!format!("{}{}", finished.stdout, finished.stderr).contains(TOKEN));
    assert!(!fs::read_to_string(servers.out("run").join("run.json")).unwrap().contains(TOKEN));
}

#[test]
fn a_killed_download_goes_on_where_it_was_and_ends_as_one_that_was_not() {
    let servers = servers();
    servers.is_stuck.store(true, Ordering::Relaxed);
    let files = in_shards(repository(Miniature::Model));
    let (name, shard) = files.iter().find(|(name, _)| name.ends_with("of-00002.safetensors")).unwrap();
    let partial = servers.repository("org/tiny").join("blobs").join(format!("{}.partial", etag(name, shard)));
    let mut command = servers.eval("run");
    let mut child = command.arg("--download").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while fs::metadata(&partial).map_or(0, |found| found.len()) < shard.len() as u64 / 2 {
        assert!(start.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let words = refused(&mut servers.eval("run"));
    assert!(words.contains("was not finished") && words.contains("--download` fetches it"), "{words}");

    servers.is_stuck.store(false, Ordering::Relaxed);
    let n_before = servers.cdn.n_requests();
    succeed(servers.eval("run").arg("--download"));
    assert_eq!(servers.cdn.requests()[n_before].range_start(), Some(shard.len() / 2));
    let blob = servers.repository("org/tiny").join("blobs").join(etag(name, shard));
    assert_eq!(sha256(&fs::read(blob).unwrap()), sha256(shard));
    assert!(!partial.exists());
}

#[test]
fn a_missing_shard_is_named_and_only_it_is_fetched() {
    let servers = servers();
    succeed(servers.eval("run").arg("--download"));
    let shard = "model-00002-of-00002.safetensors";
    let link = servers.snapshot("org/tiny").join(shard);
    fs::remove_file(link.canonicalize().unwrap()).unwrap();
    let words = refused(&mut servers.eval("other"));
    assert!(words.contains(&format!("`{shard}` of commit {COMMIT} is missing")), "{words}");
    assert!(words.contains(&format!("`hf download org/tiny {shard}`")), "{words}");
    assert!(words.contains("`emt eval --model org/tiny") && words.contains("--download`"), "{words}");
    let n_before = servers.cdn.n_requests();
    succeed(servers.eval("other").arg("--download"));
    assert_eq!(servers.cdn.n_requests(), n_before + 1);
}

#[test]
fn without_the_flag_nothing_is_asked_of_the_network() {
    let servers = servers();
    let words = refused(&mut servers.eval("run"));
    assert!(words.contains("`org/tiny` is neither a folder here nor in the hub's cache"), "{words}");
    assert!(words.contains("--download` fetches it, and so does `hf download org/tiny`"), "{words}");
    let words = refused(servers.eval("run").arg("--download").env("HF_HUB_OFFLINE", "1"));
    assert!(words.contains("HF_HUB_OFFLINE forbids"), "{words}");
    assert_eq!(servers.hub.n_requests(), 0);
}

#[test]
fn refusals_of_the_hub_say_what_to_do() {
    let servers = servers();
    let words = |model: &str| refused(servers.eval("run").args(["--download", "--model", model]));
    let gated = words("org/gated");
    assert!(gated.contains("accept its terms at") && gated.contains("/org/gated"), "{gated}");
    let absent = words("org/absent");
    assert!(absent.contains("`org/absent` is not at http") && absent.contains("HF_TOKEN"), "{absent}");
    assert!(words("org/tiny@v9").contains("`org/tiny` has no revision `v9`"));
    let n_before = servers.hub.n_requests();
    assert!(words("org/busy").contains("answered 429"));
    assert_eq!(servers.hub.n_requests(), n_before + 5, "a busy hub is asked a few times");
    let unreachable = refused(servers.eval("run").arg("--download").env("HF_ENDPOINT", "http://127.0.0.1:9"));
    assert!(unreachable.contains("failed to reach"), "{unreachable}");
    let endpoint = refused(servers.eval("run").arg("--download").env("HF_ENDPOINT", "ftp://hub"));
    assert!(endpoint.contains("HF_ENDPOINT"), "{endpoint}");
}

#[test]
fn a_revision_with_slashes_and_a_renamed_repository_are_fetched() {
    let servers = servers();
    succeed(servers.eval("pull").args(["--download", "--model", "org/tiny@refs/pr/1"]));
    let reference = servers.repository("org/tiny").join("refs/refs/pr/1");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
    let run = run_json(&servers.out("pull"));
    assert_eq!(run["environment"]["hub"]["org/tiny"]["revision"], "refs/pr/1");
    // By its commit, without a network; the branch `main` was never asked for.
    succeed(servers.eval("commit").args(["--model", &format!("org/tiny@{COMMIT}")]));
    let words = refused(&mut servers.eval("main"));
    assert!(words.contains("the revision `main`") && words.contains(COMMIT), "{words}");
    succeed(servers.eval("old").args(["--download", "--model", "org/old"]));
    assert_eq!(run_json(&servers.out("old"))["spec"]["model"]["name"], "org/old");
}

#[test]
fn an_unreachable_hub_leaves_what_the_cache_has() {
    let servers = servers();
    succeed(servers.eval("run").arg("--download"));
    let finished = succeed(servers.eval("other").arg("--download").env("HF_ENDPOINT", "http://127.0.0.1:9"));
    assert!(finished.stderr.contains("the cached files are used"), "{}", finished.stderr);
}

#[test]
fn a_run_of_a_repository_is_one_folder_below_reports() {
    let servers = servers();
    let here = tempfile::tempdir().unwrap();
    let mut command = servers.emt();
    command.current_dir(here.path()).args(["eval", "--model", "org/tiny", "--encoder", "none", "--download"]);
    succeed(command.args(["--datasets", "embedded/mnist", "--limit", "2"]));
    let runs = file_names(&here.path().join("reports"));
    assert!(runs.len() == 1 && runs.iter().all(|name| name.starts_with("org--tiny-")), "{runs:?}");
}

#[test]
fn a_tower_that_is_only_named_is_fetched_with_its_model() {
    let golden = root().join("tests/golden/fixtures");
    let fixtures = golden.join("llava_original");
    let mut model = files_of(&fixtures.join("full_safetensors_sharded"));
    let mut config: Value = serde_json::from_slice(&model["config.json"]).unwrap();
    config["mm_vision_tower"] = "org/tower".into();
    model.insert("config.json".to_owned(), config.to_string().into_bytes());
    let projector = files_of(&fixtures.join("pretrain_projector"));
    // Of the same shape as the one that the model was made with, and with a text tower.
    let tower = files_of(&golden.join("clip"));
    let servers = HubServers::start(vec![("org/llava", model), ("org/tower", tower), ("org/projector", projector)]);
    let eval = |out: &str, encoder: &str| {
        let mut command = servers.emt();
        command.args(["eval", "--model", "org/llava", "--encoder", encoder, "--adapter", "org/projector", "--out"]);
        command.arg(servers.out(out)).args(["--datasets", "embedded/mnist", "--limit", "2"]);
        command
    };
    succeed(eval("auto", "auto").arg("--download"));
    let run = run_json(&servers.out("auto").join("projector"));
    assert_eq!(run["spec"]["encoder"]["name"], "org/tower");
    assert_eq!(run["spec"]["model"]["name"], "org/llava+projector");
    succeed(&mut eval("none", "none"));

    fs::remove_dir_all(servers.repository("org/tower")).unwrap();
    let words = refused(&mut eval("auto", "auto"));
    assert!(words.contains("names its tower `org/tower`") && words.contains("`hf download org/tower`"), "{words}");
    assert!(words.contains("--limit 2 --download` fetches it"), "{words}");
    let words = refused(&mut eval("none", "none"));
    assert!(words.contains("`org/tower` was not found") && words.contains("--download"), "{words}");
}

#[test]
fn the_gate_and_fine_tuning_take_names_of_the_hub_too() {
    let models = any_shared().join("models");
    let servers = HubServers::start(vec![
        ("org/tiny", files_of(&models.join("tiny-llava"))),
        ("org/clip", files_of(&models.join("tiny-clip"))),
        ("org/lora", files_of(&any_adapters().join("lora-mnist"))),
    ]);
    let common = ["--model", "org/tiny", "--encoder", "org/clip", "--download"];
    let mut gate = servers.emt();
    gate.arg("gate").args(common).args(["--adapter", "org/lora", "--datasets", "embedded/mnist", "--limit", "20"]);
    let decided = finish(gate.arg("--runs").arg(servers.out("gate")));
    // So few images decide nothing.
    assert_eq!(decided.code, Some(3), "{}", decided.stderr);
    assert_eq!(run_json(&servers.out("gate").join("lora"))["spec"]["model"]["name"], "org/tiny+lora");

    let mut finetune = servers.emt();
    finetune.arg("finetune").args(common).args(["--method", "lora", "--from-adapter", "org/lora"]);
    finetune.args(["--train", "embedded/mnist", "--limit", "2", "--epochs", "1", "--rank", "8", "--eval-limit", "2"]);
    succeed(finetune.args(["--eval-datasets", "embedded/mnist", "--out"]).arg(servers.out("tuned")));
    let notes: Value = serde_json::from_slice(&fs::read(servers.out("tuned").join("emt.json")).unwrap()).unwrap();
    assert_eq!(notes["base"]["name"], "org/tiny");
    let adapter: Value =
        serde_json::from_slice(&fs::read(servers.out("tuned").join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(adapter["base_model_name_or_path"], "org/tiny", "Python's peft finds the base by it");
}

#[test]
fn a_folder_of_the_name_wins_over_the_hub() {
    let servers = servers();
    let here = tempfile::tempdir().unwrap();
    fs::create_dir_all(here.path().join("org/tiny")).unwrap();
    let words = refused(servers.eval("run").arg("--download").current_dir(here.path()));
    assert!(words.contains("it has no `config.json`"), "{words}");
    assert_eq!(servers.hub.n_requests(), 0);
}

#[test]
fn altered_bytes_never_come_into_their_place() {
    let mut files = repository(Miniature::Model);
    let whole = files["model.safetensors"].clone();
    let bytes = files.get_mut("model.safetensors").unwrap();
    bytes[whole.len() - 1] ^= 1;
    let altered = bytes.clone();
    files.insert("model.safetensors".to_owned(), whole.clone());
    let cdn = HttpServer::start(move |_| Reply::new(200, altered.as_slice()));
    let address = cdn.url();
    let repositories: BTreeMap<&'static str, Files> = [("org/tiny", files)].into();
    let hub = HttpServer::start(move |request| hub_reply(request, &repositories, &address));
    let folder = tempfile::tempdir().unwrap();
    let mut command = emt();
    command.env("HF_HUB_CACHE", folder.path()).env("HF_ENDPOINT", hub.url());
    command.args(["eval", "--model", "org/tiny", "--encoder", "none", "--datasets", "embedded/mnist", "--download"]);
    let words = refused(&mut command);
    assert!(words.contains("model.safetensors") && words.contains("SHA-256"), "{words}");
    let repository = folder.path().join("models--org--tiny");
    assert!(!repository.join("blobs").join(sha256(&whole)).exists());
    assert!(!repository.join("refs/main").exists());
}
