//! The rules of the house, held by reading the source. `src/ARCHITECTURE.md` says what they are for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::root;

/// The modules in the prescribed order: each uses only those before it.
const HOUSE: [&str; 21] = [
    "domain",
    "stats",
    "taxonomy",
    "compare",
    "gate",
    "pickle",
    "assets",
    "api",
    "dataset",
    "prompting",
    "model",
    "judging",
    "record",
    "eval",
    "finetune",
    "diagnose",
    "study",
    "chart",
    "report",
    "manual",
    "cli",
];

/// Modules that see no tensors, files, clocks, sockets or ambient randomness.
const PURE: [&str; 6] = ["domain", "stats", "taxonomy", "compare", "gate", "pickle"];

/// Where the lint against file access may be lifted: the modules that own disk formats or the network.
const TOUCHES_THE_WORLD: [&str; 7] =
    ["src/build.rs", "src/api/", "src/dataset/", "src/prompting/", "src/model/checkpoint/", "src/record/", "src/cli/"];

/// The visible top level; nothing else lies there.
const TOP_LEVEL: [&str; 10] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "datasets.toml",
    "prompts",
    "reports",
    "src",
    "tests",
];

/// The hidden top level.
const TOP_LEVEL_HIDDEN: [&str; 5] = [".ci", ".clippy.toml", ".gitattributes", ".gitignore", ".rustfmt.toml"];

const N_LINES_MAX: usize = 600;

/// Longer files whose parts are all alike, such as a table.
const HOMOGENEOUS: [&str; 0] = [];

/// A source file: its path from the root with `/`, and its lines.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The top-level module that the file belongs to; `None` for `lib.rs`, `main.rs` and `build.rs`.
    fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let name = below.split('/').next().unwrap_or(below);
        let name = name.strip_suffix(".rs").unwrap_or(name);
        (!["lib", "main", "build"].contains(&name)).then_some(name)
    }

    /// The code without line comments and without a test module at the end, as (line number, line).
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let end = (0..lines.len()).find(|&index| is_test_module(&lines[index..])).unwrap_or(lines.len());
        let code: Vec<(usize, &str)> =
            (1..).zip(lines).take(end).map(|(number, line)| (number, without_comment(line))).collect();
        code.into_iter()
    }
}

/// Whether the lines begin an inline test module, which stands at the end of its file.
fn is_test_module(lines: &[&str]) -> bool {
    lines.first() == Some(&"#[cfg(test)]")
        && lines[1..]
            .iter()
            .find(|line| !line.starts_with("#["))
            .is_some_and(|line| line.starts_with("mod ") && line.trim_end().ends_with('{'))
}

fn without_comment(line: &str) -> &str {
    // An address in a string also holds two slashes, but no code follows it that any rule speaks of.
    line.find("//").map_or(line, |start| &line[..start])
}

/// Whether `word` stands in `line` on its own, and not as a part of another name.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(start, _)| {
        !is_part(line[..start].chars().next_back()) && !is_part(line[start + word.len()..].chars().next())
    })
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    rust_files(&root().join(folder), &mut paths);
    assert!(!paths.is_empty());
    let read = |path: PathBuf| {
        let below = path.strip_prefix(root()).unwrap();
        let parts: Vec<_> = below.components().map(|part| part.as_os_str().to_str().unwrap()).collect();
        Source { path: parts.join("/"), text: std::fs::read_to_string(&path).unwrap() }
    };
    paths.into_iter().map(read).collect()
}

/// The files of `src` that are part of the program: those that only tests compile are left out.
fn program() -> Vec<Source> {
    let sources = sources("src");
    let mut only_tests: Vec<String> = Vec::new();
    for source in &sources {
        let lines: Vec<&str> = source.text.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            // `mod name;`, perhaps visible to the crate.
            let declared = pair[1].split_once("mod ").and_then(|(_, rest)| rest.strip_suffix(';'));
            let Some(name) = declared else { continue };
            let folder = match source.path.rsplit_once('/') {
                Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_owned(),
                _ => source.path.trim_end_matches(".rs").to_owned(),
            };
            only_tests.push(format!("{folder}/{name}.rs"));
            only_tests.push(format!("{folder}/{name}/"));
        }
    }
    let is_program = |source: &Source| !only_tests.iter().any(|prefix| source.path.starts_with(prefix.as_str()));
    sources.into_iter().filter(is_program).collect()
}

