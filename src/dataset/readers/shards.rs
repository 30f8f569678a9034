//! Splits in shards: which files of a folder belong to a split. Parquet and webdataset tars.
#![expect(clippy::disallowed_methods, reason = "a reader lists its folder")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::webdataset;

/// Split names, as folder names and as beginnings or ends of file names.
pub(in crate::dataset) const SPLITS: [&str; 5] = ["train", "val", "valid", "validation", "test"];

/// The default splits; the first one that exists is taken. Names beyond [`SPLITS`] are those that `datasets` knows for
/// held-out splits.
const HELD_OUT: [&str; 8] = ["test", "testing", "eval", "evaluation", "validation", "valid", "val", "dev"];

/// Returns the default split of `splits`: the only one, or otherwise the held-out one.
fn default_split<'s>(splits: &[&'s str]) -> Option<&'s str> {
    match splits {
        [only] => Some(only),
        _ => HELD_OUT.iter().find_map(|held_out| splits.iter().copied().find(|split| split == held_out)),
    }
}

/// The format of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataset) enum ShardFormat {
    /// Parquet in the hub's image layout.
    Parquet,
    /// Tars of `KEY.jpg` and `KEY.cls`.
    Webdataset,
}

/// The files of one split.
#[derive(Debug)]
pub(in crate::dataset) struct Shards {
    pub(in crate::dataset) format: ShardFormat,
    /// Sorted by name.
    pub(in crate::dataset) files: Vec<PathBuf>,
    /// The split in the names of files or folders; `None` if they name none.
    pub(in crate::dataset) split: Option<String>,
    /// The path that names the dataset, as if the split were one of its folders (`cifar10/test`).
    pub(in crate::dataset) place: PathBuf,
    pub(in crate::dataset) warnings: Vec<String>,
    /// Whether the user named a table, whose name is the dataset's; not a folder or an archive.
    pub(in crate::dataset) is_named_file: bool,
    /// All available splits, if the user did not choose among several.
    pub(in crate::dataset) chosen_of: Vec<String>,
}

/// Whether `path` may be shards although nothing of this name exists: `photos-{000000..000003}.tar`, or `cifar10/test`
/// for the files `test-*` in the folder `cifar10`.
pub(in crate::dataset) fn may_mean_shards(path: &Path) -> bool {
    expand(path).is_some()
        || split_below(path).is_some_and(|(folder, split)| {
            listed(folder).is_ok_and(|listed| {
                listed.iter().any(|(_, file)| split_of(file).is_some_and(|found| found.split == split))
            })
        })
}

impl Shards {
    /// Finds the shards of `path` and `split`; `None` if it is something else, such as a folder of class folders.
    pub(in crate::dataset) fn find(path: &Path, split: Option<&str>) -> anyhow::Result<Option<Shards>> {
        if let Some(files) = expand(path) {
            let missing = files.iter().find(|file| !file.is_file());
            ensure!(
                missing.is_none(),
                "there is no file `{}`",
                missing.map_or(Path::new(""), PathBuf::as_path).display()
            );
            return Self::of_files(files, split).map(Some);
        }
        if path.is_file() {
            let is_shard = match format_of(path) {
                Some(ShardFormat::Parquet) => true,
                Some(ShardFormat::Webdataset) => webdataset::is_webdataset(path)?,
                None => false,
            };
            return if is_shard { Self::of_files(vec![path.to_owned()], split).map(Some) } else { Ok(None) };
        }
        match split_below(path).filter(|_| !path.is_dir()) {
            Some((folder, inner)) => {
                ensure!(
                    split.is_none_or(|split| split == inner),
                    "it belongs to the split {inner}, but {} was requested",
                    split.unwrap_or_default()
                );
                Self::of_folder(folder, Some(inner))
            }
            None => Self::of_folder(path, split),
        }
    }

    /// Returns the shards of files that the user named.
    fn of_files(files: Vec<PathBuf>, asked: Option<&str>) -> anyhow::Result<Shards> {
        let first = files.first().context("no file is named")?.clone();
        let format = format_of(&first).context("a shard is a .parquet or a .tar")?;
        ensure!(files.iter().all(|file| format_of(file) == Some(format)), "the shards are of different formats");
        let named = split_of(&first);
        if let (Some(asked), Some(NamedSplit { split, .. })) = (asked, &named) {
            ensure!(
                asked == split,
                "it belongs to the split {split}, but {asked} was requested; hint: name another file"
            );
        }
        let folder = first.parent().unwrap_or(Path::new("."));
        let is_metadata = first.file_stem().is_some_and(|stem| stem == "metadata");
        let place = match &named {
            Some(named) => named.place(folder),
            // The hub's sheet of an image folder takes the folder's name.
            None if is_metadata => folder.to_owned(),
            // `test/0.tar` takes its folder's name, `photos/cats.tar` its own.
            None => stem_of_shards(&first).map_or_else(|| folder.to_owned(), |stem| folder.join(stem)),
        };
        let is_named_file = format == ShardFormat::Parquet && named.is_none() && place != folder;
        let split = named.map(|named| named.split);
        let warnings = missing_shards(&files).into_iter().collect();
        Ok(Shards { format, files, split, place, warnings, is_named_file, chosen_of: Vec::new() })
    }

