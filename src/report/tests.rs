//! Tests of what a reader of a report relies on.

use super::{ReportInput, columns, csv, error_choice, html, json, markdown, side_by_side, table};
use crate::chart::samples::{dataset, four, subject, summary, without_encoder};
use crate::chart::{Drawn, RoseChart, RoseOptions, Scale, Style};
use crate::compare::{ConstantAnswer, Summary};
use crate::domain::{
    Answer, AnswerType, Computing, DatasetSpec, ErrorCode, Label, Mode, ModelSpec, Outcome, Response, RunSpec, Stop,
    Subject, SubjectPrompt, Trial,
};

fn spec(summary: &Summary) -> RunSpec {
    let labels: Vec<String> = ["cat", "dog", "<b>ship</b>"].map(str::to_owned).to_vec();
    let dataset = |name: &str| DatasetSpec {
        dataset: name.to_owned(),
        split: "test".to_owned(),
        is_training_split: false,
        label_set: "blake3:00".to_owned(),
        labels: labels.iter().map(|name| Label::named(name.as_str())).collect(),
        answer_type: AnswerType::Object,
        exif: None,
        prompts: vec![SubjectPrompt {
            subject: Subject::Model,
            mode: Mode::Generate,
            prompt: "emt".to_owned(),
            text: "What is the object in the image?".to_owned(),
            rendered: None,
            ids: None,
            hash: "blake3:00".to_owned(),
        }],
    };
    RunSpec {
        model: ModelSpec {
            name: summary.model.name.clone(),
            family: summary.model.family.clone(),
            weights: Some("blake3:01".to_owned()),
            adapter: None,
            merged: false,
            tokenizer: Some("blake3:02".to_owned()),
            chat_template: Some("blake3:03".to_owned()),
            preprocessing: serde_json::Value::Null,
            settings: None,
            own_settings: None,
            generation_config: serde_json::Value::Null,
            served: None,
            part: None,
        },
        encoder: None,
        probe: None,
        datasets: summary.datasets.iter().map(|one| dataset(&one.dataset)).collect(),
        sample_seed: 7,
        modes: vec![Mode::Generate],
        max_new_tokens: 32,
        computing: Computing::Local { compute_type: "f32".into(), device_kind: "cpu".into() },
        judges: Vec::new(),
        label_scoring_version: 1,
        tuned_on: Default::default(),
    }
}

fn trial(dataset: &str, index: usize, label: &str, answer: &str, outcome: Outcome) -> Trial {
    Trial {
        dataset: dataset.to_owned(),
        split: "test".to_owned(),
        sample: format!("{dataset}/test/{index:05}"),
        content: "blake3:04".to_owned(),
        label: label.to_owned(),
        subject: Subject::Model,
        mode: Mode::Generate,
        prompt: "emt".to_owned(),
        response: Some(Response::Generated(Answer {
            text: answer.to_owned(),
            stop: Stop::Eos,
            n_prompt_tokens: None,
            n_answer_tokens: None,
            logit_gap: None,
        })),
        thought: None,
        scores: Vec::new(),
        prior_corrected: None,
        fewer_shots: Vec::new(),
        verdicts: Vec::new(),
        outcome,
    }
}

const EVIL: &str = "</q><script>alert(`1`)</script> | a \"cell\"\nand more";

/// Renders `summary` with a few trials through `render`.
fn render(summary: &Summary, render: fn(&ReportInput<'_>) -> String) -> String {
    let options = RoseOptions { scale: Scale::Radius, style: Style::Petals, paper_rows: true };
    let rose = Drawn::rose(&RoseChart::of_summary(summary, options));
    let wrong = Outcome::Incorrect(ErrorCode::Wrong);
    let mut trials: Vec<Trial> = (0..5).map(|index| trial("mnist", index, "cat", "A dog.", wrong)).collect();
    trials.push(trial("mnist", 5, "dog", "cat", wrong));
    trials.push(trial("mnist", 6, "<b>ship</b>", EVIL, Outcome::Incorrect(ErrorCode::Out)));
    trials.push(trial("mnist", 7, "cat", "", Outcome::Incorrect(ErrorCode::Empty)));
    trials.push(trial("mnist", 8, "cat", "never shown: right", Outcome::Correct));
    render(&ReportInput {
        summary,
        spec: &spec(summary),
        trials: &trials,
        images: &[],
        rose: &rose,
        paper_rows: true,
        environment: &[("host".to_owned(), "<i>laptop</i>".to_owned())],
        command: "emt eval --model 'a<b' --out run",
    })
}

#[test]
fn the_columns_of_the_terminal_table_end_under_each_other() {
    let text = table(&four());
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("dataset")).take(6).collect();
    let ends = |line: &str| -> Vec<usize> {
        let letters: Vec<char> = line.chars().chain("  ".chars()).collect();
        let is_end = |at: &usize| letters[*at] != ' ' && letters[at + 1] == ' ' && letters[at + 2] == ' ';
        (0..letters.len() - 2).filter(is_end).collect()
    };
    let header = ends(lines[0]);
    for row in &lines[2..] {
        // The first column is flush left, so only the starts align.
        assert_eq!(ends(row)[1..], header[1..], "{text}");
    }
    assert!(lines[1].chars().all(|letter| letter == '─'));
}

