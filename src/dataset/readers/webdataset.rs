//! Webdataset: tars in which the files of a sample share a key, `KEY.jpg` with `KEY.cls` or `KEY.json`.
#![expect(clippy::disallowed_methods, reason = "a reader opens its tars")]

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::archive::{checked, read_limited};
use super::class_names::{self, Classified, RawLabels};
use super::names::{self, Kind as NameKind, UniqueNames, is_of_the_system};
use super::{ReadImage, decode_named, unreadable};
use crate::dataset::{Orientation, UnreadableImage};
use crate::domain::{RgbImage, text};

/// A larger file is not a label or a description.
const LABEL_BYTES_MAX: u64 = 1 << 20;

/// More samples than any image dataset has.
const SAMPLES_MAX: usize = 20_000_000;

/// The number of entries among which a webdataset must have its first label.
const N_ENTRIES_LOOKED_AT: usize = 100;

/// The keys of the label in a sample's description.
const LABEL_KEYS: [&str; 3] = ["label", "cls", "class"];

/// Whether the tar at `path` has labels next to its images instead of class folders.
pub(super) fn is_webdataset(path: &Path) -> anyhow::Result<bool> {
    let named = || format!("failed to read the archive `{}`", path.display());
    let file = File::open(path).with_context(named)?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    for entry in archive.entries_with_seek().with_context(named)?.take(N_ENTRIES_LOOKED_AT) {
        // Later damage is reported when the whole tar is read.
        let Ok(entry) = entry else { break };
        let name = names::readable(&entry.path_bytes());
        let is_label = match key_and_kind(&name) {
            Some((_, Kind::Class)) => true,
            Some((_, Kind::Description)) => described_class(entry).is_ok_and(|label| label.is_some()),
            _ => false,
        };
        if is_label {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens the shards of one split: the suffixes of the samples' ids, their classes, and their images.
pub(in crate::dataset) fn open(
    shards: &[PathBuf],
    sheet: Option<&Path>,
    orientation: Orientation,
) -> anyhow::Result<Samples> {
    let mut images = Images { shards: shards.to_vec(), places: Vec::new(), orientation };
    let mut names_seen = UniqueNames::default();
    let (mut keys, mut labels): (Vec<(usize, String)>, Vec<String>) = (Vec::new(), Vec::new());
    for (shard, path) in shards.iter().enumerate() {
        let named = || format!("failed to read the archive `{}`", path.display());
        let file = File::open(path).with_context(named)?;
        let n_bytes = file.metadata().with_context(named)?.len();
        for (key, members) in index(BufReader::new(file), n_bytes, &mut names_seen).with_context(named)? {
            let label = members.class.or(members.description).with_context(|| {
                format!("{}: the sample `{key}` has no label; hint: `{key}.cls`, or `{key}.json` with `label`", named())
            })?;
            labels.push(label);
            images.places.push(Place { shard, member: members.image });
            keys.push((shard, key));
        }
        ensure!(keys.len() <= SAMPLES_MAX, "{}: there are more than {SAMPLES_MAX} samples", named());
    }
    let folder = shards.first().and_then(|path| path.parent()).unwrap_or(Path::new("."));
    let names = class_names::in_classnames(folder)?;
    let numbers: Option<Vec<i64>> = labels.iter().map(|label| label.parse().ok()).collect();
    let raw = match numbers {
        Some(numbers) => RawLabels::Numbers(numbers.into_iter().map(Some).collect()),
        None => RawLabels::of_texts(labels.into_iter().map(Some)),
    };
    let describe = |index: usize| {
        keys.get(index).map_or_else(String::new, |(shard, key)| format!("`{key}` of `{}`", shards[*shard].display()))
    };
    let classified = raw.classify(names, sheet, &describe)?;
    let of_images = images.places.iter().filter_map(|place| place.member.as_ref()).map(|member| member.name.as_str());
    let warnings = names::warning_of_formats(of_images).into_iter().collect();
    let notes = names_seen.note("Latin-1").into_iter().collect();
    Ok(Samples { ends: ends_of_ids(shards, keys), classified, reader: Arc::new(images), warnings, notes })
}

/// The contents of a split's shards.
pub(in crate::dataset) struct Samples {
    /// The suffixes of the samples' ids.
    pub(in crate::dataset) ends: Vec<String>,
    pub(in crate::dataset) classified: Classified,
    pub(in crate::dataset) reader: Arc<dyn ReadImage>,
    pub(in crate::dataset) warnings: Vec<String>,
    pub(in crate::dataset) notes: Vec<String>,
}

/// Returns the keys, prefixed with the shard's name if shards share keys.
fn ends_of_ids(shards: &[PathBuf], keys: Vec<(usize, String)>) -> Vec<String> {
    let mut seen = HashSet::new();
    let is_shared = !keys.iter().all(|(_, key)| seen.insert(key.as_str()));
    if !is_shared {
        return keys.into_iter().map(|(_, key)| key).collect();
    }
    let stem = |shard: usize| shards[shard].file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let stems: Vec<String> = (0..shards.len()).map(stem).collect();
    keys.into_iter().map(|(shard, key)| format!("{}/{key}", stems[shard])).collect()
}

/// The role of an entry in its sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Image,
    Class,
    Description,
}

/// `a/0001.jpg` → (`a/0001`, image): the key ends at the first dot of the file's name.
fn key_and_kind(name: &str) -> Option<(&str, Kind)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.')?;
    let extension = name[dot + 1..].to_ascii_lowercase();
    let kind = match extension.as_str() {
        "cls" => Kind::Class,
        "json" => Kind::Description,
        _ if names::kind_of(name) == NameKind::Image => Kind::Image,
        _ => return None,
    };
    if name.split('/').any(is_of_the_system) {
        return None;
    }
    (dot > file).then_some((&name[..dot], kind))
}

/// The entries of one sample in a tar.
#[derive(Default)]
struct Members {
    image: Option<Member>,
    class: Option<String>,
    description: Option<String>,
}

/// An image in a tar: its name, and the range of its bytes.
struct Member {
    name: String,
    start: u64,
    len: u64,
}

/// Indexes the samples of a tar of `n_bytes` by key; reads labels but not images.
fn index(
    reader: impl Read + Seek,
    n_bytes: u64,
    names_seen: &mut UniqueNames,
) -> anyhow::Result<BTreeMap<String, Members>> {
    let mut archive = tar::Archive::new(reader);
    let mut samples: BTreeMap<String, Members> = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry.context("it is not a complete tar file; hint: fetch it again")?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let raw = entry.path_bytes().into_owned();
        let name = checked(&names::readable(&raw))?;
        let Some((key, kind)) = key_and_kind(&name) else { continue };
        if std::str::from_utf8(&raw).is_err() {
            names_seen.count(&name);
        }
        let (start, len) = (entry.raw_file_position(), entry.size());
        let is_inside = start.checked_add(len).is_some_and(|end| end <= n_bytes);
        ensure!(is_inside, "the entry `{name}` reaches beyond its end; hint: fetch it again");
        let members = samples.entry(key.to_owned()).or_default();
        match kind {
            // The first of several images (`0001.jpg`, `0001.mask.png`) belongs to the sample.
            Kind::Image if members.image.is_none() => members.image = Some(Member { name, start, len }),
            Kind::Image => {}
            Kind::Class => members.class = Some(class(entry).with_context(|| format!("in `{name}`"))?),
            Kind::Description => {
                members.description = described_class(entry).with_context(|| format!("in `{name}`"))?
            }
        }
        ensure!(samples.len() <= SAMPLES_MAX, "it has more than {SAMPLES_MAX} samples");
    }
    // A sample with only a label keeps its place and is unreadable, but descriptions of the whole tar are not samples.
    samples.retain(|_, members| members.image.is_some() || members.class.is_some());
    Ok(samples)
}

