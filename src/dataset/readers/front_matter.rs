//! The front matter of a dataset card (`README.md`), which is written in a subset of YAML.
//!
//! Reads block maps, block lists, and plain and quoted scalars on one line. Anything else (anchors, flow collections,
//! folded text) becomes a string or is skipped, because a card is read only for its class names.

use anyhow::{Context, ensure};
use serde_json::{Map, Value};

/// Deeper nesting is not a card.
const DEPTH_MAX: usize = 32;

/// Returns the front matter of `card`, between its first two lines of `---`, if there is one.
pub(super) fn parse(card: &str) -> anyhow::Result<Option<Value>> {
    let card = card.strip_prefix('\u{feff}').unwrap_or(card);
    let mut lines = card.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Ok(None);
    }
    let mut block: Vec<Line> = Vec::new();
    for text in lines.take_while(|line| line.trim_end() != "---") {
        let content = text.trim();
        if !content.is_empty() && !content.starts_with('#') {
            block.push(Line { indent: text.len() - text.trim_start().len(), content });
        }
    }
    if block.is_empty() {
        return Ok(None);
    }
    let mut parser = Parser { lines: block, at: 0 };
    let indent = parser.lines[0].indent;
    parser.node(indent, 0).map(Some).with_context(|| format!("its front matter is not YAML (entry {})", parser.at + 1))
}

/// A line that is neither empty nor a comment.
#[derive(Clone, Copy)]
struct Line<'a> {
    indent: usize,
    content: &'a str,
}

impl<'a> Line<'a> {
    /// Returns what follows the dash of a list item, with its column.
    fn item(self) -> Option<Line<'a>> {
        let rest = self.content.strip_prefix('-')?;
        let content = rest.trim_start();
        let is_item = rest.is_empty() || content.len() < rest.len();
        is_item.then_some(Line { indent: self.indent + self.content.len() - content.len(), content })
    }
}

struct Parser<'a> {
    lines: Vec<Line<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Line<'a>> {
        self.lines.get(self.at).copied()
    }

    /// Parses a list or a map whose entries begin at `indent`.
    fn node(&mut self, indent: usize, depth: usize) -> anyhow::Result<Value> {
        ensure!(depth <= DEPTH_MAX, "it is nested deeper than {DEPTH_MAX}");
        match self.peek() {
            Some(line) if line.item().is_some() => self.list(indent, depth),
            Some(line) if key_and_rest(line.content).is_some() => self.map(indent, depth),
            Some(line) => {
                self.at += 1;
                self.skip_deeper(line.indent);
                Ok(scalar(line.content))
            }
            None => Ok(Value::Null),
        }
    }

    fn list(&mut self, indent: usize, depth: usize) -> anyhow::Result<Value> {
        let mut items = Vec::new();
        while let Some(line) = self.peek().filter(|line| line.indent == indent) {
            let Some(item) = line.item() else { break };
            if item.content.is_empty() {
                self.at += 1;
                items.push(self.child(indent, false, depth)?);
            } else {
                // The rest of the line is the first line of the item's content.
                self.lines[self.at] = item;
                items.push(self.node(item.indent, depth + 1)?);
            }
        }
        self.skip_deeper(indent);
        Ok(Value::Array(items))
    }

    fn map(&mut self, indent: usize, depth: usize) -> anyhow::Result<Value> {
        let mut map = Map::new();
        while let Some(line) = self.peek().filter(|line| line.indent == indent && line.item().is_none()) {
            self.at += 1;
            // A line that is not `key: value` continues a multi-line text.
            let Some((key, rest)) = key_and_rest(line.content) else { continue };
            let value = if rest.is_empty() {
                self.child(indent, true, depth)?
            } else {
                self.skip_deeper(indent);
                scalar(rest)
            };
            map.insert(key, value);
        }
        self.skip_deeper(indent);
        Ok(Value::Object(map))
    }

    /// Parses what is below a key or a dash: deeper lines, or (below a key) a list at the same column.
    fn child(&mut self, indent: usize, is_below_key: bool, depth: usize) -> anyhow::Result<Value> {
        match self.peek() {
            Some(line) if line.indent > indent => self.node(line.indent, depth + 1),
            Some(line) if is_below_key && line.indent == indent && line.item().is_some() => {
                self.list(indent, depth + 1)
            }
            _ => Ok(Value::Null),
        }
    }

    /// Skips the lines of a folded text, and unexpected indentation.
    fn skip_deeper(&mut self, indent: usize) {
        while self.peek().is_some_and(|line| line.indent > indent) {
            self.at += 1;
        }
    }
}

