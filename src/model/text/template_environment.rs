//! Jinja as transformers configures it for chat templates (5.24): tags, functions, filters, and the formatting of
//! values.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind};

/// The name of the only template of an environment.
pub(in crate::model) const TEMPLATE_NAME: &str = "chat";

/// The date that every template gets as today's. It is fixed because a prompt is part of a run's identity, and runs of
/// different days are compared. Templates of Llama 3 use the same date if there is no clock.
pub(in crate::model) const TODAY: &str = "26 Jul 2024";

/// The function that returns today's date.
pub(in crate::model) const CLOCK: &str = "strftime_now";

/// Builds an environment with the template `text`.
pub(in crate::model) fn environment_of(text: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(|state, value, method, arguments| match value.as_str() {
        Some(text) if ["rsplit", "removeprefix", "removesuffix"].contains(&method) => of_text(text, method, arguments),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments),
    });
    minijinja_contrib::add_to_environment(&mut environment);
    environment.set_formatter(|out, _, value| out.write_str(&written(value)).map_err(Error::from));
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function(CLOCK, |format: &str| strftime(format));
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| written(value));
    // In Python, a text is a sequence of its characters, and an object of its keys.
    environment.add_test("sequence", |value: &Value| is_iterable(value));
    environment.add_test("iterable", |value: &Value| is_iterable(value));
    environment.add_template_owned(TEMPLATE_NAME, without_generation_tags(text))?;
    Ok(environment)
}

/// Python's text methods that `pycompat` lacks.
fn of_text(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (mark, n_splits): (Option<&str>, Option<usize>) = from_args(arguments)?;
    let mark = mark.unwrap_or(" ");
    Ok(match method {
        "removeprefix" => text.strip_prefix(mark).unwrap_or(text).into(),
        "removesuffix" => text.strip_suffix(mark).unwrap_or(text).into(),
        _ => {
            let parts = text.rsplitn(n_splits.map_or(usize::MAX, |n| n.saturating_add(1)), mark);
            let mut parts: Vec<&str> = parts.collect();
            parts.reverse();
            parts.into_iter().collect()
        }
    })
}

fn is_iterable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// Replaces transformers' own tag `{% generation %}`, which marks the answer for training and renders its body, by `if
/// true`.
pub(in crate::model) fn without_generation_tags(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(start) = rest.find("{%") {
        // `{%}` opens a tag and does not close one.
        let Some(end) = rest[start + 2..].find("%}").map(|end| start + 2 + end) else { break };
        let tag = &rest[start + 2..end];
        let name = tag.trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        let replaced = match name {
            "generation" => tag.replacen(name, "if true", 1),
            "endgeneration" => tag.replacen(name, "endif", 1),
            _ => tag.to_owned(),
        };
        out.push_str(&rest[..start + 2]);
        out.push_str(&replaced);
        out.push_str("%}");
        rest = &rest[end + 2..];
    }
    out.push_str(rest);
    out
}

/// Formats an error in few words, with its line.
pub(in crate::model) fn explain(error: &Error) -> String {
    match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("{} (line {line})", detail),
        (None, Some(line)) => format!("{} (line {line})", error.kind()),
        (detail, None) => detail.map_or_else(|| error.kind().to_string(), str::to_owned),
    }
}

/// Formats midnight of [`TODAY`] with the directives of C's `strftime`.
fn strftime(format: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = match rest.next() {
            // Without leading zeros.
            Some('-') => format!("-{}", rest.next().unwrap_or_default()),
            Some(letter) => letter.to_string(),
            None => String::new(),
        };
        out.push_str(match directive.as_str() {
            "Y" | "G" => "2024",
            "y" | "g" => "24",
            "C" => "20",
            "m" => "07",
            "-m" => "7",
            "B" => "July",
            "b" | "h" => "Jul",
            "d" | "-d" | "e" => "26",
            "A" => "Friday",
            "a" => "Fri",
            "w" | "u" => "5",
            "j" | "-j" => "208",
            "U" => "29",
            "W" | "V" => "30",
            "H" | "M" | "S" => "00",
            "-H" | "-M" | "-S" => "0",
            "k" => " 0",
            "I" | "-I" | "l" => "12",
            "p" => "AM",
            "P" => "am",
            "f" => "000000",
            // A clock without a time zone.
            "z" | "Z" => "",
            "c" => "Fri Jul 26 00:00:00 2024",
            "x" | "D" => "07/26/24",
            "X" | "T" => "00:00:00",
            "F" => "2024-07-26",
            "R" => "00:00",
            "r" => "12:00:00 AM",
            "n" => "\n",
            "t" => "\t",
            "%" => "%",
            other => {
                let told = format!("{CLOCK} does not support `%{other}`");
                return Err(Error::new(ErrorKind::InvalidOperation, told));
            }
        });
    }
    Ok(out)
}