fn text(entry: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    entry.take(LABEL_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= LABEL_BYTES_MAX,
        "it is larger than {LABEL_BYTES_MAX} bytes, which is too large for a label"
    );
    Ok(text::decode(&bytes)?.to_owned())
}

fn class(entry: impl Read) -> anyhow::Result<String> {
    let class = text(entry)?.trim().to_owned();
    ensure!(!class.is_empty(), "the label is empty");
    Ok(class)
}

/// Returns the label in a sample's description, if it has one.
fn described_class(entry: impl Read) -> anyhow::Result<Option<String>> {
    let description: Value = serde_json::from_str(&text(entry)?).context("it is not JSON")?;
    let label = LABEL_KEYS.iter().map(|&key| &description[key]).find(|value| !value.is_null());
    match label {
        None => Ok(None),
        Some(Value::String(label)) if !label.trim().is_empty() => Ok(Some(label.trim().to_owned())),
        Some(Value::Number(number)) if number.is_i64() => Ok(Some(number.to_string())),
        Some(other) => bail!("the label `{other}` is neither a whole number nor text"),
    }
}

/// The images of all shards.
struct Images {
    shards: Vec<PathBuf>,
    places: Vec<Place>,
    orientation: Orientation,
}

struct Place {
    shard: usize,
    member: Option<Member>,
}

