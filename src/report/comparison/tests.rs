//! Tests of what a reader of a comparison relies on.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::chart::comparison_samples::{FLOWS, HOSTILE, candidate, compared, comparison, summaries};
use crate::chart::{RoseOptions, Scale, Style};
use crate::compare::{DatasetComparison, FieldDifference, PairTable, TowerForgetting};
use crate::domain::RgbImage;
use crate::gate::Verdict;
use crate::report::{DatasetBrief, DecisionBrief};

const PLAIN: RoseOptions = RoseOptions { scale: Scale::Radius, style: Style::Petals, paper_rows: false };

/// Renders `comparison` with the pictures of the first three lost images of each dataset.
fn render(comparison: &Comparison, render: fn(&ComparisonReport<'_>) -> String) -> String {
    let (before, afters) = summaries(comparison);
    let refs: Vec<&Summary> = afters.iter().collect();
    let charts = ComparisonCharts::draw(comparison, &before, &refs, PLAIN, Some(0.02));
    let image = RgbImage::new(32, 32, vec![90; 32 * 32 * 3]).unwrap();
    let galleries: Vec<Vec<GalleryImage<'_>>> = comparison
        .candidates
        .iter()
        .map(|one| one.datasets.iter().flat_map(|set| gallery_of(set, &image)).collect())
        .collect();
    let decision = DecisionBrief {
        verdict: Verdict::Fail,
        headline: "something was <forgotten>".to_owned(),
        datasets: vec![DatasetBrief {
            dataset: "mnist".to_owned(),
            verdict: Verdict::Fail,
            n_scored: 812,
            why: "fail: <forgetting>".to_owned(),
        }],
        notes: vec!["warning: <cifar10> is left out".to_owned()],
    };
    let candidates: Vec<CandidateReport<'_>> = afters
        .iter()
        .zip(&galleries)
        .map(|(after, gallery)| CandidateReport {
            after,
            gallery,
            curve: None,
            decision: Some(&decision),
            diagnosis: None,
        })
        .collect();
    let warnings = ["The test set was <chosen> on often.".to_owned()];
    render(&ComparisonReport {
        title: "What lora forgot",
        comparison,
        before: &before,
        candidates: &candidates,
        charts: &charts,
        stages: None,
        warnings: &warnings,
        command: "emt report 'a<b' --baseline base",
    })
}

fn gallery_of<'a>(dataset: &'a DatasetComparison, image: &RgbImage) -> Vec<GalleryImage<'a>> {
    let pictures = [
        Picture::Shown(Thumbnail::of(image).unwrap()),
        Picture::Absent(Absence::Differs),
        Picture::Absent(Absence::NotAtHand),
    ];
    let lost = gallery_choice(&dataset.lost, 3).into_iter();
    lost.zip(pictures).map(|(lost, picture)| GalleryImage { dataset: &dataset.dataset, lost, picture }).collect()
}

const CALM: [(&str, &str, usize); 4] =
    [("correct", "correct", 840), ("correct", "wrong", 12), ("wrong", "correct", 14), ("wrong", "wrong", 130)];

fn two() -> Comparison {
    comparison(vec![candidate("lora", vec![compared("mnist", &FLOWS), compared("cifar10", &CALM)])])
}

/// The dataset without all optional values.
fn bare(name: &str) -> DatasetComparison {
    let mut bare = compared(name, &[]);
    bare.funnel = None;
    bare.encoder_knows = None;
    bare.encoder_cells_after = None;
    bare.p_value_mcnemar = None;
    bare.minimum_detectable_fall = None;
    bare.constant_answer_after = None;
    bare.classes.clear();
    bare.confusion_shifts.clear();
    bare.judges.clear();
    bare.judge_agreement.clear();
    bare
}

#[test]
fn json_reads_back_equal_and_steers_no_terminal() {
    let mut comparison = two();
    let text = comparison_json(&comparison);
    assert!(!text.contains(['\u{1b}', '\u{202e}']) && text.contains("\\u202e"));
    // These fields are not in the file.
    for dataset in comparison.candidates.iter_mut().flat_map(|candidate| &mut candidate.datasets) {
        dataset.lost.clear();
        dataset.n_distinct_images = 0;
    }
    assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap(), comparison);
}

