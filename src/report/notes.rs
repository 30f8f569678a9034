//! The texts of every report: headings, and notes for the reader.

use crate::chart::words;
use crate::compare::{DatasetSummary, ServerFlips, SubjectSummary, Summary};
use crate::domain::{EncoderRelation, ErrorCode, ErrorKind, JudgeKind};

/// How urgent a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The numbers may mislead without it.
    Warning,
    /// It explains the numbers.
    Remark,
}

/// A sentence below the headings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How urgent it is.
    pub weight: Weight,
    /// The sentence.
    pub text: String,
}

/// The document's title.
pub fn title(summary: &Summary) -> String {
    format!("What {} still sees", words::model(&summary.model))
}

/// Returns the heading lines, each a name and its text.
pub fn headings(summary: &Summary) -> Vec<(&'static str, String)> {
    let model = &summary.model;
    let behind = |line: String| line.split_once(": ").map_or(line.clone(), |(_, rest)| rest.to_owned());
    vec![
        ("Model", format!("{} ({})", words::model(model), words::how_run(&model.family, &model.computing))),
        ("Encoder", behind(words::encoder_heading(&summary.encoder))),
        ("Judge", behind(words::judge_heading(&summary.judge))),
        ("Run", summary.run.clone()),
    ]
}

/// Returns all notes, warnings first.
pub fn notes(summary: &Summary) -> Vec<Note> {
    let warning = |text: String| Note { weight: Weight::Warning, text };
    let remark = |text: String| Note { weight: Weight::Remark, text };
    let mut notes: Vec<Note> = words::training_split_warning(summary).into_iter().map(warning).collect();
    let noun = words::encoder_noun(&summary.encoder);
    for dataset in &summary.datasets {
        notes.extend(constant_answer(dataset).map(warning));
        notes.extend(unscored(dataset, "model", dataset.model.as_ref()).map(warning));
        notes.extend(unscored(dataset, "model, by label scoring,", dataset.model_score.as_ref()).map(warning));
        notes.extend(unscored(dataset, noun, dataset.encoder.as_ref()).map(warning));
    }
    let without = unprobed(summary);
    if !without.is_empty() {
        notes.push(warning(format!(
            "No probe for {}: no images of a training split were available, so retention is not defined.",
            without.join(", ")
        )));
    }
    notes.extend(summary.model.server_flips.map(|flips| remark(server_flips_note(&summary.run, &flips))));
    if scoring(summary).has_prior {
        notes.push(remark(
            "Prior-corrected: label scoring that subtracts each label's score on an image of the mean colour."
                .to_owned(),
        ));
    }
    match summary.encoder.relation {
        EncoderRelation::None => notes.push(warning(
            "No encoder was run: retention and the model-against-encoder counts are not defined.".to_owned(),
        )),
        EncoderRelation::Own if summary.encoder.probe.is_some() => notes.push(remark(PROBE.to_owned())),
        EncoderRelation::Own => {}
        EncoderRelation::Ancestor | EncoderRelation::Other | EncoderRelation::Changed => notes.push(remark(format!(
            "The encoder is {}: retention compares the model with it.",
            words::relation(&summary.encoder)
        ))),
    }
    notes.extend(words::tower_change(&summary.encoder).map(remark));
    notes.extend(summary.judge.uncertain_share.filter(|share| share.is_finite()).map(|share| {
        let told = format!("{} of the model's scored answers are not certain by rules.", words::percent(Some(share)));
        if misses_names(summary, share) { warning(format!("{told} {OTHER_NAMES}")) } else { remark(told) }
    }));
    notes
}

/// The advice if the rules may not know the model's names for the classes.
const OTHER_NAMES: &str = "The model may use other names for the classes, so its score may be too low; hint: name \
                           aliases with `--labels`, or let a language model judge these answers with `--judge \
                           rules+llm`.";

/// Whether the rules judged alone, were certain of few answers, and found few of them right on some dataset.
fn misses_names(summary: &Summary, uncertain_share: f64) -> bool {
    let is_low = |dataset: &DatasetSummary| {
        dataset.model.as_ref().and_then(|model| model.accuracy).is_some_and(|accuracy| accuracy < LOW_ACCURACY)
    };
    summary.judge.name == JudgeKind::Rules.name() && uncertain_share > 0.5 && summary.datasets.iter().any(is_low)
}

/// The accuracy that a model answering with the classes' names rarely falls below.
const LOW_ACCURACY: f64 = 0.5;

/// The warning about comparing a probe's numbers with others.
pub const PROBE: &str = "The probe learnt from a few labelled training images per class, a zero-shot encoder from \
                         none: retention over a probe is not comparable with retention over a zero-shot encoder, and \
                         may exceed 100% if there are few shots.";

