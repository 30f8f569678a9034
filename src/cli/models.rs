//! `emt models`: what is supported, and how each part was verified.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::results::Format;
use crate::model::families::FAMILIES;
use crate::model::text::template::BUILT_IN;
use crate::model::vision::encoders::ENCODERS;

/// `emt models`.
#[derive(Args, Debug)]
pub(super) struct ModelsArgs {
    /// Format of the result on standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A comparator, or a server.
struct Row {
    name: &'static str,
    /// One line for lists.
    about: &'static str,
    /// Against what it was verified.
    verified: &'static str,
}

/// What a model can be compared with, by the names of `summary.json`.
const COMPARATORS: &[Row] = &[
    Row {
        name: "zero_shot",
        about: "the label whose caption is nearest to the image, by an encoder with a text side",
        verified: "transformers 5.23: labels, cosines and runners-up of a small trained CLIP on whole test sets",
    },
    Row {
        name: "probe",
        about: "nearest class mean, nearest neighbours or logistic regression on the model's own tower, from a few \
                training images per class; needs no text side",
        verified: "scikit-learn: predictions and coefficients on the same features; transformers: the features",
    },
];

/// What was asked behind `--model http://…/v1`; any server with OpenAI's chat interface may be.
const SERVERS: &[Row] = &[
    Row {
        name: "vllm",
        about: "vLLM, several adapters by name; labels scored by prompt_logprobs",
        verified: "vLLM 0.12 on a CPU: 1,000 of 1,000 answers on four datasets and 200 of 200 choices among labels equal those of the \
                   same checkpoint here",
    },
    Row {
        name: "llama-server",
        about: "llama.cpp's own server",
        verified: "replies recorded from a real one: chats with images, errors, log-probabilities, grammar",
    },
    Row {
        name: "llama-cpp-python",
        about: "the server of llama-cpp-python",
        verified: "replies recorded from version 0.3.36, whose replies differ much from others",
    },
    Row {
        name: "litellm",
        about: "LiteLLM as a gateway in front of another server",
        verified: "replies recorded from version 1.106, in front of vLLM and in front of a provider of its own",
    },
];

/// What lists say of one thing: a heading, what it is, and named lines.
struct Entry {
    name: &'static str,
    about: &'static str,
    lines: Vec<(&'static str, &'static str)>,
}

/// All that is listed, by section.
fn sections() -> [(&'static str, Vec<Entry>); 5] {
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
    let rows = |rows: &'static [Row]| {
        let entry = |row: &Row| Entry { name: row.name, about: row.about, lines: vec![("verified", row.verified)] };
        rows.iter().map(entry).collect()
    };
    let templates =
        BUILT_IN.iter().map(|template| Entry { name: template.name, about: template.about, lines: Vec::new() });
    [
        ("models", models.collect()),
        ("encoders", encoders.collect()),
        ("servers", rows(SERVERS)),
        ("comparators", rows(COMPARATORS)),
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
        ("servers", "--model http://HOST/v1 --served-model NAME"),
        ("comparators", "--comparator; what a model is compared with"),
        ("templates", "--template; default: the checkpoint's own"),
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
mod tests;