#[test]
fn csv_has_a_row_a_candidate_and_dataset_and_keeps_numbers_numbers() {
    let mut comparison = two();
    comparison.baseline = "=cmd|' /C calc'!A0".to_owned();
    comparison.candidates[0].run = "\t@SUM(1)".to_owned();
    comparison.candidates.push(candidate("plain", vec![bare("mnist")]));
    let text = comparison_csv(&comparison);
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let heads: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    assert_eq!(heads, comparison_columns());
    let rows: Vec<std::collections::HashMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 3);
    assert!(rows[0]["baseline"].starts_with("'=") && rows[0]["run"].starts_with('\''));
    assert!(!rows[0]["constant_answer_after"].contains('\u{1b}'));
    let dataset = &comparison.candidates[0].datasets[1];
    assert!(dataset.forgetting.unwrap() < 0.0);
    assert_eq!(rows[1]["forgetting"].parse::<f64>().unwrap(), dataset.forgetting.unwrap());
    assert_eq!((&rows[0]["after_code_leak"][..], &rows[0]["before_e1s1g1"][..]), ("154", "690"));
    assert_eq!((&rows[2]["forgetting"][..], &rows[2]["lost_wording"][..], &rows[2]["before_e1s1g1"][..]), ("", "", ""));
    assert_eq!((&rows[2]["run"][..], &rows[2]["n_pairs"][..]), ("plain", "0"));
}

/// A dataset whose tower probe lost 40 of 1000 images.
fn with_tower(is_same_tower: bool) -> DatasetComparison {
    let table = PairTable { both_correct: 800, lost: 50, gained: 10, both_wrong: 140, ..PairTable::default() };
    let tower = TowerForgetting::of_table(16, is_same_tower, table);
    DatasetComparison { tower: Some(tower), ..compared("cifar10", &FLOWS) }
}

#[test]
fn a_tower_that_forgot_is_told_of_everywhere_and_one_that_stayed_is_cleared() {
    let changed = comparison(vec![candidate("lora", vec![with_tower(false)])]);
    for (name, text) in [
        ("html", render(&changed, comparison_html)),
        ("markdown", render(&changed, comparison_markdown)),
        ("terminal", comparison_table(&changed)),
    ] {
        assert!(text.contains("85.0%") && text.contains("81.0%"), "{name}");
        assert!(text.contains("tower itself"), "{name}");
    }
    let csv = comparison_csv(&changed);
    assert!(csv.lines().nth(1).unwrap().contains(",16,false,0.85,0.81,"), "{csv}");
    let same = comparison(vec![candidate("lora", vec![with_tower(true)])]);
    assert!(render(&same, comparison_markdown).contains("Both runs have the same tower"));
    assert!(!comparison_table(&same).contains("tower"));
}

#[test]
fn csv_columns_are_unique() {
    let mut names = comparison_columns();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), comparison_columns().len());
}

#[test]
fn the_page_loads_nothing_and_names_its_policy() {
    let page = render(&two(), comparison_html);
    for needle in ["<img src=x", "@import", "<link", "<script", "<iframe", "url(h", "src=\"h", "href=\"h"] {
        assert!(!page.contains(needle), "{needle}");
    }
    assert!(page.contains("default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"));
    assert_eq!(page.matches("src=\"").count(), page.matches("src=\"data:image/png;base64,").count());
    assert_eq!(page.matches("<img class=\"crisp\" src=\"data:").count(), 2);
}

#[test]
fn every_element_of_the_page_is_closed_and_no_id_stands_twice() {
    let mut many = two();
    many.candidates.push(candidate("other", vec![bare("mnist"), compared("<b>", &CALM)]));
    let page = render(&many, comparison_html);
    let mut open: Vec<&str> = Vec::new();
    let mut ids: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
        ids.extend(tag.split(" id=\"").nth(1).and_then(|rest| rest.split('"').next()));
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{tag}");
        } else if !tag.ends_with('/') && !["!doctype", "meta", "img"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let n_ids = ids.len();
    ids.sort_unstable();
    for target in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(ids.contains(&target), "{target}");
    }
    ids.dedup();
    assert_eq!(ids.len(), n_ids, "ids are unique");
}