/// The modules that `lib.rs` lists, in its order.
fn listed() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")));
    lines.filter_map(|rest| rest.strip_suffix(';')).map(str::to_owned).collect()
}

/// Fails with all offences at once.
fn check(rule: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

/// Every place in the program where `is_offence` says so.
fn places(is_offence: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in program() {
        for (number, line) in source.code().filter(|(_, line)| is_offence(&source, line)) {
            found.push(format!("{}:{number}: {}", source.path, line.trim()));
        }
    }
    found
}

/// The modules of this crate that `code` names: `crate::x`, and each of `crate::{x, y}`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut used = BTreeSet::new();
    for (start, _) in code.match_indices("crate::") {
        if code[..start].chars().next_back().is_some_and(is_name) {
            continue;
        }
        let rest = &code[start + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(rest.chars().take_while(|&c| is_name(c)).collect());
            continue;
        };
        let mut depth = 0usize;
        let mut name = String::new();
        let mut is_in_name = true;
        for character in group.chars() {
            match character {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    used.insert(std::mem::take(&mut name));
                    is_in_name = true;
                }
                character if depth == 0 && is_in_name && is_name(character) => name.push(character),
                character if depth == 0 && !character.is_whitespace() => is_in_name = false,
                _ => {}
            }
        }
        used.insert(name);
    }
    used.remove("");
    used
}

#[test]
fn modules_stand_in_the_prescribed_order() {
    let listed = listed();
    let known: Vec<&str> = HOUSE.into_iter().filter(|name| listed.iter().any(|listed| listed == name)).collect();
    assert_eq!(listed, known, "`src/lib.rs` lists modules of the house, in its order");
}

#[test]
fn a_module_uses_only_modules_above_it() {
    let listed = listed();
    let place = |name: &str| listed.iter().position(|listed| listed == name);
    let mut offences = Vec::new();
    for source in program() {
        let Some(module) = source.module() else { continue };
        let own = place(module).unwrap_or_else(|| panic!("`{module}` is not in `src/lib.rs`"));
        let code: String = source.code().map(|(_, line)| format!("{line}\n")).collect();
        for used in used_modules(&code) {
            match place(&used) {
                Some(used_place) if used_place <= own => {}
                Some(_) => offences.push(format!("{}: `{module}` uses `{used}`, which is below it", source.path)),
                None => offences.push(format!("{}: `crate::{used}` is no module of the house", source.path)),
            }
        }
        // From the root of a module, `super` is the crate by another name.
        let is_root = source.path == format!("src/{module}/mod.rs") || source.path == format!("src/{module}.rs");
        if is_root && code.lines().any(|line| line.starts_with("use super::") || line.starts_with("pub use super::")) {
            offences.push(format!("{}: say `crate::` instead of `super::`", source.path));
        }
    }
    check("a module uses only modules above it", offences);
}

#[test]
fn the_pure_heart_sees_no_files_clocks_sockets_tensors_or_chance() {
    let impure = [
        "std::fs",
        "std::io",
        "std::net",
        "std::env",
        "std::process",
        "std::time",
        "std::thread",
        "Instant",
        "SystemTime",
        "fastrand",
        "rand",
        "getrandom",
        "tokio",
        "reqwest",
        "candle_core",
        "candle_nn",
        "safetensors",
        "memmap2",
        "rayon",
    ];
    let offences = places(|source, line| {
        source.module().is_some_and(|module| PURE.contains(&module)) && impure.iter().any(|word| has_word(line, word))
    });
    check("domain, stats, taxonomy, compare, gate and pickle are pure", offences);
}

#[test]
fn tensors_live_only_where_models_do() {
    let offences = places(|source, line| {
        !["model", "finetune", "diagnose"].contains(&source.module().unwrap_or_default())
            && ["candle_core", "candle_nn", "candle_transformers"].iter().any(|word| has_word(line, word))
    });
    check("candle only in model, finetune and diagnose", offences);
}

