//! Markdown as plain text for a terminal: headings, paragraphs, lists, tables and code, wrapped to a width.

/// No column of a table becomes narrower than this.
const N_COLUMN_MIN: usize = 12;

/// `markdown` as plain text, at most `n_columns` wide. Code is indented and never wrapped.
pub fn plain_text(markdown: &str, n_columns: usize) -> String {
    let mut text = String::new();
    let mut lines = markdown.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let code = lines.by_ref().take_while(|line| !line.starts_with("```"));
            code.for_each(|line| push_line(&mut text, &format!("    {line}")));
        } else if line.starts_with('|') {
            let mut rows = vec![cells(line)];
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(cells(row));
            }
            push_table(&mut text, rows, n_columns);
        } else if let Some((title, mark)) = heading(line) {
            push_line(&mut text, &bare(title));
            push_line(&mut text, &mark.repeat(n_chars(&bare(title))));
        } else if line.is_empty() {
            push_line(&mut text, "");
        } else {
            let (first, block) = line.strip_prefix("- ").map_or(("", line), |item| ("- ", item));
            let mut block = block.to_owned();
            while let Some(more) = lines.next_if(|line| continues(line)) {
                block.push(' ');
                block.push_str(more.trim());
            }
            for (number, line) in wrapped(&bare(&block), n_columns.saturating_sub(first.len())).iter().enumerate() {
                let indent = if number == 0 { first } else { &"  "[..first.len()] };
                push_line(&mut text, &format!("{indent}{line}"));
            }
        }
    }
    text
}

/// The words of a heading, and what underlines them.
fn heading(line: &str) -> Option<(&str, &'static str)> {
    let title = line.strip_prefix("# ").map(|title| (title, "="));
    title.or_else(|| line.strip_prefix("## ").map(|title| (title, "-")))
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

/// Whether the line belongs to the paragraph or item before it.
fn continues(line: &str) -> bool {
    !line.is_empty() && !["#", "|", "```", "- "].iter().any(|start| line.starts_with(start))
}

/// Without the marks of emphasis and links, which say nothing on a terminal. Code keeps its backticks.
fn bare(line: &str) -> String {
    let mut text = String::new();
    for (number, part) in line.split('`').enumerate() {
        let is_code = number % 2 == 1;
        match is_code {
            true => text.push_str(&format!("`{part}`")),
            false => text.push_str(&without_emphasis(&part.replace("**", ""))),
        }
    }
    text
}

/// Without single asterisks around words; an asterisk between spaces stays.
fn without_emphasis(text: &str) -> String {
    let is_mark = |place: usize| {
        let before = text[..place].chars().next_back().is_none_or(|c| !c.is_alphanumeric());
        let after = text[place + 1..].chars().next().is_none_or(|c| !c.is_alphanumeric());
        before != after
    };
    text.char_indices().filter(|&(place, c)| c != '*' || !is_mark(place)).map(|(_, c)| c).collect()
}

fn cells(row: &str) -> Vec<String> {
    row.trim().trim_matches('|').split('|').map(|cell| bare(cell.trim())).collect()
}

fn is_rule(row: &[String]) -> bool {
    row.iter().all(|cell| !cell.is_empty() && cell.chars().all(|c| "-:".contains(c)))
}

fn n_chars(text: &str) -> usize {
    text.chars().count()
}

/// The words of `text` in lines of at most `n_columns` characters; a longer word has a line of its own.
fn wrapped(text: &str, n_columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { continue };
        if line.is_empty() {
            line.push_str(word);
        } else if n_chars(line) + 1 + n_chars(word) <= n_columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Columns as wide as their text, or narrowed from the widest on until they fit.
fn push_table(text: &mut String, rows: Vec<Vec<String>>, n_columns: usize) {
    let n_cells = rows.iter().map(Vec::len).max().unwrap_or_default();
    let mut widths: Vec<usize> = (0..n_cells)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| n_chars(cell)).max().unwrap_or_default())
        .collect();
    let n_between = 2 * n_cells.saturating_sub(1);
    while widths.iter().sum::<usize>() + n_between > n_columns {
        let Some(widest) = widths.iter_mut().max().filter(|width| **width > N_COLUMN_MIN) else { break };
        *widest -= 1;
    }
    for row in rows {
        if is_rule(&row) {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            push_line(text, &rules.join("  "));
            continue;
        }
        let wrapped: Vec<Vec<String>> = row.iter().zip(&widths).map(|(cell, width)| wrapped(cell, *width)).collect();
        for number in 0..wrapped.iter().map(Vec::len).max().unwrap_or_default() {
            let line: Vec<String> = wrapped
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{:<width$}", cell.get(number).map_or("", String::as_str)))
                .collect();
            push_line(text, &line.join("  "));
        }
    }
}

#[cfg(test)]
mod tests;