impl ReadImage for Images {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        let Some(place) = self.places.get(position) else {
            return Err(unreadable("?", &format!("there is no image {position}"), &[]));
        };
        let shard = &self.shards[place.shard];
        let Some(member) = &place.member else {
            return Err(unreadable(&shard.display().to_string(), "the sample has a label and no image", &[]));
        };
        let path = format!("{}:{}", shard.display(), member.name);
        let read = || {
            let mut file = File::open(shard)?;
            file.seek(SeekFrom::Start(member.start))?;
            read_limited(file.take(member.len))
        };
        let bytes = read().map_err(|error| unreadable(&path, &format!("{error:#}"), &[]))?;
        decode_named(&path, &bytes, self.orientation)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            // Written by hand, because the builder refuses names that lead out of the archive.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn index_of(files: &[(&str, &[u8])]) -> anyhow::Result<BTreeMap<String, Members>> {
        let bytes = tar_of(files);
        index(Cursor::new(&bytes), bytes.len() as u64, &mut UniqueNames::default())
    }

    #[test]
    fn a_key_ends_at_the_first_dot_of_the_files_name() {
        assert_eq!(key_and_kind("a.b/0001.JPG"), Some(("a.b/0001", Kind::Image)));
        assert_eq!(key_and_kind("0001.mask.png"), Some(("0001", Kind::Image)));
        assert_eq!(key_and_kind("0001.cls"), Some(("0001", Kind::Class)));
        assert_eq!(key_and_kind("0001.seg.cls"), None);
        assert_eq!(key_and_kind("a/.cls"), None);
        assert_eq!(key_and_kind("0001"), None);
    }

    #[test]
    fn labels_come_from_classes_and_descriptions() {
        let found = index_of(&[
            ("b.jpg", b"image"),
            ("b.mask.png", b"mask"),
            ("b.json", br#"{"label": 3, "width": 2}"#),
            ("a.cls", b" 7\n"),
            ("a.json", br#"{"label": 8}"#),
            ("info.json", b"{}"),
        ]);
        let found = found.unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((found["a"].class.as_deref(), found["a"].image.is_none()), (Some("7"), true));
        assert_eq!(found["b"].description.as_deref(), Some("3"));
        assert_eq!(found["b"].image.as_ref().map(|image| (image.name.as_str(), image.len)), Some(("b.jpg", 5)));
    }

    #[test]
    fn an_entry_that_leads_out_or_is_no_label_is_refused_by_its_name() {
        for (files, part) in [
            (&[("../a.jpg", &b"x"[..])], "points outside of it"),
            (&[("a.cls", &b"\xff\xfe"[..])], "`a.cls`"),
            (&[("a.cls", &b" "[..])], "empty"),
            (&[("a.json", &b"{"[..])], "`a.json`"),
            (&[("a.json", &b"{\"label\": [1]}"[..])], "neither"),
        ] {
            let error = format!("{:#}", index_of(files).err().expect(part));
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn broken_shards_never_panic(cut in 0usize..2600, place in 0usize..2600, value: u8) {
            let mut bytes = tar_of(&[("a.jpg", b"image"), ("a.cls", b"1")]);
            bytes.truncate(cut.max(1));
            let place = place % bytes.len();
            bytes[place] = value;
            let _ = index(Cursor::new(&bytes), bytes.len() as u64, &mut UniqueNames::default());
        }
    }
}