#[test]
fn families_do_not_know_of_kernels() {
    let is_inside = |path: &str| {
        ["src/model/mod.rs", "src/model/kernels", "src/model/layers"].iter().any(|prefix| path.starts_with(prefix))
    };
    let offences = places(|source, line| {
        source.module() == Some("model") && !is_inside(&source.path) && has_word(line, "kernels")
    });
    check("whether a layer runs fused is decided in model/layers", offences);
}

#[test]
fn the_runtime_lives_only_in_api() {
    let offences = places(|source, line| {
        source.module() != Some("api")
            && (["tokio", "reqwest"].iter().any(|word| has_word(line, word)) || has_word(line, "async fn"))
    });
    check("tokio only in api", offences);
}

#[test]
fn nothing_prints_outside_cli() {
    let macros = ["println!", "eprintln!", "print!", "eprint!", "dbg!", "io::stdout", "io::stderr"];
    let offences = places(|source, line| {
        source.module().is_some_and(|module| module != "cli")
            && macros.iter().any(|name| has_word(line, name.trim_end_matches('!')) && line.contains(name))
    });
    check("nothing prints outside cli", offences);
}

#[test]
fn the_lint_against_file_access_is_lifted_only_by_owners_of_formats() {
    let offences = places(|source, line| {
        // What holds for test builds alone does not lift it for the program.
        line.contains("clippy::disallowed_methods")
            && !line.starts_with("#![cfg_attr(test,")
            && !TOUCHES_THE_WORLD.iter().any(|prefix| source.path.starts_with(prefix))
    });
    check("only api, dataset, prompting, model/checkpoint, record and cli touch the world", offences);
}