#[test]
fn the_page_says_what_fell_what_rose_and_what_is_not_shown() {
    let better =
        compared("cifar100", &[("correct", "correct", 700), ("wrong", "correct", 90), ("wrong", "wrong", 210)]);
    let mut comparison = two();
    comparison.candidates[0].datasets.extend([better, bare("imagenet20/val")]);
    let page = render(&comparison, comparison_html);
    for words in [
        "<span class=\"tag\">fell</span> by 13.3 points (10.3–16.3); of 992 images 163 lost, 31 gained; the encoder still knows 130 of the lost; mostly lost wording (97)",
        "<span class=\"tag\">rose</span> by 9.0 points (6.0–12.0)",
        "<span class=\"tag\">no change shown</span> the measured fall is −0.2 points (−3.2 to 2.8)",
        "<span class=\"tag\">not compared</span> no image is scored in both runs",
        "8 of 1000 pairs are unscored on either side",
        "Not known: label scoring or the encoder did not run",
        "No verdicts of single judges were recorded.",
        "fail: &lt;forgetting&gt;",
        "The test set was &lt;chosen&gt; on often.",
        "no image: its file holds another image",
        "160 more are not shown.",
        "mix general instruction data",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("NaN"));
}

#[test]
fn what_was_compared_by_order_stands_first() {
    let mut comparison = two();
    comparison.allowed_different = vec!["prompt_text".to_owned()];
    comparison.candidates[0].differences = vec![FieldDifference {
        field: "prompt_text".to_owned(),
        place: "mnist.model.generate".to_owned(),
        baseline: "What is this?".into(),
        candidate: "<b>Name it.".into(),
    }];
    let page = render(&comparison, comparison_html);
    let first = page.split("<li class=\"warning\">").nth(1).unwrap();
    assert!(first.contains("--allow-different prompt_text") && first.contains("the runs differ in prompt_text"));
    assert!(page.contains("<td>What is this?</td><td>&lt;b&gt;Name it.</td>"));
    let text = render(&comparison, comparison_markdown);
    assert!(text.contains("--allow-different prompt\\_text") && text.contains("mnist.model.generate"));
}

#[test]
fn every_table_of_a_dataset_is_on_the_page_and_in_markdown() {
    let (page, text) = (render(&two(), comparison_html), render(&two(), comparison_markdown));
    for heading in [
        "Before and after",
        "Forgetting",
        "Where it was lost",
        "Kinds of error",
        "What became of the images",
        "Classes",
        "Confusions",
        "Judges",
    ] {
        assert_eq!(page.matches(&format!("\">{heading}</h4>")).count(), 2, "{heading}");
        assert_eq!(text.matches(&format!("#### {heading}\n")).count(), 2, "{heading}");
    }
    for words in [
        "0.936 to 0.974",
        "Negative flip rate",
        "Detectable fall",
        "Leak of the fine-tuned labels",
        "Without partner",
        "1 more in comparison.json",
    ] {
        assert!(page.contains(words) && text.contains(words), "{words}");
    }
    assert_eq!(text.matches("<details>").count(), text.matches("</details>").count());
}

#[test]
fn a_hostile_answer_is_text_everywhere() {
    let page = render(&two(), comparison_html);
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=alert(2)&gt;"));
    assert!(page.contains(&format!("<q>{}</q>", crate::chart::escape(HOSTILE))));
    let text = render(&two(), comparison_markdown);
    for document in [page, text, comparison_csv(&two()), comparison_json(&two())] {
        assert!(!document.contains(['\u{1b}', '\u{202e}']));
    }
    let text = render(&two(), comparison_markdown);
    for needle in ["<script", "<img", "http://x", " @all", "`|`"] {
        assert!(!text.contains(needle), "{needle}");
    }
}

#[test]
fn four_datasets_of_ten_thousand_images_are_made_at_once() {
    let large: Vec<(&str, &str, usize)> = FLOWS.iter().map(|&(from, to, n)| (from, to, 10 * n)).collect();
    let names = ["mnist", "cifar10", "cifar100", "miniimagenet"];
    let comparison = comparison(vec![candidate("lora", names.map(|name| compared(name, &large)).to_vec())]);
    assert_eq!(comparison.candidates[0].datasets[0].n_pairs, 10_000);
    let started = Instant::now();
    let page = render(&comparison, comparison_html);
    let text = render(&comparison, comparison_markdown);
    let both = (comparison_json(&comparison), comparison_csv(&comparison));
    assert!(started.elapsed().as_secs_f64() < 2.0, "{:?}", started.elapsed());
    // Lost images that are not shown take no space.
    assert!(page.len() < 400_000 && text.len() < 60_000 && both.0.len() < 200_000, "{} {}", page.len(), text.len());
}

