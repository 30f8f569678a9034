//! Removes what surrounds an answer: end tokens, markup, JSON, LaTeX.

use serde_json::Value;

/// Special tokens of tokenizers in angle or square brackets without bars.
#[rustfmt::skip]
const SPECIAL_TOKENS: &[&str] = &[
    "</s>", "<s>", "<eos>", "<bos>", "<pad>", "<unk>", "<sep>", "<cls>", "<eot>", "<eom>", "<eod>", "<eop>", "<eoa>",
    "<eot_id>", "<eom_id>", "<endoftext>", "<im_end>", "<im_start>", "<end>", "<stop>", "<end_of_text>", "<eos_token>",
    "<end_of_turn>", "<start_of_turn>", "<end_of_utterance>", "<turn|>", "<|turn>", "[/inst]", "[inst]", "<<sys>>",
    "<</sys>>", "[eos]", "[bos]", "[pad]", "[unk]", "[sep]", "[cls]", "[end]", "[eot]", "<image>", "<img>", "</img>", "<video>",
    "<fake_token_around_image>", "<global-img>", "<image_soft_token>", "<start_of_image>", "<end_of_image>", "<n>",
];

/// Prefixes of special tokens that do not end a turn.
#[rustfmt::skip]
const NO_TURN: &[&str] = &[
    "pad", "unk", "image", "img", "/img", "vision", "video", "audio", "box", "object_ref", "quad", "ref", "fake_token", "global",
    "start_of_image", "end_of_image", "end_header_id", "message", "channel", "0x", "unused", "extra", "reserved", "loc", "n>",
    "cls", "message_sep", "role_sep",
];

/// Roles that follow a special token that opens a turn.
const ROLES: &[&str] = &["assistant", "model", "user", "system", "bot", "human", "gpt", "ai"];

/// Line starts with which a model continues with another turn.
const NEXT_TURNS: &[&str] = &["user", "human", "question", "q", "instruction"];

/// JSON keys that may hold the answer, the most likely first.
#[rustfmt::skip]
const ANSWER_KEYS: &[&str] = &[
    "finalanswer", "answer", "label", "predictedlabel", "predictedclass", "prediction", "predicted", "classname", "class",
    "classification", "category", "object", "objectname", "digit", "number", "name", "choice", "selected", "result",
    "response", "output", "value", "text", "content", "item", "species", "type",
];

/// LaTeX commands that may surround words.
#[rustfmt::skip]
const LATEX_COMMANDS: &[&str] = &[
    "boxed", "fbox", "text", "textbf", "textit", "textrm", "texttt", "textsf", "emph", "mathrm", "mathbf", "mathit",
    "mathsf", "mathtt", "operatorname", "underline", "large", "displaystyle", "left", "right", "quad", "mbox",
];

/// HTML elements, and elements that prompts request around answers.
#[rustfmt::skip]
const ELEMENTS: &[&str] = &[
    "b", "i", "u", "em", "strong", "p", "br", "hr", "div", "span", "code", "pre", "ul", "ol", "li", "h1", "h2", "h3", "h4",
    "html", "body", "table", "tr", "td", "th", "sub", "sup", "mark", "small", "answer", "final_answer", "output",
    "response", "result",
];

/// The most brackets of an answer at which JSON is tried.
const N_JSON_TRIES_MAX: usize = 16;

/// Returns the answer without what a tokenizer, a chat template or a markup language puts around it. `is_number` says
/// that numbers in JSON are answers.
pub fn plain(answer: &str, is_number: bool) -> String {
    if !answer.contains(['<', '[', '{', '\\', '~', '#', '`', ':']) {
        return answer.to_owned();
    }
    let text = until_next_turn(&without_special_tokens(answer));
    let text = without_boxes(&text);
    let text = marked_answer(&text).unwrap_or(text);
    let text = without_json(&without_fences(&text), is_number);
    let text = without_links(&text);
    let text = without_struck_out(&text);
    without_tags(&without_latex(&text))
}

fn has_content(text: &str) -> bool {
    text.contains(char::is_alphanumeric)
}

/// Returns the length in bytes of the special token at the start of `text`, and its lower-case name.
fn special_token(text: &str) -> Option<(usize, String)> {
    for (open, close) in [("<|", "|>"), ("<\u{ff5c}", "\u{ff5c}>"), ("[|", "|]")] {
        let Some(rest) = text.strip_prefix(open) else { continue };
        let end = rest.find(close).filter(|&end| end <= 60 && !rest[..end].contains(['<', '\n']));
        if let Some(end) = end {
            return Some((open.len() + end + close.len(), rest[..end].to_lowercase()));
        }
    }
    let is_bracket = text.starts_with(['<', '[']);
    let start: String = text.chars().take(32).collect::<String>().to_ascii_lowercase();
    let known = SPECIAL_TOKENS.iter().find(|token| is_bracket && start.starts_with(**token));
    if let Some(token) = known {
        return Some((token.len(), token[1..].trim_start_matches('<').to_owned()));
    }
    let name = start.strip_prefix('<')?;
    let name = &name[..name.find('>')?];
    let is_byte = name.strip_prefix("0x").is_some_and(|hex| hex.len() == 2);
    let is_numbered = ["unused", "extra_id_", "loc", "reserved_", "row_"]
        .iter()
        .any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())));
    (is_byte || is_numbered).then(|| (name.len() + 2, name.to_owned()))
}