    /// Returns the shards directly in `folder` or in its folder `data`.
    fn of_folder(folder: &Path, asked: Option<&str>) -> anyhow::Result<Option<Shards>> {
        let listed = listed(folder)?;
        let Some(&(format, ref first)) = listed.first() else {
            let splits = splits_with_shards(folder);
            if splits.is_empty() {
                return Ok(None);
            }
            let taken = take_split(&splits, asked)?;
            let found = Self::of_folder(&folder.join(taken.split), None)?;
            return Ok(found.map(|shards| Shards { chosen_of: taken.chosen_of, ..shards }));
        };
        if format == ShardFormat::Webdataset && !webdataset::is_webdataset(first)? {
            return Ok(None);
        }
        let mut by_split: BTreeMap<Option<NamedSplit>, Vec<PathBuf>> = BTreeMap::new();
        for (_, file) in listed {
            by_split.entry(split_of(&file)).or_default().push(file);
        }
        let all: Vec<String> = by_split.keys().flatten().map(|named| named.split.clone()).collect();
        // If no name has a split, the folder's does, or there is none.
        by_split.retain(|named, _| {
            asked.is_none_or(|asked| all.is_empty() || named.as_ref().is_some_and(|named| named.split == asked))
        });
        let mut chosen_of = Vec::new();
        let is_of_one_dataset = by_split.keys().all(|named| {
            named.as_ref().is_some_and(|named| by_split.keys().flatten().all(|other| other.dataset == named.dataset))
        });
        let splits: Vec<&str> = all.iter().map(String::as_str).collect();
        if let Some(taken) = default_split(&splits).filter(|_| is_of_one_dataset && by_split.len() > 1) {
            by_split.retain(|named, _| named.as_ref().is_some_and(|named| named.split == taken));
            chosen_of.clone_from(&all);
        }
        if let (true, Some((Some(last), _))) = (by_split.len() > 1, by_split.last_key_value()) {
            let say = |named: &Option<NamedSplit>| {
                named.as_ref().map_or_else(|| "files without a split".to_owned(), NamedSplit::to_string)
            };
            let held: Vec<String> = by_split.keys().map(say).collect();
            // For several datasets with one split, only file names can specify which is meant.
            let mend = if by_split.keys().flatten().all(|named| named.dataset == last.dataset) {
                format!("name one, as in --split {}", by_split.keys().flatten().next().unwrap_or(last).split)
            } else {
                "name the files of one, as in NAME-{000..001}.tar".to_owned()
            };
            bail!("it holds the splits {}; hint: {mend}", held.join(", "));
        }
        let Some((named, files)) = by_split.pop_first() else {
            bail!("it has no split {}; hint: it has {}", asked.unwrap_or_default(), all.join(", "));
        };
        let place = named.as_ref().map_or_else(|| folder.to_owned(), |named| named.place(folder));
        let split = named.map(|named| named.split);
        let warnings = missing_shards(&files).into_iter().collect();
        Ok(Some(Shards { format, files, split, place, warnings, is_named_file: false, chosen_of }))
    }
}

fn format_of(path: &Path) -> Option<ShardFormat> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "parquet" => Some(ShardFormat::Parquet),
        "tar" => Some(ShardFormat::Webdataset),
        _ => None,
    }
}

