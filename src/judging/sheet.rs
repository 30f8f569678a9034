//! Sheets of answers for people to mark, as CSV and as JSON lines.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::compare::JudgeIdentity;
use crate::domain::{ErrorCode, Outcome};

/// The columns of a sheet that `emt judge sample` writes, in order. The column to fill in is next to the answer that it
/// is about.
const COLUMNS: [&str; 17] = [
    "dataset",
    "label",
    "aliases",
    "answer",
    "correct",
    "verdict",
    "code",
    "stratum",
    "n_trials",
    "weight",
    "stratum_trials",
    "stratum_drawn",
    "judge",
    "judge_model",
    "judge_prompt",
    "rules_version",
    "run",
];

/// The characters with which a cell must not start, because a spreadsheet would run it (OWASP, "CSV injection"), and
/// the mark that prevents it.
const FORMULA_STARTS: [char; 7] = ['=', '+', '-', '@', '\t', '\r', MARK];
const MARK: char = '\'';

/// Why a file is not a sheet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SheetError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// The format of a sheet's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SheetForm {
    /// A header and rows, separated by commas; semicolons and tabs are also read.
    Csv,
    /// One JSON object per line.
    Jsonl,
}

/// The run that a sheet was drawn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SheetOrigin {
    /// Its identity.
    pub run: String,
    /// The judge of the run.
    pub judge: JudgeIdentity,
}

/// One answer to mark.
#[derive(Clone, Debug, PartialEq)]
pub struct SheetRow {
    /// Its line in the file, from 1.
    pub line: usize,
    /// The dataset; without one, the question is open.
    pub dataset: Option<String>,
    /// The question, if the sheet has it.
    pub question: Option<String>,
    /// The right label.
    pub label: String,
    /// Its aliases.
    pub aliases: Vec<String>,
    /// The answer.
    pub answer: String,
    /// The sheet's own group.
    pub group: Option<String>,
    /// The outcome that the run recorded.
    pub outcome: Option<Outcome>,
    /// The stratum that it was drawn from.
    pub stratum: Option<String>,
    /// Trials of that stratum in the run.
    pub n_stratum_trials: Option<usize>,
    /// Pairs drawn from that stratum.
    pub n_stratum_drawn: Option<usize>,
    /// Trials with this answer.
    pub n_trials: usize,
    /// 1 / (probability of being drawn).
    pub weight: f64,
    /// The human mark.
    pub is_correct: Option<bool>,
}

/// Answers to be marked, or marked answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    /// The run that it was drawn from, if it was.
    pub origin: Option<SheetOrigin>,
    /// The rows in the order of the file.
    pub rows: Vec<SheetRow>,
}

impl Sheet {
    /// Reads a sheet from `emt`, or any sheet with `label`, `answer` and `correct`. Other columns are optional, and
    /// unknown ones are ignored.
    ///
    /// # Errors
    /// A line cannot be understood. The error gives the first such line and the reason.
    pub fn parse(text: &str, form: SheetForm) -> Result<Self, SheetError> {
        // Spreadsheets write a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let records = match form {
            SheetForm::Csv => csv_records(text)?,
            SheetForm::Jsonl => json_records(text)?,
        };
        let mut sheet = Self { origin: None, rows: Vec::with_capacity(records.len()) };
        for (index, record) in records.iter().enumerate() {
            let origin = record.origin()?;
            if index == 0 {
                sheet.origin = origin;
            } else if origin != sheet.origin {
                return Err(record.error("it has another run or judge than the first row; hint: one sheet per run"));
            }
            sheet.rows.push(record.row()?);
        }
        Ok(sheet)
    }

    /// Returns the text of the file.
    pub fn write(&self, form: SheetForm) -> String {
        let rows = self.rows.iter().map(|row| self.cells(row));
        match form {
            SheetForm::Csv => csv_text(rows),
            SheetForm::Jsonl => rows.map(|row| Value::Object(row).to_string() + "\n").collect(),
        }
    }

    fn cells(&self, row: &SheetRow) -> Map<String, Value> {
        let (verdict, code) = match row.outcome {
            Some(Outcome::Correct) => (Some("correct"), None),
            Some(Outcome::Incorrect(code)) => (Some("incorrect"), Some(code.name())),
            Some(Outcome::Unscored(_)) | None => (None, None),
        };
        let judge = self.origin.as_ref().map(|origin| &origin.judge);
        let values = [
            json!(row.dataset),
            json!(row.label),
            json!(row.aliases),
            json!(row.answer),
            json!(row.is_correct),
            json!(verdict),
            json!(code),
            json!(row.stratum),
            json!(row.n_trials),
            json!(row.weight),
            json!(row.n_stratum_trials),
            json!(row.n_stratum_drawn),
            json!(judge.map(|judge| &judge.judge)),
            json!(judge.and_then(|judge| judge.model.as_ref())),
            json!(judge.and_then(|judge| judge.prompt.as_ref())),
            json!(judge.and_then(|judge| judge.rules_version.as_ref())),
            json!(self.origin.as_ref().map(|origin| &origin.run)),
        ];
        COLUMNS.into_iter().map(str::to_owned).zip(values).collect()
    }
}