#[test]
fn unsafe_code_lives_only_in_the_kernels_and_the_memory_map() {
    // With what follows the keyword, since the word also stands in strings. In pieces, since this file is searched as well.
    let forms = [" {", " fn", " impl", " trait", " extern"].map(|rest| format!("{}{rest}", concat!("un", "safe")));
    let is_home =
        |path: &str| path.starts_with("src/model/kernels/") || path == "src/model/checkpoint/weights/mapped.rs";
    let mut offences = Vec::new();
    for source in sources("src").into_iter().chain(sources("tests")).filter(|source| !is_home(&source.path)) {
        for (number, line) in (1..).zip(source.text.lines().map(without_comment)) {
            let is_lifted =
                line.contains(concat!("(un", "safe_code, ")) || line.contains(concat!("(un", "safe_code)]"));
            if is_lifted || forms.iter().any(|form| line.contains(form)) {
                offences.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    check("unsafe only in model/kernels and model/checkpoint/weights/mapped.rs, tests included", offences);
}

#[test]
fn files_are_short() {
    let all = sources("src").into_iter().chain(sources("tests"));
    let offences = all
        .map(|source| (source.text.lines().count(), source.path))
        .filter(|(n_lines, path)| *n_lines > N_LINES_MAX && !HOMOGENEOUS.contains(&path.as_str()))
        .map(|(n_lines, path)| format!("{path}: {n_lines} lines"))
        .collect();
    check("a file has at most 600 lines; split it by theme", offences);
}

#[test]
fn every_file_says_what_lives_there() {
    let offences = program()
        .into_iter()
        .filter(|source| source.path != "src/lib.rs" && !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    check("every file of the program begins with `//!`", offences);
}

#[test]
fn the_source_folder_holds_only_listed_modules() {
    let listed = listed();
    let mut offences = Vec::new();
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let is_listed = listed.iter().any(|module| *module == name || format!("{module}.rs") == name);
        if !is_listed && !["lib.rs", "main.rs", "build.rs", "ARCHITECTURE.md"].contains(&name.as_str()) {
            offences.push(format!("src/{name}"));
        }
    }
    check("src holds lib.rs, main.rs, build.rs, ARCHITECTURE.md and the modules that lib.rs lists", offences);
}

#[test]
fn the_guide_lists_every_module() {
    let guide = std::fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let missing = listed().into_iter().filter(|module| !guide.contains(&format!("| `{module}` |"))).collect();
    check("the code map of src/ARCHITECTURE.md has a row for every module", missing);
}

#[test]
fn the_guide_names_only_files_that_exist() {
    let guide = std::fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let spans = guide.split('`').skip(1).step_by(2);
    let named = spans.filter(|span| span.starts_with("src/") || span.starts_with("tests/"));
    // `<format>` and `*` stand for a name, and a module that is not built yet has no files.
    let missing = named.filter(|path| !path.contains(['<', '*', ' ']) && !root().join(path).exists());
    check("paths in src/ARCHITECTURE.md exist", missing.map(str::to_owned).collect());
}

/// The files under version control, from the root with `/`; `None` outside a repository.
fn tracked() -> Option<Vec<String>> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().ok()?;
    let text = output.status.success().then_some(output.stdout).and_then(|bytes| String::from_utf8(bytes).ok())?;
    let files: Vec<String> = text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    (!files.is_empty()).then_some(files)
}

/// Says so where there is no repository to look at, such as in an unpacked archive.
pub(super) fn tracked_or_skip() -> Option<Vec<String>> {
    let tracked = tracked();
    if tracked.is_none() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped: this is no git repository");
    }
    tracked
}

#[test]
fn the_top_level_is_as_prescribed() {
    let Some(tracked) = tracked_or_skip() else { return };
    let top: BTreeSet<&str> = tracked.iter().map(|path| path.split('/').next().unwrap_or(path)).collect();
    let is_allowed = |name: &str| TOP_LEVEL.contains(&name) || TOP_LEVEL_HIDDEN.contains(&name);
    let offences = top.into_iter().filter(|name| !is_allowed(name)).map(str::to_owned).collect();
    check("nothing else lies at the top level", offences);
}

#[test]
fn no_text_names_a_path_of_somebodys_machine() {
    let Some(tracked) = tracked_or_skip() else { return };
    // In two pieces, since this file is searched as well.
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    let mut offences = Vec::new();
    for path in tracked {
        // A file that was just deleted is still tracked; what is not UTF-8 is no text.
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in (1..).zip(text.lines()) {
            // A folder of that name inside another path or an address is nobody's.
            let starts_there = |start: usize| {
                !line[..start].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "._-}$/".contains(c))
            };
            if paths.iter().any(|name| line.match_indices(name).any(|(start, _)| starts_there(start))) {
                offences.push(format!("{path}:{number}: {}", line.trim().chars().take(100).collect::<String>()));
            }
        }
    }
    check("no text names a path of somebody's machine", offences);
}

mod scanner {
    //! The rules above are only as good as these.

    use super::*;

    #[test]
    fn uses_are_found_in_every_form() {
        let used = |code: &str| used_modules(code).into_iter().collect::<Vec<_>>();
        assert_eq!(used("use crate::domain::Trial;"), ["domain"]);
        assert_eq!(used("use crate::{domain::{self, Trial}, stats};"), ["domain", "stats"]);
        assert_eq!(used("use crate::{\n    model::a,\n    api,\n};"), ["api", "model"]);
        assert_eq!(used("fn f() -> crate::cli::X { other_crate::y() }"), ["cli"]);
    }

    #[test]
    fn comments_and_test_modules_are_no_code() {
        let text = "//! Doc.\nuse a; // crate::cli\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n";
        let source = Source { path: "src/stats/mod.rs".into(), text: text.into() };
        let code: Vec<&str> = source.code().map(|(_, line)| line.trim()).collect();
        assert_eq!(code, ["", "use a;"]);
        assert_eq!(source.module(), Some("stats"));
    }

    #[test]
    fn a_word_is_not_found_inside_another() {
        assert!(has_word("use tokio::sync;", "tokio"));
        assert!(!has_word("let tokio_like = 1;", "tokio"));
        assert!(!has_word("deny(unsafe_code)", "unsafe"));
    }

    #[test]
    fn files_that_only_tests_compile_are_no_part_of_the_program() {
        let paths: Vec<String> = program().into_iter().map(|source| source.path).collect();
        assert!(paths.iter().any(|path| path == "src/record/journal.rs"));
        assert!(!paths.iter().any(|path| path == "src/record/property_tests.rs"));
    }
}