#[test]
fn the_terminal_table_names_relation_judge_and_training_split_and_what_is_uncertain() {
    let text = table(&four());
    for words in [
        "the model's own tower, weights equal",
        "rules version 1",
        "warning: Training split: miniimagenet (train)",
        "miniimagenet (train!)",
        "6.1% of the model's scored answers are not certain by rules",
        "cifar10: 2 of 1000 trials of the model are unscored (2 judge failed)",
        "57.0 [55.0–59.0]",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn what_is_missing_is_a_dash_and_never_a_number() {
    let text = table(&without_encoder(four()));
    let row = text.lines().find(|line| line.starts_with("cifar100")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells, ["cifar100", "1000", "1%", "–", "–", "–", "0", "0", "0", "1000"]);
    assert!(text.contains("No encoder was run"));
    for text in [text, render(&without_encoder(four()), html), render(&without_encoder(four()), markdown)] {
        assert!(!text.contains("NaN"));
    }
}

#[test]
fn an_answer_cannot_steer_the_terminal() {
    let mut run = four();
    run.datasets[0].constant_answer = Some(ConstantAnswer { answer: "\u{1b}[2J8".to_owned(), share: 0.71 });
    let text = table(&run);
    assert!(text.contains("71.0% of the model's scored answers are the same text, “ [2J8”"), "{text}");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn csv_reads_back_with_every_number_in_full() {
    let mut run = four();
    run.datasets[0].dataset = "a \"quoted\", name\nof two lines".to_owned();
    run.datasets[1].model_score = Some(subject(900, 1000, 0));
    let text = csv(&run);
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    assert_eq!(reader.headers().unwrap().iter().map(str::to_owned).collect::<Vec<_>>(), columns());
    let rows: Vec<std::collections::HashMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    let subjects: Vec<(&str, &str)> = rows.iter().map(|row| (&row["subject"][..], &row["mode"][..])).collect();
    assert_eq!(subjects.len(), 9);
    assert_eq!(subjects[2..5], [("model", "generate"), ("model", "score"), ("encoder", "zero_shot")]);
    assert_eq!(rows[0]["dataset"], run.datasets[0].dataset);
    assert_eq!(rows[2]["accuracy"].parse::<f64>().unwrap(), 730.0 / 998.0);
    assert_eq!(rows[2]["retention"].parse::<f64>().unwrap(), run.datasets[1].retention.unwrap());
    assert_eq!((&rows[2]["unscored_judge_failed"][..], &rows[2]["code_echo"][..]), ("2", "0"));
    assert_eq!((&rows[5]["accuracy"][..], &rows[5]["retention"][..]), ("", ""), "cifar100 was not scored");
    assert_eq!(rows[3]["retention"], "", "retention belongs to generation");
}

#[test]
fn csv_columns_are_unique() {
    let mut names = columns();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), columns().len());
}

#[test]
fn json_reads_back_equal_and_keeps_null_for_what_is_not_defined() {
    let text = json(&four());
    assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), four());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(value["datasets"][2]["model"]["accuracy"].is_null());
    assert!(value["datasets"][2]["retention"].is_null());
    assert_eq!(value["schema"], "emt.summary/1");
}

