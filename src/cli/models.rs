//! `emt models`: what is read and asked, and what was verified how.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::results::Format;
use crate::model::encoders::ENCODERS;
use crate::model::mllm::FAMILIES;
use crate::model::template::BUILT_IN;

/// `emt models`.
#[derive(Args, Debug)]
pub(super) struct ModelsArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What a model can be compared with.
struct Comparator {
    /// As `summary.json` has it.
    name: &'static str,
    /// One line for lists.
    about: &'static str,
    /// Against what it was verified.
    verified: &'static str,
}

/// All comparators.
const COMPARATORS: &[Comparator] = &[Comparator {
    name: "zero_shot",
    about: "the label whose caption is nearest to the image, by an encoder with a text side",
    verified: "transformers 5.23: labels, cosines and runners-up of a small trained CLIP on whole test sets",
}];

/// What lists say of one thing: a heading, what it is, and named lines.
struct Entry {
    name: &'static str,
    about: &'static str,
    lines: Vec<(&'static str, &'static str)>,
}

/// All that is listed, by section.
fn sections() -> [(&'static str, Vec<Entry>); 4] {
    let models = FAMILIES.iter().map(|family| {
        let verified = &family.verified;
        let adapter = verified.adapter.map(|text| ("adapter", text));
        let lines = [("local", verified.local)].into_iter().chain(adapter).chain([("comparator", verified.comparator)]);
        Entry { name: family.name, about: family.about, lines: lines.collect() }
    });
    let encoders = ENCODERS.iter().map(|family| Entry {
        name: family.name,
        about: family.about,
        lines: vec![("verified", family.verified)],
    });
    let comparators = COMPARATORS.iter().map(|row| Entry {
        name: row.name,
        about: row.about,
        lines: vec![("verified", row.verified)],
    });
    let templates =
        BUILT_IN.iter().map(|template| Entry { name: template.name, about: template.about, lines: Vec::new() });
    [
        ("models", models.collect()),
        ("encoders", encoders.collect()),
        ("comparators", comparators.collect()),
        ("templates", templates.collect()),
    ]
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &ModelsArgs, out: &mut dyn Write) -> Result<u8> {
    let sections = sections();
    match args.format {
        Format::Table => out.write_all(table(&sections).as_bytes())?,
        Format::Json => {
            let mut document = serde_json::Map::from_iter([("schema".to_owned(), Value::from("emt.models/1"))]);
            document.extend(sections.iter().map(|(name, entries)| {
                ((*name).to_owned(), entries.iter().map(entry_json).collect::<Vec<_>>().into())
            }));
            writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?;
        }
    }
    Ok(super::exit_code::OK)
}

fn entry_json(entry: &Entry) -> Value {
    let mut fields = json!({"name": entry.name, "about": entry.about});
    entry.lines.iter().for_each(|(key, text)| fields[*key] = (*text).into());
    fields
}

fn table(sections: &[(&str, Vec<Entry>)]) -> String {
    let headings = [
        ("models", "--model, --adapter; what each part was verified against"),
        ("encoders", "--encoder"),
        ("comparators", "what stands beside a model"),
        ("templates", "--template; else the checkpoint's own"),
    ];
    let mut text = String::new();
    for ((section, entries), (_, heading)) in sections.iter().zip(headings) {
        text.push_str(&format!("{section} ({heading})\n"));
        let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
        for Entry { name, about, lines } in entries {
            text.push_str(&format!("  {name:<width$}  {about}\n"));
            for (key, line) in lines {
                text.push_str(&format!("  {:<width$}    {key}: {line}\n", ""));
            }
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everything_that_is_listed_has_a_name_of_its_own_and_says_what_it_was_verified_against() {
        for (section, entries) in sections() {
            assert!(!entries.is_empty(), "{section}");
            let names: BTreeSet<&str> = entries.iter().map(|entry| entry.name).collect();
            assert_eq!(names.len(), entries.len(), "{section}: names are unique");
            let first_lines: BTreeSet<_> = entries.iter().map(|entry| entry.lines.first()).collect();
            assert!(
                section == "templates" || first_lines.len() == entries.len(),
                "{section}: nobody else's verification"
            );
            for Entry { name, about, lines } in &entries {
                assert!(!name.is_empty() && about.len() > 10, "{section} {name}");
                assert!(section == "templates" || !lines.is_empty(), "{section} {name}");
                assert!(lines.iter().all(|(_, line)| line.len() > 10), "{section} {name}: {lines:?}");
            }
        }
    }
}