/// Strings that a model, a label or a name may contain.
fn hostile() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("<script>".to_owned()),
        Just("</td></table></details>".to_owned()),
        Just("<img src=x onerror=alert(1)>".to_owned()),
        Just("\" onload=\"x".to_owned()),
        Just("=1+1".to_owned()),
        Just("\r\n=2".to_owned()),
        Just("\u{1b}[31m\u{9b}2J".to_owned()),
        Just("\u{202e}\u{2066}".to_owned()),
        Just("| `` ` \\| [a](http://x) ![b](y) @all #1 --- <!--".to_owned()),
        Just("]]>&quot;&lt;".to_owned()),
        ".{0,12}",
    ];
    proptest::collection::vec(pieces, 0..5).prop_map(|pieces| pieces.concat())
}

/// The tags of a page or document, without the content between them. A long name in a chart takes more lines, so the
/// number of texts is ignored.
fn tags(page: &str) -> Vec<String> {
    let names = page.split('<').skip(1).filter_map(|rest| rest.split(['>', ' ', '\n']).next());
    // A line may break after each slash of a name.
    names.filter(|name| !["text", "wbr/"].contains(&name.trim_start_matches('/'))).map(str::to_owned).collect()
}

/// The first difference between two lists, with its surroundings.
fn difference(one: &[String], other: &[String]) -> Option<[String; 2]> {
    let n = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let rest = |list: &[String]| list.iter().skip(n.saturating_sub(3)).take(6).cloned().collect::<Vec<_>>().join(" ");
    (n < one.len() || n < other.len()).then(|| [rest(one), rest(other)])
}

fn with_answer(answer: &str) -> Comparison {
    let mut dataset = compared(&format!("d{answer}"), &[("correct", "correct", 5), ("correct", "wrong", 2)]);
    for lost in &mut dataset.lost {
        lost.said_before = format!("a{answer}");
        lost.said_after = format!("a{answer}");
        lost.label = format!("a{answer}");
        lost.sample = format!("a{answer}");
        lost.encoder = Some((format!("a{answer}"), true));
    }
    dataset.constant_answer_after.as_mut().unwrap().answer = format!("a{answer}");
    dataset.confusion_shifts[0].said = format!("a{answer}");
    dataset.classes[0].label = format!("a{answer}");
    dataset.judges[0].judge = format!("a{answer}");
    comparison(vec![candidate(&format!("run{answer}"), vec![dataset])])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn no_answer_changes_the_markup_of_a_document(answer in hostile()) {
        let (plain, evil) = (with_answer(""), with_answer(&answer));
        prop_assert_eq!(difference(&tags(&render(&plain, comparison_html)), &tags(&render(&evil, comparison_html))), None);
        // A line that is a tag is HTML, in which a bar has no meaning.
        let shape = |text: String| -> Vec<usize> {
            let n_bars = |line: &str| line.replace("\\\\", "").replace("\\|", "").matches('|').count();
            text.lines().filter(|line| !line.starts_with('<')).map(n_bars).filter(|n_bars| *n_bars > 0).collect()
        };
        prop_assert_eq!(shape(render(&plain, comparison_markdown)), shape(render(&evil, comparison_markdown)));
        let without_comments = |text: String| tags(&text.replace("<!-- -->", ""));
        prop_assert_eq!(
            difference(
                &without_comments(render(&plain, comparison_markdown)),
                &without_comments(render(&evil, comparison_markdown)),
            ),
            None
        );
        for document in [
            render(&evil, comparison_html), render(&evil, comparison_markdown), comparison_csv(&evil), comparison_json(&evil),
        ] {
            let steers = |letter: char| letter != '\n' && (letter.is_control() || crate::chart::words::steers(letter));
            // A page keeps an answer's own tabs and line ends, which are harmless.
            prop_assert!(!document.chars().any(|letter| steers(letter) && !matches!(letter, '\t' | '\r')));
        }
        let csv = comparison_csv(&evil);
        let mut reader = ::csv::Reader::from_reader(csv.as_bytes());
        for cell in reader.records().map(Result::unwrap).flat_map(|row| row.iter().map(str::to_owned).collect::<Vec<_>>()) {
            let is_number = cell.parse::<f64>().is_ok();
            prop_assert!(is_number || !cell.trim_start().starts_with(['=', '+', '-', '@']), "{}", cell);
        }
        let back: Comparison = serde_json::from_str(&comparison_json(&evil)).unwrap();
        prop_assert_eq!(&back.candidates[0].datasets[0].dataset, &evil.candidates[0].datasets[0].dataset);
    }
}