/// Removes special tokens. Once there is content, a token that ends a turn also cuts everything after it.
fn without_special_tokens(answer: &str) -> String {
    let mut kept = String::with_capacity(answer.len());
    let mut at = 0;
    while let Some(c) = answer[at..].chars().next() {
        let Some((length, name)) = special_token(&answer[at..]) else {
            let is_cut_short = ["<|", "</"].iter().any(|start| answer[at..].starts_with(start))
                && !answer[at..].contains(['>', ' ', '\n'])
                && has_content(&kept);
            if is_cut_short {
                break;
            }
            kept.push(c);
            at += c.len_utf8();
            continue;
        };
        let ends_turn = !NO_TURN.iter().any(|start| name.starts_with(start)) && !name.starts_with("row_");
        if ends_turn && has_content(&kept) {
            break;
        }
        if name.starts_with("box_start") || name.starts_with("quad_start") {
            let rest = &answer[at..];
            at += rest.find("_end|>").map_or(length, |end| end + "_end|>".len());
        } else {
            at += length;
        }
        kept.push('\n');
        if ends_turn {
            let rest = answer[at..].to_ascii_lowercase();
            let role = ROLES
                .iter()
                .find(|role| rest.strip_prefix(**role).is_some_and(|after| after.starts_with(['\n', '<', ':'])));
            at += role.map_or(0, |role| role.len());
        }
    }
    kept
}

/// Cuts where the model continues as another speaker: `### Human:`, a line `Question: …`, or a lone `###` at the end.
fn until_next_turn(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for (index, line) in text.split('\n').enumerate() {
        let is_next = |line: &str| {
            let line = line.trim().trim_start_matches('*').to_ascii_lowercase();
            NEXT_TURNS.iter().any(|turn| {
                line.strip_prefix(turn).is_some_and(|rest| rest.trim_start_matches('*').trim_start().starts_with(':'))
            })
        };
        if has_content(&kept) && is_next(line) {
            break;
        }
        if index > 0 {
            kept.push('\n');
        }
        let turn = line.match_indices("###").map(|(at, _)| at).find(|&at| {
            let rest = line[at..].trim_matches('#').trim();
            let is_role = |role: &&str| rest.to_ascii_lowercase().starts_with(*role);
            has_content(&format!("{kept}{}", &line[..at]))
                && (rest.is_empty() || ROLES.iter().chain(&["instruction"]).any(is_role))
        });
        if let Some(at) = turn {
            kept.push_str(&line[..at]);
            break;
        }
        kept.push_str(line);
    }
    let is_speaker = |start: &str| matches!(start, "assistant" | "model" | "bot" | "gpt" | "ai");
    match kept.split_once(':') {
        Some((start, rest)) if is_speaker(start.trim().to_ascii_lowercase().as_str()) => rest.to_owned(),
        _ => kept,
    }
}

/// Removes the coordinates of grounding models: `<box>(1,2),(3,4)</box>`.
fn without_boxes(text: &str) -> String {
    let mut text = text.to_owned();
    for name in ["box", "bbox", "quad", "point"] {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        while let Some(start) = text.find(&open) {
            let end = text[start..].find(&close).map_or(start + open.len(), |end| start + end + close.len());
            text.replace_range(start..end, " ");
        }
    }
    text
}

/// Returns the content of the last `<answer>…</answer>` or `\boxed{…}`.
fn marked_answer(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    for name in ["answer", "final_answer"] {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        if let Some(start) = lower.rfind(&open).map(|at| at + open.len()) {
            let inner = &text[start..lower[start..].find(&close).map_or(text.len(), |end| start + end)];
            if has_content(inner) {
                return Some(inner.to_owned());
            }
        }
    }
    let start = text.rfind("\\boxed{")? + "\\boxed{".len();
    let mut depth = 1;
    for (at, c) in text[start..].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return Some(text[start..start + at].to_owned()).filter(|inner| has_content(inner));
        }
    }
    None
}

/// Removes the fences of code blocks and their language.
fn without_fences(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for (index, piece) in text.split("```").enumerate() {
        let is_language = |end: &usize| piece[..*end].chars().all(|c| c.is_ascii_alphanumeric());
        let start = if index % 2 == 1 { piece.find('\n').filter(is_language).unwrap_or(0) } else { 0 };
        kept.push_str(if index > 0 { "\n" } else { "" });
        kept.push_str(&piece[start..]);
    }
    kept
}

