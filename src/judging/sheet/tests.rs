//! Tests of `sheet`.

use proptest::prelude::*;

use super::*;

fn row(answer: &str) -> SheetRow {
    SheetRow {
        line: 2,
        dataset: Some("d".into()),
        question: None,
        label: "cat".into(),
        aliases: vec!["house cat".into(), "-kitty".into()],
        answer: answer.into(),
        group: None,
        outcome: Some(Outcome::Incorrect(ErrorCode::Out)),
        stratum: Some("incorrect/out".into()),
        n_stratum_trials: Some(9),
        n_stratum_drawn: Some(7),
        n_trials: 2,
        weight: 1.0 / 3.0,
        is_correct: None,
    }
}

fn sheet(rows: Vec<SheetRow>) -> Sheet {
    let judge = JudgeIdentity { judge: "rules".into(), model: None, prompt: None, rules_version: Some("1".into()) };
    Sheet { origin: Some(SheetOrigin { run: "blake3:r".into(), judge }), rows }
}

fn problem(text: &str, form: SheetForm) -> String {
    Sheet::parse(text, form).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn any_answer_is_read_as_it_was_written(answer in "[-=+@'\",;\t\r\n a-zé\u{1b}]{0,12}") {
        let written = sheet(vec![row(&answer)]);
        for form in [SheetForm::Csv, SheetForm::Jsonl] {
            prop_assert_eq!(&Sheet::parse(&written.write(form), form).unwrap().rows[0].answer, &answer);
        }
    }

    #[test]
    fn any_text_is_a_sheet_or_an_error(
        text in "\\PC{0,60}", lines in proptest::collection::vec("[a-z,\"{}:\n]{0,12}", 0..6),
    ) {
        let text = format!("label,answer,correct\n{text}\n{}", lines.join("\n"));
        for form in [SheetForm::Csv, SheetForm::Jsonl] {
            let _ = Sheet::parse(&text, form);
        }
    }
}

#[test]
fn a_sheet_is_read_as_it_was_written() {
    let written = sheet(vec![row("a dog, or so"), row("=HYPERLINK(\"http://x\")"), row("'tis"), row("")]);
    for (form, first_line) in [(SheetForm::Csv, 2), (SheetForm::Jsonl, 1)] {
        let mut read = Sheet::parse(&written.write(form), form).unwrap();
        assert_eq!(read.rows[3].line, first_line + 3);
        read.rows.iter_mut().for_each(|row| row.line = 2);
        assert_eq!(read, written);
    }
}

#[test]
fn no_cell_begins_like_a_formula() {
    let starts = ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "'=1"];
    let text = sheet(starts.map(row).to_vec()).write(SheetForm::Csv);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    for record in reader.records() {
        let record = record.unwrap();
        assert!(record.iter().all(|cell| !cell.starts_with(['=', '+', '-', '@', '\t', '\r'])), "{record:?}");
    }
}

#[test]
fn sheets_of_spreadsheets_and_other_tools_are_read() {
    let rows = Sheet::parse("\u{feff}Label;Answer;CORRECT\r\ncat;'tis a cat;TRUE\r\ncat;;0\r\n;;\r\n", SheetForm::Csv);
    let rows = rows.unwrap().rows;
    let found: Vec<(&str, Option<bool>)> = rows.iter().map(|row| (row.answer.as_str(), row.is_correct)).collect();
    assert_eq!(found, [("'tis a cat", Some(true)), ("", Some(false))]);
    let text = r#"{"label":8,"answer":"8","correct":true,"aliases":["eight"]}

{"label":"8","answer":"3","aliases":"eight; viii"}"#;
    let rows = Sheet::parse(text, SheetForm::Jsonl).unwrap().rows;
    assert_eq!((rows[0].label.as_str(), rows[0].aliases.as_slice()), ("8", &["eight".to_owned()][..]));
    assert_eq!((rows[1].line, rows[1].is_correct, rows[1].aliases.len()), (3, None, 2));
}

#[test]
fn what_cannot_be_understood_is_named_with_its_line() {
    let csv = |text: &str| problem(text, SheetForm::Csv);
    assert!(csv("").starts_with("line 1: the column `label` is missing"));
    assert!(csv("label,answer\ncat,cat\n").starts_with("line 1: the column `correct` is missing"));
    let good = "label,answer,correct,n_trials,weight,verdict,code\n\"a\ncat\",cat,yes,,,,\n";
    let cases = [
        ("cat,cat,perhaps,1,1,,", "`correct` must be true, false or empty, not `perhaps`"),
        ("cat,cat,yes,0,1,,", "`n_trials` must be a positive number"),
        ("cat,cat,yes,1,-1,,", "`weight` must be a positive number"),
        ("cat,cat,yes,1,NaN,,", "`weight` must be a positive number"),
        (",cat,yes,1,1,,", "`label` is missing"),
        ("cat,cat,yes,1,1,maybe,", "`verdict` must be correct, incorrect or undecided"),
        ("cat,cat,yes,1,1,incorrect,odd", "`code` must be the code of an error"),
        ("cat,cat,yes", "it has 3 cells, but the header has 7"),
    ];
    for (line, expected) in cases {
        let found = csv(&format!("{good}{line}\n"));
        assert!(found.starts_with("line 4: ") && found.contains(expected), "{found}");
    }
    assert!(
        problem("{\"label\":\"a\",\"answer\":\"b\"}\n[1]\n", SheetForm::Jsonl)
            .starts_with("line 2: it is not a JSON object")
    );
    assert!(problem("{\"label\":\"a\"}", SheetForm::Jsonl).contains("`answer` is missing"));
    assert!(problem("{\"label\":\"a\",\"answer\":{}}", SheetForm::Jsonl).contains("`answer` must be text"));
    let two_runs = "label,answer,correct,run,judge\na,b,1,r1,rules\na,c,1,r2,rules\n";
    assert!(csv(two_runs).starts_with("line 3: it has another run"));
}