/// The datasets without a probe, if others have one.
fn unprobed(summary: &Summary) -> Vec<&str> {
    let without = summary.datasets.iter().filter(|dataset| dataset.encoder.is_none());
    let names = without.map(|dataset| dataset.dataset.as_str()).collect();
    if summary.encoder.probe.is_some() { names } else { Vec::new() }
}

/// Describes how much of the changes is a server's own noise.
pub fn server_flips_note(run: &str, flips: &ServerFlips) -> String {
    let ServerFlips { n_repeated, n_answers_changed, n_outcomes_changed, .. } = flips;
    if *n_repeated == 0 {
        return format!("{run}: the server answered none of the samples that were repeated.");
    }
    format!(
        "{run}: the server flips {n_answers_changed} of {n_repeated} answers ({}) and {n_outcomes_changed} outcomes \
         ({}) when questions are repeated; differences below that are not the model's.",
        words::percent(flips.answer_flip_rate),
        words::percent(flips.outcome_flip_rate)
    )
}

fn constant_answer(dataset: &DatasetSummary) -> Option<String> {
    let constant = dataset.constant_answer.as_ref()?;
    Some(format!(
        "{}: {} of the model's scored answers are the same text, “{}”.",
        dataset.dataset,
        words::percent(Some(constant.share)),
        words::shortened(&words::printable(&constant.answer), 80)
    ))
}

fn unscored(dataset: &DatasetSummary, who: &str, subject: Option<&SubjectSummary>) -> Option<String> {
    let subject = subject.filter(|subject| subject.n_unscored > 0)?;
    let reasons: Vec<String> = subject.unscored.iter().map(|(reason, n)| format!("{n} {}", spaced(reason))).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let bounds = match subject.accuracy_bounds {
        Some(bounds) => format!("; counted as wrong or as right the accuracy is {}%", words::interval(Some(bounds))),
        None => String::new(),
    };
    Some(format!(
        "{}: {} of {} trials of the {who} are unscored{reasons}{bounds}.",
        dataset.dataset, subject.n_unscored, subject.n_trials
    ))
}

/// Replaces underscores: `too_generic` becomes `too generic`.
pub fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

/// Returns the name of a kind for readers.
pub fn kind_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::IncorrectPrediction => "incorrect prediction",
        ErrorKind::IntrinsicHallucination => "intrinsic hallucination",
        ErrorKind::ExtrinsicHallucination => "extrinsic hallucination",
    }
}

/// Returns the meaning of a code.
pub fn meaning(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Wrong => "exactly one label of the dataset, and it is wrong",
        ErrorCode::Disputed => "the label is found in the answer, but the deciding judge says incorrect",
        ErrorCode::Multi => "two or more labels of the dataset",
        ErrorCode::Echo => "the prompt's list of labels, repeated",
        ErrorCode::TypeClash => "a number and an object in one answer",
        ErrorCode::Leak => "a label of the fine-tuning dataset, and none of this one",
        ErrorCode::TooGeneric => "a more general term than the label",
        ErrorCode::TooSpecific => "a more specific term than the label",
        ErrorCode::Out => "none of the labels",
        ErrorCode::Empty => "no content",
        ErrorCode::Refusal => "the model declined to answer",
    }
}

/// Returns how often `kind` occurs; `None` if the subject did not run.
pub fn n_of_kind(subject: Option<&SubjectSummary>, kind: ErrorKind) -> Option<usize> {
    Some(subject?.kinds.get(kind.name()).copied().unwrap_or(0))
}

/// Formats a count, or a dash if nothing was counted.
pub fn count(n: Option<usize>) -> String {
    n.map_or_else(|| words::MISSING.to_owned(), |n| n.to_string())
}

/// The columns of label scoring in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// Whether labels were scored on some dataset.
    pub is_run: bool,
    /// Whether there are choices without the model's prior.
    pub has_prior: bool,
}

/// Returns which columns of label scoring there are to show.
pub fn scoring(summary: &Summary) -> Scoring {
    let mut scored = summary.datasets.iter().filter_map(|dataset| dataset.model_score.as_ref()).peekable();
    let is_run = scored.peek().is_some();
    Scoring { is_run, has_prior: scored.any(|subject| subject.prior_corrected_accuracy.is_some()) }
}

/// The accuracy of label scoring without the model's prior, and its interval.
pub fn prior_corrected(subject: Option<&SubjectSummary>) -> (Option<f64>, Option<[f64; 2]>) {
    subject.map_or((None, None), |subject| (subject.prior_corrected_accuracy, subject.prior_corrected_interval))
}

/// A subject's accuracy and interval.
pub fn accuracy(subject: Option<&SubjectSummary>) -> (Option<f64>, Option<[f64; 2]>) {
    subject.map_or((None, None), |subject| (subject.accuracy, subject.accuracy_interval))
}