/// Replaces JSON and Python dictionaries by the answer in them.
fn without_json(text: &str, is_number: bool) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    for _ in 0..N_JSON_TRIES_MAX {
        let Some(start) = rest.find(['{', '[']) else { break };
        kept.push_str(&rest[..start]);
        rest = &rest[start..];
        let found = first_value(rest).and_then(|(value, length)| Some((answer_in(&value, is_number)?, length)));
        let length = found.as_ref().map_or(1, |(_, length)| *length);
        match found {
            Some((answer, _)) => kept.push_str(&format!("\n{answer}\n")),
            None => kept.push_str(&rest[..length]),
        }
        rest = &rest[length..];
    }
    kept.push_str(rest);
    kept
}

fn first_value(text: &str) -> Option<(Value, usize)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    if let Some(Ok(value)) = values.next() {
        return Some((value, values.byte_offset()));
    }
    let close = if text.starts_with('{') { '}' } else { ']' };
    let length = text.rfind(close)? + 1;
    let is_python = text[1..].trim_start().starts_with('\'') && !text[..length].contains('"');
    let json = text[..length].replace('\'', "\"").replace("None", "null").replace("True", "true");
    let value = is_python.then(|| serde_json::from_str(&json.replace("False", "false")).ok()).flatten();
    value.map(|value| (value, length))
}

/// Returns the answer in a JSON value: the field of the most likely key, else all texts.
fn answer_in(value: &Value, is_number: bool) -> Option<String> {
    let answer = match value {
        Value::Object(fields) => {
            let key_of = |name: &str| name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
            let of_key = |key: &&str| {
                let field = fields.iter().find(|(name, _)| key_of(name) == **key);
                field.and_then(|(_, value)| answer_in(value, is_number))
            };
            ANSWER_KEYS.iter().find_map(of_key).or_else(|| joined(fields.values(), is_number))
        }
        Value::Array(items) => joined(items.iter(), is_number),
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if is_number => Some(number.to_string()),
        Value::Number(_) | Value::Bool(_) | Value::Null => None,
    };
    answer.filter(|answer| has_content(answer))
}

fn joined<'a>(values: impl Iterator<Item = &'a Value>, is_number: bool) -> Option<String> {
    let texts: Vec<String> = values.filter_map(|value| answer_in(value, is_number)).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Removes addresses, and keeps the text of a Markdown link.
fn without_links(text: &str) -> String {
    let mut text = text.to_owned();
    for scheme in ["https://", "http://"] {
        while let Some(start) = text.find(scheme) {
            let end = text[start..].find(|c: char| c.is_whitespace() || matches!(c, ')' | ']' | '"' | '>'));
            text.replace_range(start..end.map_or(text.len(), |end| start + end), "");
        }
    }
    text
}

/// Removes `~~struck-out text~~` if something else is left.
fn without_struck_out(text: &str) -> String {
    let pieces: Vec<&str> = text.split("~~").collect();
    let kept: String = pieces.iter().step_by(2).copied().collect::<Vec<_>>().join(" ");
    if pieces.len() >= 3 && pieces.len() % 2 == 1 && has_content(&kept) { kept } else { text.to_owned() }
}

fn without_latex(text: &str) -> String {
    let mut pieces = text.split('\\');
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let n_letters = piece.chars().take_while(char::is_ascii_alphabetic).count();
        let is_command = LATEX_COMMANDS.contains(&&piece[..n_letters]);
        kept.push(' ');
        kept.push_str(if is_command { &piece[n_letters..] } else { piece });
    }
    kept
}

/// Removes tags: known elements, and any pair `<x>…</x>`.
fn without_tags(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        kept.push_str(&rest[..start]);
        rest = &rest[start..];
        let tag = rest.find('>').map(|end| &rest[..=end]).filter(|tag| tag.len() <= 80);
        let Some(tag) = tag.filter(|tag| is_tag(tag, text)) else {
            kept.push('<');
            rest = &rest[1..];
            continue;
        };
        let inline = ["b", "i", "u", "em", "strong", "span", "code", "mark", "small", "sub", "sup"];
        kept.push(if inline.contains(&tag_name(tag).as_str()) { ' ' } else { '\n' });
        rest = &rest[tag.len()..];
    }
    kept.push_str(rest);
    kept
}

fn tag_name(tag: &str) -> String {
    let inner = tag.trim_matches(['<', '>', '/']);
    inner.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ':')).collect::<String>().to_lowercase()
}

fn is_tag(tag: &str, text: &str) -> bool {
    let name = tag_name(tag);
    let is_pair = || {
        let lower = text.to_lowercase();
        lower.contains(&format!("<{name}")) && lower.contains(&format!("</{name}>"))
    };
    !name.is_empty() && (ELEMENTS.contains(&name.as_str()) || tag.starts_with("</") || is_pair())
}

#[cfg(test)]
mod tests;
