//! Notes and warnings for the reader of a comparison.

use super::super::notes::{self, Note, Weight};
use super::ComparisonReport;
use crate::chart::words;
use crate::compare::{CandidateComparison, ConstantAnswer, DatasetComparison, Summary};
use crate::domain::EncoderRelation;

/// The warning if the fine-tuning datasets are unknown.
pub const LEAKS_UNKNOWN: &str =
    "Leaks are not known, because the fine-tuned datasets were not named; hint: `--tuned-on A,B`.";

/// Returns all notes, warnings first.
pub fn notes(report: &ComparisonReport<'_>) -> Vec<Note> {
    let mut warnings: Vec<String> = overridden(report).into_iter().collect();
    let (mut remarks, mut unreadable) = (Vec::new(), Vec::new());
    warnings.extend(report.warnings.iter().cloned());
    warnings.extend(words::training_split_warning(report.before));
    let is_single = report.comparison.candidates.len() == 1;
    for candidate in &report.comparison.candidates {
        let of = if is_single { String::new() } else { format!("{}: ", candidate.run) };
        for dataset in &candidate.datasets {
            let about = format!("{of}{}", dataset.dataset);
            warnings.extend(counted(dataset).map(|text| format!("{about}: {text}")));
            let constants = [("before", &dataset.constant_answer_before), ("after", &dataset.constant_answer_after)];
            for (when, constant) in constants {
                warnings.extend(constant.as_ref().map(|constant| format!("{about}: {}", same_answer(when, constant))));
            }
            if dataset.n_unreadable > 0 {
                unreadable.push(format!("{about} {}", dataset.n_unreadable));
            }
        }
        remarks.extend(only_candidate(candidate).map(|text| format!("{of}{text}")));
    }
    if !unreadable.is_empty() {
        remarks.push(format!("Images unreadable in both runs, which are left out: {}.", unreadable.join(", ")));
    }
    let of_server =
        |summary: &Summary| summary.model.server_flips.map(|flips| notes::server_flips_note(&summary.run, &flips));
    remarks
        .extend(std::iter::once(report.before).chain(report.pairs().map(|(_, with)| with.after)).filter_map(of_server));
    for (candidate, with) in report.pairs() {
        let of = if is_single { String::new() } else { format!("{}: ", candidate.run) };
        let [before, after] = [&report.before.encoder, &with.after.encoder].map(words::comparator);
        if let (Some(before), Some(after)) = (before, after)
            && before != after
        {
            warnings.push(format!(
                "{of}The baseline is compared with {before}, the candidate with {after}: their retentions say nothing \
                 about each other."
            ));
        }
        remarks.extend(words::tower_change(&with.after.encoder).map(|text| format!("{of}{text}")));
        match with.after.encoder.relation {
            EncoderRelation::None => warnings.push(format!(
                "{of}No encoder was run: retention and where an image was lost are not defined; hint: `--encoder auto`."
            )),
            EncoderRelation::Own if with.after.encoder.probe.is_some() => {
                if !remarks.iter().any(|remark| remark == notes::PROBE) {
                    remarks.push(notes::PROBE.to_owned());
                }
            }
            EncoderRelation::Own => {}
            _ => remarks.push(format!("{of}The encoder is {}.", words::relation(&with.after.encoder))),
        }
    }
    for candidate in &report.comparison.candidates {
        let of = if is_single { String::new() } else { format!("{}: ", candidate.run) };
        let tuned_on = candidate.tuned_on.join(", ");
        let is_known = candidate.datasets.iter().all(|dataset| dataset.is_leak_known);
        remarks.push(match (candidate.tuned_on.is_empty(), is_known) {
            (true, _) => format!("{of}{LEAKS_UNKNOWN}"),
            (false, true) => format!("{of}Leaks are labels of {tuned_on}, for both runs alike."),
            (false, false) => format!("{of}Leaks are not known: not all labels of {tuned_on} are known."),
        });
    }
    let warnings = warnings.into_iter().map(|text| Note { weight: Weight::Warning, text });
    warnings.chain(remarks.into_iter().map(|text| Note { weight: Weight::Remark, text })).collect()
}

/// Warns that unlike runs are compared because this was allowed.
fn overridden(report: &ComparisonReport<'_>) -> Option<String> {
    let allowed = &report.comparison.allowed_different;
    if allowed.is_empty() {
        return None;
    }
    let mut fields: Vec<&str> = report
        .comparison
        .candidates
        .iter()
        .flat_map(|candidate| &candidate.differences)
        .map(|difference| difference.field.as_str())
        .collect();
    fields.sort_unstable();
    fields.dedup();
    let found = match fields[..] {
        [] => "no field differs".to_owned(),
        _ => format!("the runs differ in {}", fields.join(", ")),
    };
    Some(format!(
        "Compared although they differ (--allow-different {}): {found}. The results may come from this difference and not from fine-tuning.",
        allowed.join(" --allow-different ")
    ))
}

/// Reports unscored pairs, and trials without a partner.
fn counted(dataset: &DatasetComparison) -> Option<String> {
    let mut parts = Vec::new();
    if dataset.n_unscored > 0 {
        let bounds = dataset.forgetting_bounds;
        let bounds = bounds.map_or(String::new(), |[low, high]| {
            let [low, high] = [low, high].map(|end| words::points(Some(end), None));
            format!("; whatever their outcome, the fall is between {low} and {high} points")
        });
        parts.push(format!("{} of {} pairs are unscored on either side{bounds}", dataset.n_unscored, dataset.n_pairs));
    }
    if dataset.n_unpaired > 0 {
        parts.push(format!("{} trials have no partner in the other run and are left out", dataset.n_unpaired));
    }
    (!parts.is_empty()).then(|| format!("{}.", parts.join("; ")))
}

/// Reports that most answers are the same text.
pub fn same_answer(when: &str, constant: &ConstantAnswer) -> String {
    format!(
        "{} of the scored answers {when} are the same text, “{}”.",
        words::percent(Some(constant.share)),
        words::shortened(&words::printable(&constant.answer), 80)
    )
}

fn only_candidate(candidate: &CandidateComparison) -> Option<String> {
    (!candidate.only_candidate.is_empty())
        .then(|| format!("{} left out: the baseline was not evaluated on it.", candidate.only_candidate.join(", ")))
}

/// Returns the heading lines, each a name and its text.
pub fn headings(report: &ComparisonReport<'_>) -> Vec<(&'static str, String)> {
    let identity = |identity: &str| words::shortened(identity.strip_prefix("blake3:").unwrap_or(identity), 8);
    let comparison = report.comparison;
    let mut lines =
        vec![("Baseline", format!("{} ({})", comparison.baseline, identity(&comparison.baseline_identity)))];
    let candidates: Vec<String> =
        comparison.candidates.iter().map(|one| format!("{} ({})", one.run, identity(&one.identity))).collect();
    lines.push((if candidates.len() == 1 { "Candidate" } else { "Candidates" }, candidates.join(", ")));
    lines.extend(notes::headings(report.before).into_iter().filter(|(name, _)| ["Encoder", "Judge"].contains(name)));
    if !comparison.tuned_on.is_empty() {
        lines.push(("Tuned on", comparison.tuned_on.join(", ")));
    }
    lines
}
