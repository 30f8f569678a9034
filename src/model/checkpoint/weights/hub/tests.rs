use super::*;
use crate::model::checkpoint::weights::testing::write;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A cache with one repository of one snapshot.
struct Cache {
    folder: tempfile::TempDir,
}

impl Cache {
    fn new(files: &[(&str, &str)]) -> Self {
        let cache = Self { folder: tempfile::tempdir().unwrap() };
        cache.write("refs/main", COMMIT);
        fs::create_dir_all(cache.repository().join("blobs")).unwrap();
        for (name, text) in files {
            cache.write(&format!("snapshots/{COMMIT}/{name}"), text);
        }
        cache
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("models--org--name")
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.repository().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, text);
    }

    fn hub(&self) -> Hub<'static> {
        Hub::new(Some(self.folder.path().to_owned()), None, "emt eval --download".to_owned(), |_| {})
    }

    fn find(&self, text: &str) -> Result<Located> {
        self.hub().find(Path::new(text), Role::Model)
    }

    fn error(&self, text: &str) -> String {
        format!("{:#}", self.find(text).unwrap_err())
    }
}

const WHOLE: &[(&str, &str)] = &[("config.json", "{}"), ("model.safetensors", ""), ("tokenizer.json", "{}")];

#[test]
fn names_of_the_hub_are_told_from_paths() {
    let parsed =
        |text: &str| RepositoryId::parse(text).map(|id| (id.repository().to_owned(), id.revision().to_owned()));
    let is = |repository: &str, revision: &str| Some((repository.to_owned(), revision.to_owned()));
    assert_eq!(parsed("llava-hf/llava-1.5-7b-hf"), is("llava-hf/llava-1.5-7b-hf", "main"));
    assert_eq!(parsed("org/name@refs/pr/1"), is("org/name", "refs/pr/1"));
    for path in [
        "name",
        "./org/name",
        "/org/name",
        "a/b/c",
        "../name",
        "org/..",
        "org/",
        "org/a--b",
        "org/name@",
        "org/name@../x",
        "http://host/v1",
        "org/na me",
        "embedded",
        "org/name@a//b",
    ] {
        assert_eq!(parsed(path), None, "{path}");
    }
}

#[test]
fn a_repository_is_found_by_branch_tag_and_commit() {
    let cache = Cache::new(WHOLE);
    cache.write("refs/v1.0", &format!("{COMMIT}\n"));
    for text in ["org/name", "org/name@v1.0", &format!("org/name@{COMMIT}")] {
        let found = cache.find(text).unwrap();
        assert_eq!(found, Located { path: cache.snapshot(), repository: Some("org/name".to_owned()) });
        assert_eq!(found.short_name(), Some("name"));
    }
    let hub = cache.hub();
    hub.find(Path::new("org/name@v1.0"), Role::Model).unwrap();
    let expected = FoundRevision { revision: "v1.0".to_owned(), commit: COMMIT.to_owned() };
    assert_eq!(hub.found()["org/name"], expected);
}

#[test]
fn what_lies_at_the_path_wins_over_the_hub() {
    let cache = Cache::new(WHOLE);
    let path = cache.repository();
    assert_eq!(cache.find(path.to_str().unwrap()).unwrap(), Located::folder(&path));
    // Relative names are resolved in the folder where the tests run, which has a folder `src/model`.
    assert_eq!(cache.find("src/model").unwrap(), Located::folder(Path::new("src/model")));
}

#[test]
fn what_the_cache_lacks_is_named_with_the_commands_that_fetch_it() {
    let cache = Cache::new(WHOLE);
    let absent = cache.error("org/other");
    assert!(absent.contains("neither a folder here nor in the hub's cache"), "{absent}");
    assert!(absent.contains("`emt eval --download`") && absent.contains("`hf download org/other`"), "{absent}");
    let revision = cache.error("org/name@v2");
    assert!(revision.contains("the revision `v2`") && revision.contains(COMMIT), "{revision}");
    assert!(revision.contains("hf download org/name --revision v2`"), "{revision}");
}

#[test]
fn a_snapshot_that_is_not_whole_is_refused_with_the_file_that_it_lacks() {
    for missing in ["config.json", "model.safetensors", "tokenizer.json"] {
        let files: Vec<_> = WHOLE.iter().copied().filter(|(name, _)| *name != missing).collect();
        let error = Cache::new(&files).error("org/name");
        assert!(error.contains(&format!("`{missing}`")), "{error}");
        assert!(error.contains(&format!("hf download org/name {missing}`")), "{error}");
    }
    let index = r#"{"weight_map": {"a": "s-1.safetensors", "b": "s-2.safetensors", "c": "s-2.safetensors"}}"#;
    let sharded = [("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors.index.json", index)];
    let cache = Cache::new(&sharded);
    cache.write(&format!("snapshots/{COMMIT}/s-1.safetensors"), "");
    cache.write("blobs/abc.incomplete", "half");
    let error = cache.error("org/name@main");
    assert!(error.contains("`s-2.safetensors` of commit") && error.contains("was not finished"), "{error}");
    assert!(error.contains("hf download org/name s-2.safetensors --revision main`"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_a_missing_file() {
    let cache = Cache::new(&WHOLE[..1]);
    cache.write(&format!("snapshots/{COMMIT}/tokenizer.json"), "{}");
    let link = |target: &str| {
        let place = cache.snapshot().join("model.safetensors");
        let _ = fs::remove_file(&place);
        std::os::unix::fs::symlink(target, place).unwrap();
    };
    link("../../blobs/abc");
    assert!(cache.error("org/name").contains("`model.safetensors`"));
    cache.write("blobs/abc", "");
    assert!(cache.find("org/name").is_ok());
}

#[test]
fn a_tower_needs_no_tokenizer_and_an_adapter_no_model() {
    let cache = Cache::new(&WHOLE[..2]);
    let hub = cache.hub();
    assert!(hub.find(Path::new("org/name"), Role::Model).is_err());
    assert!(hub.find(Path::new("org/name"), Role::Tower).is_ok());
    let cache = Cache::new(&[("adapter_config.json", "{}"), ("adapter_model.safetensors", "")]);
    assert!(cache.hub().find(Path::new("org/name"), Role::Adapter).is_ok());
    assert!(cache.error("org/name").contains("`config.json`"));
}

#[test]
fn a_tower_is_found_by_path_beside_the_model_or_in_the_hubs_cache() {
    let cache = Cache::new(WHOLE);
    let (model, beside) = (cache.folder.path().join("model"), cache.folder.path().join("clip-tower"));
    for dir in [&model, &beside] {
        fs::create_dir_all(dir).unwrap();
    }
    write(&beside.join("config.json"), "{}");
    let hub = cache.hub();
    let find = |name: &str| hub.find_tower(name, &model, Role::Tower, true).unwrap();
    assert_eq!(find("clip-tower"), Some(Located::folder(&beside)));
    assert_eq!(find("openai/clip-tower"), Some(Located::folder(&beside)));
    assert_eq!(find("org/name").map(|found| found.path), Some(cache.snapshot()));
    assert_eq!(find("org/other"), None);
    assert_eq!(find("some/where/else"), None);
    fs::remove_file(cache.snapshot().join("model.safetensors")).unwrap();
    assert!(hub.find_tower("org/name", &model, Role::Tower, true).is_err());
}
