//! Which recorded runs may not be compared, and what mends that.

use anyhow::{Result, bail};
use serde_json::Value;

use super::recorded_run::RecordedRun;
use crate::compare::{self, FieldDifference};
use crate::domain::text::quoted;
use crate::domain::{JudgeKind, JudgeSpec, RunSpec};
use crate::taxonomy::RULES_VERSION;

/// What differs between the runs and may.
///
/// # Errors
/// Something else differs.
pub fn checked(baseline: &RecordedRun, candidate: &RecordedRun, allowed: &[String]) -> Result<Vec<FieldDifference>> {
    let differences = compare::field_differences(&baseline.manifest.comparable, &candidate.manifest.comparable);
    refuse_unlike(baseline, candidate, &differences, allowed)?;
    Ok(differences)
}

/// What is wrong with two runs of one and the same model, by their names and specifications; `None` of two models.
pub fn same_model(
    [baseline, candidate]: [&str; 2],
    specs: [&RunSpec; 2],
    differences: &[FieldDifference],
) -> Option<String> {
    if !compare::is_same_model(specs[0], specs[1], differences) {
        return None;
    }
    let what = match &specs[1].model.served {
        Some(served) => format!("the served model `{}` twice, as far as its server reports", served.model),
        None => "the same model: weights, adapter and what decides their answers are equal".to_owned(),
    };
    Some(format!("baseline `{baseline}` and candidate `{candidate}` are {what}; no forgetting could be found"))
}

/// Refuses two runs of one and the same model.
///
/// # Errors
/// They are of one model.
pub fn refuse_same(names: [&str; 2], specs: [&RunSpec; 2], differences: &[FieldDifference]) -> Result<()> {
    let Some(message) = same_model(names, specs, differences) else { return Ok(()) };
    let mend = match specs[1].model.served {
        Some(_) => "serve base and fine-tune under two names (--served-model BASE,CANDIDATE)",
        None => "give the run of the fine-tuned model",
    };
    bail!("{message}; hint: {mend}, or --allow-same")
}

fn refuse_unlike(
    baseline: &RecordedRun,
    candidate: &RecordedRun,
    differences: &[FieldDifference],
    allowed: &[String],
) -> Result<()> {
    let refused: Vec<&FieldDifference> =
        differences.iter().filter(|difference| !allowed.contains(&difference.field)).collect();
    if refused.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = refused.iter().map(|difference| told(difference)).collect();
    let mut fields: Vec<&str> = refused.iter().map(|difference| difference.field.as_str()).collect();
    fields.dedup();
    bail!(
        "`{}` cannot be compared with `{}`: {}; hint: {}, or --allow-different {}",
        candidate.name,
        baseline.name,
        told.join("; "),
        mend(baseline, candidate, &refused),
        fields.join(",")
    )
}