/// Splits `key: rest`; the key may be quoted.
fn key_and_rest(content: &str) -> Option<(String, &str)> {
    if let Some(quote) = content.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let end = content[1..].find(quote)? + 1;
        let rest = content[end + 1..].trim_start().strip_prefix(':')?;
        return Some((content[1..end].to_owned(), without_comment(rest)));
    }
    let (key, rest) = content.split_once(':')?;
    let is_key = rest.is_empty() || rest.starts_with([' ', '\t']);
    is_key.then(|| (key.trim().to_owned(), without_comment(rest)))
}

/// Removes a comment, which begins after a space and outside quotes.
fn without_comment(rest: &str) -> &str {
    let rest = rest.trim();
    if rest.starts_with('#') {
        return "";
    }
    if rest.starts_with(['\'', '"']) {
        return rest;
    }
    rest.find(" #").map_or(rest, |start| rest[..start].trim_end())
}

/// Returns a scalar as text: class names are texts even if they look like numbers.
fn scalar(text: &str) -> Value {
    let inner = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.find(quote).map(|_| rest));
    if let Some(rest) = inner('\'') {
        // A quote is doubled within single quotes.
        let mut value = String::new();
        let mut characters = rest.chars().peekable();
        while let Some(character) = characters.next() {
            if character == '\'' && characters.next_if_eq(&'\'').is_none() {
                break;
            }
            value.push(character);
        }
        return Value::String(value);
    }
    if text.starts_with('"') {
        // Double quotes escape as in JSON, except for escapes that no class name has.
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
        if let Some(Ok(value)) = values.next() {
            return Value::String(value);
        }
    }
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_card_of_the_hub_is_understood() {
        let card = "---\nlicense: mit # free\ntags:\n- a\n- b\ndataset_info:\n  config_name: plain_text\n  features:\n  \
                    - name: img\n    dtype: image\n  - name: label\n    dtype:\n      class_label:\n        names:\n          \
                    '0': airplane\n          '1': it's\n          2: 'it''s'\n          '3': \"a \\\"b\\\"\"\n  splits:\n  \
                    - name: test\n    num_examples: 4\npretty_name: >\n  folded\n  text: here\n---\n# Title\n";
        let found = parse(card).unwrap().unwrap();
        let label = json!({"name": "label", "dtype": {"class_label": {"names":
            {"0": "airplane", "1": "it's", "2": "it's", "3": "a \"b\""}}}});
        assert_eq!(found["dataset_info"]["features"], json!([{"name": "img", "dtype": "image"}, label]));
        assert_eq!((&found["license"], &found["tags"]), (&json!("mit"), &json!(["a", "b"])));
        assert_eq!(found["dataset_info"]["splits"][0]["num_examples"], "4");
    }

    #[test]
    fn a_readme_without_front_matter_is_no_card() {
        assert!(parse("# Title\n\n---\na: b\n---\n").unwrap().is_none());
    }

    #[test]
    fn endless_nesting_is_an_error() {
        let card = format!("---\n{}\n---\n", "- ".repeat(100_000));
        assert!(format!("{:#}", parse(&card).unwrap_err()).contains("deeper"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_card_or_an_error(text in "[-a-b:'\"#> \n]{0,120}") {
            let _ = parse(&format!("---\n{text}\n---\n"));
            let _ = parse(&text);
        }
    }
}