#[test]
fn the_verdict_stands_before_anything_else_on_a_page_and_in_markdown() {
    let comparison = two();
    for (text, rest) in [
        (render(&comparison, comparison_html), ["<svg", "<table", "<dl class=\"about\"", "<nav"].as_slice()),
        (render(&comparison, comparison_markdown), ["| Dataset", "<details>"].as_slice()),
    ] {
        let verdict = text.find("FAIL").unwrap();
        let why = text.find("over 812 images").unwrap();
        let change = text.find("of the lost").unwrap();
        assert!(verdict < why && why < change);
        for part in rest {
            assert!(change < text.find(part).unwrap(), "{part}");
        }
    }
}

#[test]
fn what_changed_is_a_csv_whose_answers_are_no_formulas() {
    let mut comparison = two();
    let dataset = &mut comparison.candidates[0].datasets[0];
    dataset.lost.truncate(2);
    dataset.lost[0].said_after = "=HYPERLINK(\"http://x\")".to_owned();
    dataset.lost[0].sample = "@mnist/test/1".to_owned();
    dataset.lost[1].scoring = None;
    dataset.gained = vec![crate::compare::GainedImage {
        sample: "mnist/test/00009".to_owned(),
        content: "blake3:9".to_owned(),
        label: "9".to_owned(),
        said_before: "+1".to_owned(),
        said_after: "9".to_owned(),
        code_before: crate::domain::ErrorCode::Wrong,
        encoder: Some(("9".to_owned(), true)),
        scoring: None,
    }];
    comparison.candidates[0].datasets[1].lost.clear();
    let rows = |text: String| -> Vec<std::collections::HashMap<String, String>> {
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), CHANGED_COLUMNS);
        reader.deserialize().map(Result::unwrap).collect()
    };
    let lost = rows(lost_csv(&comparison));
    assert_eq!(lost.len(), 2);
    assert_eq!((&lost[0]["candidate_answer"][..2], &lost[0]["sample"][..2]), ("'=", "'@"));
    assert_eq!((&lost[0]["dataset"][..], &lost[0]["baseline_code"][..]), ("mnist", ""));
    assert!(!lost[0]["candidate_code"].is_empty() && !lost[0]["lost_at"].is_empty());
    assert_eq!((&lost[1]["score_answer"][..], &lost[1]["lost_at"][..]), ("", ""));
    let gained = rows(gained_csv(&comparison));
    assert_eq!((&gained[0]["baseline_answer"][..], &gained[0]["baseline_code"][..]), ("'+1", "wrong"));
    assert_eq!((&gained[0]["encoder_outcome"][..], &gained[0]["candidate_code"][..]), ("correct", ""));
}

#[test]
fn a_chart_beside_the_tables_shows_the_same_accuracies_where_a_run_left_images_unscored() {
    // The summaries count 731 of 998; there are fewer pairs, since the candidate left some unscored.
    let mut dataset = compared("mnist", &FLOWS);
    let table = PairTable { both_correct: 400, lost: 50, gained: 0, both_wrong: 50, ..PairTable::default() };
    let of_pairs = DatasetComparison::of_table("mnist", 10, table);
    dataset.baseline_accuracy = of_pairs.baseline_accuracy;
    dataset.baseline_accuracy_interval = of_pairs.baseline_accuracy_interval;
    dataset.candidate_accuracy = of_pairs.candidate_accuracy;
    dataset.candidate_accuracy_interval = of_pairs.candidate_accuracy_interval;
    dataset.forgetting = of_pairs.forgetting;
    let comparison = comparison(vec![candidate("lora", vec![dataset])]);
    let (before, afters) = summaries(&comparison);
    let refs: Vec<&Summary> = afters.iter().collect();
    let charts = ComparisonCharts::draw(&comparison, &before, &refs, PLAIN, Some(0.02));
    let (_, rose) = charts.of_candidate(0).find(|(name, _)| *name == "rose").unwrap();
    let svg = &rose.drawn.wide;
    assert!(svg.contains(">90.0<") && svg.contains(">80.0<"), "{svg}");
}