/// What makes the runs alike: a new run of the candidate with the baseline's flags, or of one of them with the other's
/// judges.
fn mend(baseline: &RecordedRun, candidate: &RecordedRun, refused: &[&FieldDifference]) -> String {
    if refused.iter().all(|difference| difference.field == "judges") {
        return judged_alike(baseline, candidate);
    }
    let mut flags: Vec<String> = Vec::new();
    for difference in refused {
        let flag = flag(difference);
        if !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    format!("evaluate `{}` in a new folder as `{}` was, with {}", candidate.name, baseline.name, flags.join(" and "))
}

/// The flag of `emt eval` that decides the field, with the baseline's value where that is one word.
fn flag(difference: &FieldDifference) -> String {
    let value = &difference.baseline;
    let is_of_encoder = difference.place == "encoder" || difference.place.contains(".encoder.");
    let with = |flag: &str, value: &Value| match value {
        Value::String(text) => format!("{flag} {}", quoted(text)),
        Value::Number(number) => format!("{flag} {number}"),
        _ => flag.to_owned(),
    };
    match difference.field.as_str() {
        "split" => with("--split", value),
        "label_set" => "the same --labels and --datasets-file".to_owned(),
        "prompt_text" if is_of_encoder => "the same --captions".to_owned(),
        "prompt_text" => "the same --prompt".to_owned(),
        "prompt_ids" => "the same --prompt and --template".to_owned(),
        "preprocessing" if is_of_encoder => "the same --encoder".to_owned(),
        "preprocessing" => "the same preprocessor_config.json, --min-pixels and --max-pixels".to_owned(),
        "sample_seed" => with("--sample-seed", value),
        "generation_limits" => with("--max-new-tokens", &value["max_new_tokens"]),
        "compute_type" => with("--dtype", value),
        "device_kind" => with("--device", value),
        "judges" => "the same --judge, --judge-model and --judge-prompt".to_owned(),
        "comparator" => "the same --encoder, --comparator, --probe and --probe-shots".to_owned(),
        "served" => "the same server settings".to_owned(),
        other => format!("the same `{other}`"),
    }
}

/// The command that judges one of the runs as the other was. The rules of this version are the only ones that it has, so a run
/// that older ones judged is the one to judge again.
fn judged_alike(baseline: &RecordedRun, candidate: &RecordedRun) -> String {
    let is_older = |run: &RecordedRun| {
        run.manifest
            .spec
            .judges
            .iter()
            .any(|judge| judge.judge == JudgeKind::Rules.name() && judge.model != RULES_VERSION)
    };
    let (again, like) = if is_older(baseline) { (baseline, candidate) } else { (candidate, baseline) };
    let judges: &[JudgeSpec] = &like.manifest.spec.judges;
    let names: Vec<&str> = judges.iter().map(|judge| judge.judge.as_str()).collect();
    let mut command = format!("emt judge score {}", quoted(&again.dir().display().to_string()));
    let judged = format!("{}-judged", again.dir().display().to_string().trim_end_matches('/'));
    command.push_str(&format!(" --out {} --judge {}", quoted(&judged), names.join("+")));
    if let Some(language_model) = judges.iter().find(|judge| judge.judge == JudgeKind::Llm.name()) {
        command.push_str(&format!(" --judge-model {} and the same --judge-prompt", quoted(&language_model.model)));
    }
    format!("judge `{}` as `{}` was: {command}", again.name, like.name)
}

/// What differs between the runs and was allowed to, a line each.
pub fn allowed(differences: &[FieldDifference]) -> Vec<String> {
    let lines = |difference: &FieldDifference| match parameters(difference) {
        Some(lines) => lines.into_iter().map(|line| format!("{} differs: {line}", named(difference))).collect(),
        None => vec![told(difference)],
    };
    differences.iter().flat_map(lines).collect()
}

/// The parameters in which two objects differ, each with both values, whole.
fn parameters(difference: &FieldDifference) -> Option<Vec<String>> {
    let (before, after) = (&difference.baseline, &difference.candidate);
    (before.is_object() && after.is_object()).then_some(())?;
    let differences = compare::setting_differences(before, after);
    let lines = differences.iter().map(|one| compare::settings_in_words(std::slice::from_ref(one)));
    Some(lines.collect::<Vec<_>>()).filter(|lines| !lines.is_empty())
}

fn named(difference: &FieldDifference) -> String {
    let place = if difference.place.is_empty() { String::new() } else { format!(" ({})", difference.place) };
    format!("`{}`{place}", difference.field)
}

/// `prompt_text (mnist.model.generate) is "What …" and "Which …"`; of objects, each parameter on a line of its own.
fn told(difference: &FieldDifference) -> String {
    if let Some(lines) = parameters(difference) {
        return format!("{} differs:\n  {}", named(difference), lines.join("\n  "));
    }
    let [before, after] = [&difference.baseline, &difference.candidate].map(|value| {
        let text = value.to_string();
        match text.char_indices().nth(80) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    });
    format!("{} is {before} and {after}", named(difference))
}