/// Lists the shards of one format in a folder or in `data` below it, sorted by name: Parquet if there is any.
fn listed(folder: &Path) -> anyhow::Result<Vec<(ShardFormat, PathBuf)>> {
    for folder in [folder.to_owned(), folder.join("data")] {
        if !folder.is_dir() {
            continue;
        }
        let named = || format!("failed to list the folder `{}`", folder.display());
        let mut found: Vec<(ShardFormat, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&folder).with_context(named)? {
            let path = entry.with_context(named)?.path();
            let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if let Some(format) = format_of(&path).filter(|_| !is_hidden && path.is_file()) {
                found.push((format, path));
            }
        }
        let wanted = if found.iter().any(|(format, _)| *format == ShardFormat::Parquet) {
            ShardFormat::Parquet
        } else {
            ShardFormat::Webdataset
        };
        found.retain(|(format, _)| *format == wanted);
        found.sort_by(|(_, a), (_, b)| a.cmp(b));
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// One of several splits.
#[derive(Debug)]
pub(in crate::dataset) struct TakenSplit<'s> {
    pub(in crate::dataset) split: &'s str,
    /// All splits, if the user did not choose among several.
    pub(in crate::dataset) chosen_of: Vec<String>,
}

/// Returns the split `asked` of `splits`, or otherwise the default one.
///
/// # Errors
/// There is no such split, or none of several is known to be held out.
pub(in crate::dataset) fn take_split<'s>(splits: &[&'s str], asked: Option<&str>) -> anyhow::Result<TakenSplit<'s>> {
    let held = splits.join(", ");
    if let Some(asked) = asked {
        let found = splits.iter().copied().find(|split| *split == asked);
        let split = found.with_context(|| format!("it has no split {asked}; hint: it has {held}"))?;
        return Ok(TakenSplit { split, chosen_of: Vec::new() });
    }
    let split = default_split(splits).with_context(|| {
        let first = splits.first().copied().unwrap_or("test");
        format!(
            "it holds the splits {held}, but none of them is known to be held out; hint: name one, as in --split \
             {first}"
        )
    })?;
    let chosen_of = if splits.len() > 1 { splits.iter().map(|&split| split.to_owned()).collect() } else { Vec::new() };
    Ok(TakenSplit { split, chosen_of })
}

/// Returns the folders in `folder` that are named as splits and contain shards.
fn splits_with_shards(folder: &Path) -> Vec<&'static str> {
    let has_shards = |split: &&str| listed(&folder.join(split)).is_ok_and(|listed| !listed.is_empty());
    SPLITS.into_iter().filter(has_shards).collect()
}

/// Splits `cifar10/test` into (`cifar10`, `test`).
fn split_below(path: &Path) -> Option<(&Path, &str)> {
    let split = path.file_name()?.to_str().filter(|name| SPLITS.contains(name))?;
    Some((path.parent()?, split))
}

/// The split and dataset in a shard's name: `cifar10-test-000000.tar` is of `test` of `cifar10`,
/// `test-00000-of-00002.parquet` of `test`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct NamedSplit {
    dataset: Option<String>,
    split: String,
}

impl NamedSplit {
    /// Returns the path as if dataset and split were folders. A folder `data` is the hub's convention and names
    /// nothing.
    fn place(&self, folder: &Path) -> PathBuf {
        let is_named = |folder: &Path, name: &str| folder.file_name().is_some_and(|last| last == name);
        let folder = if is_named(folder, "data") { folder.parent().unwrap_or(folder) } else { folder };
        match &self.dataset {
            Some(dataset) => folder.join(dataset).join(&self.split),
            None if is_named(folder, &self.split) => folder.to_owned(),
            None => folder.join(&self.split),
        }
    }
}

impl std::fmt::Display for NamedSplit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.dataset {
            Some(dataset) => write!(formatter, "{} of {dataset}", self.split),
            None => formatter.write_str(&self.split),
        }
    }
}

/// Returns the name without its trailing number: `photos-000000.tar` → `photos`, `cifar10.parquet` → `cifar10`; `None`
/// if it is a number.
fn stem_of_shards(file: &Path) -> Option<String> {
    let stem = file.file_stem()?.to_str()?;
    let start = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    let name = if start.ends_with(['-', '_', '.']) { start.trim_end_matches(['-', '_', '.']) } else { stem };
    (!start.is_empty() && !name.is_empty()).then(|| name.to_owned())
}

/// `test-00000-of-00002` → (`test`, 2).
fn numbered(stem: &str) -> Option<(&str, usize)> {
    let (start, rest) = stem.rsplit_once("-of-")?;
    let (prefix, number) = start.rsplit_once('-')?;
    // Older files have a hash after the number.
    let n_shards = rest.split('-').next()?.parse().ok()?;
    (number.parse::<usize>().is_ok() && !prefix.is_empty()).then_some((prefix, n_shards))
}

/// Returns everything before `-00000-of-00002`, or a first or last word that is a split.
fn split_of(file: &Path) -> Option<NamedSplit> {
    let stem = file.file_stem()?.to_str()?;
    if let Some((split, _)) = numbered(stem) {
        return Some(NamedSplit { dataset: None, split: split.to_owned() });
    }
    let is_separator = |c: char| matches!(c, '-' | '_' | '.');
    let name = stem.trim_end_matches(|c: char| c.is_ascii_digit() || is_separator(c));
    let first = name.split(is_separator).next().filter(|first| SPLITS.contains(first));
    if let Some(first) = first {
        return Some(NamedSplit { dataset: None, split: first.to_owned() });
    }
    let (dataset, last) = name.rsplit_once(is_separator)?;
    SPLITS.contains(&last).then(|| NamedSplit { dataset: Some(dataset.to_owned()), split: last.to_owned() })
}

