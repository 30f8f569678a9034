//! `lost.csv` and `gained.csv`: one row per changed image, for spreadsheets and for evaluating the same images again.

use super::super::csv::text_cell;
use super::verdict::LostAt;
use crate::compare::Comparison;
use crate::domain::ErrorCode;

/// The columns of [`lost_csv`] and [`gained_csv`], in order. They are public: new ones are added at the end.
///
/// `sample` is the candidate's sample id. `baseline_code` and `candidate_code` are error codes, empty if the answer is
/// correct. `encoder_…` and `score_…` are the choices of the candidate's encoder and its label scoring, and whether
/// they are `correct` or `incorrect`; empty if they did not run. `lost_at` is `wording`, `choice` or `unknown`. A text
/// that starts like a formula is prefixed with an apostrophe.
pub const CHANGED_COLUMNS: [&str; 14] = [
    "run",
    "dataset",
    "sample",
    "content",
    "label",
    "baseline_answer",
    "candidate_answer",
    "baseline_code",
    "candidate_code",
    "encoder_answer",
    "encoder_outcome",
    "score_answer",
    "score_outcome",
    "lost_at",
];

/// The cells of a lost or gained image.
struct Changed<'a> {
    run: &'a str,
    dataset: &'a str,
    sample: &'a str,
    content: &'a str,
    label: &'a str,
    said: [&'a str; 2],
    codes: [Option<ErrorCode>; 2],
    encoder: Option<&'a (String, bool)>,
    scoring: Option<&'a (String, bool)>,
    lost_at: Option<LostAt>,
}

/// Returns the images of all candidates that were right before and are wrong after.
pub fn lost_csv(comparison: &Comparison) -> String {
    let rows = comparison.candidates.iter().flat_map(|candidate| {
        let of_dataset = candidate.datasets.iter().flat_map(|dataset| {
            dataset.lost.iter().map(|lost| Changed {
                run: &candidate.run,
                dataset: &dataset.dataset,
                sample: &lost.sample,
                content: &lost.content,
                label: &lost.label,
                said: [&lost.said_before, &lost.said_after],
                codes: [None, Some(lost.code_after)],
                encoder: lost.encoder.as_ref(),
                scoring: lost.scoring.as_ref(),
                lost_at: LostAt::of(lost),
            })
        });
        of_dataset.collect::<Vec<_>>()
    });
    csv(rows)
}

/// Returns the images of all candidates that were wrong before and are right after, in the same columns.
pub fn gained_csv(comparison: &Comparison) -> String {
    let rows = comparison.candidates.iter().flat_map(|candidate| {
        let of_dataset = candidate.datasets.iter().flat_map(|dataset| {
            dataset.gained.iter().map(|gained| Changed {
                run: &candidate.run,
                dataset: &dataset.dataset,
                sample: &gained.sample,
                content: &gained.content,
                label: &gained.label,
                said: [&gained.said_before, &gained.said_after],
                codes: [Some(gained.code_before), None],
                encoder: gained.encoder.as_ref(),
                scoring: gained.scoring.as_ref(),
                lost_at: None,
            })
        });
        of_dataset.collect::<Vec<_>>()
    });
    csv(rows)
}

fn csv<'a>(rows: impl Iterator<Item = Changed<'a>>) -> String {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let in_memory = "a CSV of equally long rows is written to memory without fail";
    writer.write_record(CHANGED_COLUMNS).expect(in_memory);
    for row in rows {
        writer.write_record(cells(&row)).expect(in_memory);
    }
    let bytes = writer.into_inner().expect(in_memory);
    String::from_utf8(bytes).expect("all cells are text")
}

fn cells(row: &Changed<'_>) -> [String; 14] {
    let chosen = |choice: Option<&(String, bool)>| match choice {
        Some((answer, is_right)) => [text_cell(answer), if *is_right { "correct" } else { "incorrect" }.to_owned()],
        None => [String::new(), String::new()],
    };
    let code = |code: Option<ErrorCode>| code.map(|code| code.name().to_owned()).unwrap_or_default();
    let [encoder_answer, encoder_outcome] = chosen(row.encoder);
    let [score_answer, score_outcome] = chosen(row.scoring);
    let lost_at = match row.lost_at {
        Some(LostAt::Wording) => "wording",
        Some(LostAt::Choice) => "choice",
        Some(LostAt::Unknown) => "unknown",
        None => "",
    };
    [
        text_cell(row.run),
        text_cell(row.dataset),
        text_cell(row.sample),
        row.content.to_owned(),
        text_cell(row.label),
        text_cell(row.said[0]),
        text_cell(row.said[1]),
        code(row.codes[0]),
        code(row.codes[1]),
        encoder_answer,
        encoder_outcome,
        score_answer,
        score_outcome,
        lost_at.to_owned(),
    ]
}