/// Formats `value` as Python's `str` does.
fn written(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        _ => represented(value),
    }
}

/// Formats `value` as Python's `repr` does.
fn represented(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => "Undefined".to_owned(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<String> = value.try_iter().into_iter().flatten().map(|item| represented(&item)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let entry = |(key, item): (Value, Value)| format!("{}: {}", represented(&key), represented(&item));
            let entries: Vec<String> = entries(value).into_iter().map(entry).collect();
            format!("{{{}}}", entries.join(", "))
        }
        _ => value.to_string(),
    }
}

fn entries(map: &Value) -> Vec<(Value, Value)> {
    let keys = map.try_iter().into_iter().flatten();
    keys.map(|key| (key.clone(), map.get_item(&key).unwrap_or_default())).collect()
}

/// Formats a number as Python does, with a decimal point in floats such as `1.0`.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else { return value.to_string() };
    if float.is_nan() {
        return "nan".to_owned();
    }
    let text = format!("{float:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |rest| ("-", rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

/// Quotes a text, in single quotation marks unless only those occur in it.
fn quoted(text: &str) -> String {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => out.extend(['\\', c]),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(mark);
    out
}

/// The format of `json.dumps`.
struct Json {
    is_ascii: bool,
    /// The spaces of one level, if each entry has its own line.
    indent: Option<String>,
    comma: String,
    colon: String,
    is_sorted: bool,
}

/// transformers' own filter `tojson`: `json.dumps`, which does not escape HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(count) if !count.is_none() => Some(" ".repeat(usize::try_from(count)?)),
        _ => None,
    };
    let separators =
        options.get::<Option<Value>>("separators")?.filter(|given| !given.is_none() && !given.is_undefined());
    let separator = |place: usize, default: &str| -> Result<String, Error> {
        let Some(given) = &separators else { return Ok(default.to_owned()) };
        Ok(written(&given.get_item(&Value::from(place))?))
    };
    let json = Json {
        is_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        comma: separator(0, if indent.is_some() { "," } else { ", " })?,
        colon: separator(1, ": ")?,
        is_sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
    };
    options.assert_all_used()?;
    let mut out = String::new();
    json.write(value, 0, &mut out)?;
    Ok(Value::from_safe_string(out))
}

impl Json {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_all(['[', ']'], &items, depth, out, |item, out| self.write(item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut entries = entries(value);
                if self.is_sorted {
                    entries.sort_by_key(|(key, _)| written(key));
                }
                self.write_all(['{', '}'], &entries, depth, out, |(key, item), out| {
                    self.write_text(&written(key), out);
                    out.push_str(&self.colon);
                    self.write(item, depth + 1, out)
                })?;
            }
            kind => {
                let told = format!("a value of type {kind} is not JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, told));
            }
        }
        Ok(())
    }

    fn write_all<T>(
        &self,
        marks: [char; 2],
        items: &[T],
        depth: usize,
        out: &mut String,
        write: impl Fn(&T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize| match &self.indent {
            Some(indent) if !items.is_empty() => format!("\n{}", indent.repeat(depth)),
            _ => String::new(),
        };
        out.push(marks[0]);
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                out.push_str(&self.comma);
            }
            out.push_str(&line(depth + 1));
            write(item, out)?;
        }
        out.push_str(&line(depth));
        out.push(marks[1]);
        Ok(())
    }

    fn write_text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if u32::from(c) < 0x20 || self.is_ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

#[cfg(test)]
mod tests;