#[test]
fn the_page_loads_nothing() {
    let page = render(&four(), html);
    for needle in ["http:", "https:", "//", "src=", "href", "url(", "@import", "<link", "<script", "<img", "<iframe"] {
        assert!(!page.contains(needle), "{needle}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn answers_and_names_cannot_become_markup() {
    let page = render(&four(), html);
    assert!(page.contains("&lt;/q&gt;&lt;script&gt;alert(`1`)&lt;/script&gt; | a &quot;cell&quot;\nand more"));
    assert!(page.contains("&lt;b&gt;ship&lt;/b&gt;") && page.contains("&lt;i&gt;laptop&lt;/i&gt;"));
    assert!(page.contains("&#39;a&lt;b&#39;"));
    let page = render(&summary(vec![dataset("<img onerror=x>", Some(subject(1, 2, 0)), None)]), html);
    assert!(!page.contains("<img") && page.contains("&lt;img onerror=x&gt;"));
}

#[test]
fn every_element_of_the_page_is_closed() {
    let page = render(&four(), html);
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed));
        } else if !tag.ends_with('/') && !["!doctype", "meta"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_has_the_chart_the_table_and_examples_by_code() {
    let page = render(&four(), html);
    for words in [
        "role=\"img\"",
        "<th scope=\"row\">mnist</th><td class=\"number\">57.0% <span class=\"interval\">(55.0–59.0)</span></td>",
        "training split!",
        "<summary>mnist <span class=\"count\">8 errors</span></summary>",
        "incorrect prediction, 6 in all",
        "<q>A dog.</q>",
        "<em>empty</em>",
        "56.96%",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("never shown"));
    // Five equal answers are one example; the confusions count them.
    assert_eq!(page.matches("<q>A dog.</q>").count(), 1);
    assert!(page.contains("<th scope=\"row\">cat</th><td>dog</td><td class=\"number\">5</td>"));
}

#[test]
fn cells_of_markdown_tables_stay_cells() {
    let mut run = four();
    run.datasets[0].dataset = "a|b `c` *d*".to_owned();
    let text = render(&run, markdown);
    let mut n_bars = None;
    for line in text.lines() {
        let bars = line.replace("\\|", "").matches('|').count();
        match (line.starts_with('|'), n_bars) {
            (true, None) => n_bars = Some(bars),
            (true, Some(expected)) => assert_eq!(bars, expected, "{line}"),
            (false, _) => n_bars = None,
        }
    }
    assert!(text.contains("| a\\|b \\`c\\` \\*d\\* |"));
    assert!(text.contains("![Rose chart of the accuracies below](rose.svg)"));
}

#[test]
fn a_verbatim_answer_is_one_code_span_in_markdown() {
    let text = render(&four(), markdown);
    assert!(text.contains("`` </q><script>alert(`1`)</script> | a \"cell\"↵and more ``"), "{text}");
    assert!(text.contains("- cat: (empty)"));
}

#[test]
fn a_page_says_first_how_much_of_each_dataset_is_right() {
    for (text, rest) in [(render(&four(), html), "<svg"), (render(&four(), markdown), "![Rose")] {
        let first = text.find(" images right").unwrap();
        assert!(first < text.find(rest).unwrap());
        assert!(first < text.find("Judge").unwrap());
    }
}

#[test]
fn errors_are_shown_with_their_images_in_turns_over_their_codes() {
    let wrong = Outcome::Incorrect(ErrorCode::Wrong);
    let mut trials: Vec<Trial> = (0..9).map(|index| trial("mnist", index, "cat", "A dog.", wrong)).collect();
    trials.push(trial("mnist", 9, "cat", EVIL, Outcome::Incorrect(ErrorCode::Out)));
    trials.push(trial("mnist", 10, "cat", "cat", Outcome::Correct));
    let chosen = error_choice(&trials, "mnist", 3);
    let samples: Vec<&str> = chosen.iter().map(|(trial, _)| trial.sample.as_str()).collect();
    assert_eq!(samples.len(), 3);
    assert!(samples.contains(&trials[9].sample.as_str()), "a rare code is seen beside a frequent one: {samples:?}");
    assert_eq!(error_choice(&trials, "mnist", 99).len(), 10);
    assert!(error_choice(&trials, "cifar10", 99).is_empty());
}

#[test]
fn runs_of_one_lock_step_stand_in_one_table() {
    let base = four();
    let mut tuned = four();
    tuned.run = "lora".to_owned();
    let model = tuned.datasets[0].model.as_mut().unwrap();
    let accuracy = model.accuracy.unwrap();
    model.accuracy = Some(accuracy - 0.1);
    let text = side_by_side(&[base.clone(), tuned.clone()], true);
    assert_eq!(text.lines().filter(|line| line.starts_with("lora")).count(), 1, "{text}");
    assert!(text.contains("(-10.0)") && text.contains("in parentheses its change"), "{text}");
    assert!(!side_by_side(&[base, tuned], false).contains("(-10.0)"));
}