/// Returns the split in a file's name.
pub(in crate::dataset) fn split_in_name(file: &Path) -> Option<String> {
    split_of(file).map(|named| named.split)
}

fn missing_shards(files: &[PathBuf]) -> Option<String> {
    let stem = files.first()?.file_stem()?.to_str()?;
    let (split, n_shards) = numbered(stem)?;
    (files.len() != n_shards).then(|| format!("{} of the {n_shards} shards of `{split}` are here", files.len()))
}

/// Expands `photos-{000000..000003}.tar` to its four files; `None` without such braces in the file's name.
fn expand(path: &Path) -> Option<Vec<PathBuf>> {
    /// More shards are a mistake.
    const N_SHARDS_MAX: usize = 1_000_000;
    let name = path.file_name()?.to_str()?;
    let (head, rest) = name.split_once('{')?;
    let (range, tail) = rest.split_once('}')?;
    let (first, last) = range.split_once("..")?;
    let (from, to): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    if from > to || to - from >= N_SHARDS_MAX {
        return None;
    }
    let width = first.len();
    Some((from..=to).map(|number| path.with_file_name(format!("{head}{number:0width$}{tail}"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shards_say_their_split() {
        for (file, found) in [
            ("test-00000-of-00002.parquet", Some("test")),
            ("validation-00000-of-00001-0a1b2c3d.parquet", Some("validation")),
            ("train_sd_1-00000-of-00001.parquet", Some("train_sd_1")),
            ("test.parquet", Some("test")),
            ("imagenet1k-validation-07.tar", Some("validation of imagenet1k")),
            ("train_0.tar", Some("train")),
            ("0000.parquet", None),
            ("my_test_data.parquet", None),
            ("latest.parquet", None),
        ] {
            assert_eq!(split_of(Path::new(file)).map(|named| named.to_string()).as_deref(), found, "{file}");
        }
    }

    #[test]
    fn a_split_in_shards_is_placed_as_if_it_were_a_folder() {
        let place = |file: &str| split_of(Path::new(file)).unwrap().place(Path::new(file).parent().unwrap());
        assert_eq!(place("/x/cifar10/data/test-00000-of-00001.parquet"), Path::new("/x/cifar10/test"));
        assert_eq!(place("/x/plain_text/test/test.parquet"), Path::new("/x/plain_text/test"));
        assert_eq!(place("/x/cifar10-test-000000.tar"), Path::new("/x/cifar10/test"));
        let stem = |file: &str| stem_of_shards(Path::new(file));
        assert_eq!(stem("/x/photos-000000.tar").as_deref(), Some("photos"));
        assert_eq!(stem("/x/cifar10.parquet").as_deref(), Some("cifar10"));
        assert_eq!(stem("/x/0.tar"), None);
    }

    #[test]
    fn the_held_out_split_is_taken_where_nobody_names_one() {
        let taken =
            |splits: &[&str]| take_split(splits, None).map(|taken| (taken.split.to_owned(), taken.chosen_of.len()));
        for (splits, split) in [
            (&["train", "test"][..], "test"),
            (&["train", "val", "validation"], "validation"),
            (&["dev", "train"], "dev"),
            (&["train", "evaluation", "valid"], "evaluation"),
        ] {
            assert_eq!(taken(splits).unwrap(), (split.to_owned(), splits.len()), "{splits:?}");
        }
        assert_eq!(taken(&["train"]).unwrap(), ("train".to_owned(), 0));
        assert!(taken(&["train", "extra"]).unwrap_err().to_string().contains("train, extra"));
        let asked = |split| take_split(&["train", "test"], Some(split)).map(|taken| taken.split.to_owned());
        assert_eq!(asked("train").unwrap(), "train");
        assert!(asked("val").unwrap_err().to_string().contains("it has no split val; hint: it has train, test"));
    }

    #[test]
    fn braces_of_numbers_keep_their_width() {
        let files = expand(Path::new("/x/a-{008..010}.tar")).unwrap();
        assert_eq!(files, ["/x/a-008.tar", "/x/a-009.tar", "/x/a-010.tar"].map(PathBuf::from));
        for name in ["a.tar", "a-{1,2}.tar", "a-{3..1}.tar", "a-{0..99999999}.tar", "a-{x..y}.tar"] {
            assert_eq!(expand(Path::new(name)), None, "{name}");
        }
    }
}