/// Writes CSV. A spreadsheet would run text such as `=1+1`, so such text is prefixed with an apostrophe. So is text
/// that starts with an apostrophe, so that reading removes exactly one.
fn csv_text(rows: impl Iterator<Item = Map<String, Value>>) -> String {
    let inert = |text: &str| {
        if text.starts_with(FORMULA_STARTS) { format!("{MARK}{text}") } else { text.to_owned() }
    };
    let cell = |value: Option<&Value>| match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => inert(text),
        Some(Value::Array(items)) => inert(&items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(";")),
        Some(other) => other.to_string(),
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    let in_memory = "a CSV of equally long rows is written to memory without fail";
    writer.write_record(COLUMNS).expect(in_memory);
    for row in rows {
        writer.write_record(COLUMNS.map(|column| cell(row.get(column)))).expect(in_memory);
    }
    String::from_utf8(writer.into_inner().expect(in_memory)).expect("all cells are text")
}

/// The named cells of one row; empty cells are absent, except for the answer.
struct Record {
    line: usize,
    cells: BTreeMap<String, Value>,
}

fn csv_records(text: &str) -> Result<Vec<Record>, SheetError> {
    let header = text.lines().next().unwrap_or_default();
    // Spreadsheets write semicolons in some locales.
    let delimiter =
        [b',', b';', b'\t'].into_iter().rev().max_by_key(|&mark| header.bytes().filter(|&b| b == mark).count());
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter.unwrap_or(b',')).from_reader(text.as_bytes());
    let broken = |error: &csv::Error| SheetError {
        line: error.position().map_or(1, |position| position.line() as usize),
        problem: match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!(
                    "it has {len} cells, but the header has {expected_len}; hint: put an answer with a comma in \
                     quotation marks"
                )
            }
            _ => error.to_string(),
        },
    };
    let header = reader.headers().map_err(|error| broken(&error))?.clone();
    let columns: Vec<String> = header.iter().map(|name| name.trim().to_lowercase()).collect();
    for required in ["label", "answer", "correct"] {
        if !columns.iter().any(|column| column == required) {
            let problem =
                format!("the column `{required}` is missing; hint: a sheet has at least label, answer, correct");
            return Err(SheetError { line: 1, problem });
        }
    }
    // Only our own sheets use the apostrophe as a mark.
    let is_marked = columns.iter().any(|column| column == "run");
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| broken(&error))?;
        let line = row.position().map_or(1, |position| position.line() as usize);
        let value = |(column, cell): (&String, &str)| {
            let text = cell.strip_prefix(MARK).filter(|_| is_marked).unwrap_or(cell);
            (!text.is_empty() || column == "answer").then(|| (column.clone(), text.into()))
        };
        let cells: BTreeMap<String, Value> = columns.iter().zip(row.iter()).filter_map(value).collect();
        // Spreadsheets leave rows of empty cells.
        if cells.iter().any(|(column, value)| column != "answer" || *value != "") {
            records.push(Record { line, cells });
        }
    }
    Ok(records)
}

fn json_records(text: &str) -> Result<Vec<Record>, SheetError> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(line, text)| match serde_json::from_str::<BTreeMap<String, Value>>(text) {
            Ok(mut cells) => {
                cells.retain(|column, value| !value.is_null() && (*value != "" || column == "answer"));
                Ok(Record { line, cells })
            }
            Err(error) => Err(SheetError { line, problem: format!("it is not a JSON object: {error}") }),
        })
        .collect()
}

impl Record {
    fn error(&self, problem: impl Into<String>) -> SheetError {
        SheetError { line: self.line, problem: problem.into() }
    }

    fn text(&self, column: &str) -> Result<Option<String>, SheetError> {
        match self.cells.get(column) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(other) => Err(self.error(format!("`{column}` must be text, not {other}"))),
        }
    }

    fn required(&self, column: &str) -> Result<String, SheetError> {
        self.text(column)?.ok_or_else(|| self.error(format!("`{column}` is missing")))
    }

    fn number<T: std::str::FromStr>(&self, column: &str, is_allowed: fn(&T) -> bool) -> Result<Option<T>, SheetError> {
        let Some(text) = self.text(column)? else { return Ok(None) };
        match text.trim().parse::<T>().ok().filter(is_allowed) {
            Some(number) => Ok(Some(number)),
            None => Err(self.error(format!("`{column}` must be a positive number, not `{text}`"))),
        }
    }

    fn aliases(&self) -> Result<Vec<String>, SheetError> {
        let text = match self.cells.get("aliases") {
            Some(Value::Array(items)) => {
                let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                items.ok_or_else(|| self.error("`aliases` must be a list of text"))?.join(";")
            }
            _ => self.text("aliases")?.unwrap_or_default(),
        };
        Ok(text.split(';').map(str::trim).filter(|alias| !alias.is_empty()).map(str::to_owned).collect())
    }

    fn mark(&self) -> Result<Option<bool>, SheetError> {
        let Some(text) = self.text("correct")? else { return Ok(None) };
        match text.trim().to_lowercase().as_str() {
            "" => Ok(None),
            "true" | "yes" | "1" | "t" | "y" | "correct" => Ok(Some(true)),
            "false" | "no" | "0" | "f" | "n" | "incorrect" => Ok(Some(false)),
            _ => Err(self.error(format!("`correct` must be true, false or empty, not `{text}`"))),
        }
    }

    fn outcome(&self) -> Result<Option<Outcome>, SheetError> {
        let code = self.text("code")?;
        let known = |name: &String| ErrorCode::ALL.into_iter().find(|code| code.name() == name);
        match (self.text("verdict")?.as_deref(), &code) {
            (None, _) => Ok(None),
            (Some("correct"), _) => Ok(Some(Outcome::Correct)),
            // An undecided verdict does not count as right.
            (Some("incorrect" | "undecided"), Some(name)) => match known(name) {
                Some(code) => Ok(Some(Outcome::Incorrect(code))),
                None => Err(self.error(format!("`code` must be the code of an error, not `{name}`"))),
            },
            (Some("incorrect" | "undecided"), None) => Ok(None),
            (Some(other), _) => {
                Err(self.error(format!("`verdict` must be correct, incorrect or undecided, not `{other}`")))
            }
        }
    }

    fn origin(&self) -> Result<Option<SheetOrigin>, SheetError> {
        let Some(run) = self.text("run")? else { return Ok(None) };
        let judge = JudgeIdentity {
            judge: self.required("judge")?,
            model: self.text("judge_model")?,
            prompt: self.text("judge_prompt")?,
            rules_version: self.text("rules_version")?,
        };
        Ok(Some(SheetOrigin { run, judge }))
    }

    fn row(&self) -> Result<SheetRow, SheetError> {
        let label = self.required("label")?;
        if label.trim().is_empty() {
            return Err(self.error("`label` is empty"));
        }
        Ok(SheetRow {
            line: self.line,
            dataset: self.text("dataset")?,
            question: self.text("question")?,
            label,
            aliases: self.aliases()?,
            answer: self.required("answer")?,
            group: self.text("group")?,
            outcome: self.outcome()?,
            stratum: self.text("stratum")?,
            n_stratum_trials: self.number("stratum_trials", |&n: &usize| n > 0)?,
            n_stratum_drawn: self.number("stratum_drawn", |&n: &usize| n > 0)?,
            n_trials: self.number("n_trials", |&n: &usize| n > 0)?.unwrap_or(1),
            weight: self.number("weight", |&weight: &f64| weight > 0.0 && weight.is_finite())?.unwrap_or(1.0),
            is_correct: self.mark()?,
        })
    }
}

#[cfg(test)]
mod tests;
