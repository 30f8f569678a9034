//! Why many trials of a run are unscored, and what to do about it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use super::judge_options::JudgeOptions;
use super::results;
use crate::domain::{JudgeVerdict, Outcome, Trial, UnscoredReason};
use crate::eval::{self, UnscoredShare};
use crate::judging::{excerpt, mend_of_reply};

/// A finished run, and what may be unscored of it.
pub(super) struct Finished<'a> {
    /// Its folder.
    pub dir: &'a Path,
    /// Its trials.
    pub trials: &'a [Trial],
    /// Why the language-model judge could not be asked any more, if so.
    pub judge_error: Option<&'a str>,
    /// `--max-unscored`.
    pub max_unscored: f64,
    /// The judge's flags.
    pub judging: &'a JudgeOptions,
    /// Whether the answers were only judged, and not asked for.
    pub is_rejudged: bool,
}

/// The run is complete on disk; may its numbers be trusted?
///
/// # Errors
/// More is unscored than may be: with the share, the commonest reason, and its mend.
pub(super) fn refuse_unscored(run: &Finished<'_>) -> Result<()> {
    let Some(unscored) = eval::largest_unscored_share(run.trials) else { return Ok(()) };
    if unscored.share <= run.max_unscored {
        return Ok(());
    }
    let of_share = of_share(run.trials, &unscored);
    let (why, mend) = match commonest(&of_share) {
        Some(reason) => told(run, &of_share, reason)?,
        None => (String::new(), String::new()),
    };
    bail!(
        "{:.1}% of {} are unscored, more than --max-unscored {:.1}%{why}; the run is complete in `{}`; hint: {mend}",
        unscored.share * 100.0,
        results::trials_name(&unscored),
        run.max_unscored * 100.0,
        run.dir.display(),
    )
}

/// The unscored trials of a share with their reasons.
fn of_share<'a>(trials: &'a [Trial], share: &UnscoredShare) -> Vec<(UnscoredReason, &'a Trial)> {
    let is_of_share =
        |trial: &&Trial| trial.dataset == share.dataset && trial.subject == share.subject && trial.mode == share.mode;
    let unscored = trials.iter().filter(is_of_share).filter_map(|trial| match trial.outcome {
        Outcome::Unscored(reason) if reason != UnscoredReason::ImageUnreadable => Some((reason, trial)),
        _ => None,
    });
    unscored.collect()
}

fn commonest(unscored: &[(UnscoredReason, &Trial)]) -> Option<UnscoredReason> {
    let mut counts: BTreeMap<UnscoredReason, usize> = BTreeMap::new();
    for (reason, _) in unscored {
        *counts.entry(*reason).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(reason, _)| reason)
}

/// What happened, behind a colon or in brackets, and what to do about it.
fn told(run: &Finished<'_>, unscored: &[(UnscoredReason, &Trial)], reason: UnscoredReason) -> Result<(String, String)> {
    let dir = run.dir.display();
    let again = match run.is_rejudged {
        true => "run the same command again to retry".to_owned(),
        false => format!("run the same command again to retry, or `emt judge score {dir} --out NEW` to judge it again"),
    };
    let verdict = first_failure(unscored, reason);
    let error = verdict.and_then(|verdict| verdict.result.as_ref().err());
    Ok(match reason {
        UnscoredReason::JudgeUnparsable => {
            let reply = verdict.and_then(|verdict| verdict.reply.as_deref());
            let reply = reply.map_or(String::new(), |reply| format!(" replied `{}`", excerpt(reply)));
            let why = format!(": the judge{reply} ({})", error.map_or("no verdict", String::as_str));
            let prompt = run.judging.prompt()?;
            let mend = verdict.and_then(|verdict| mend_of_reply(&prompt, verdict));
            let mend = mend.unwrap_or_else(|| "another --judge-model".to_owned());
            let how = match run.is_rejudged {
                true => "in another --out".to_owned(),
                false => format!("by `emt judge score {dir} --out NEW`, without the model"),
            };
            (why, format!("{mend}; the same answers are judged again {how}"))
        }
        UnscoredReason::JudgeFailed if run.judge_error.is_none() => {
            let why = error.map_or(String::new(), |error| format!(" ({error})"));
            // What a server refuses it refuses again.
            let is_final = error.is_some_and(|error| error.starts_with("the server refused"));
            let mend = "change what the judge's server is sent, or give another --judge-model";
            (why, if is_final { mend.to_owned() } else { again })
        }
        UnscoredReason::JudgeBudget => {
            (String::new(), "run the same command again with a larger --judge-max-calls or --judge-max-tokens".to_owned())
        }
        UnscoredReason::ThoughtCutOff => (
            ": the model's thought was cut off or never closed, and no answer follows it".to_owned(),
            "--max-new-tokens N gives thoughts more room, in another --out; a served model may be kept from thinking by \
             --extra-body '{\"chat_template_kwargs\":{\"enable_thinking\":false}}'"
                .to_owned(),
        ),
        UnscoredReason::ModelError if run.is_rejudged => {
            (": the model gave no answer".to_owned(), "the recorded run has no answers to judge for them".to_owned())
        }
        UnscoredReason::ModelError => (
            ": the model gave no answer".to_owned(),
            "the warnings above say why; the same command does not retry them".to_owned(),
        ),
        _ => (run.judge_error.map(|error| format!(" ({error})")).unwrap_or_default(), again),
    })
}

/// The language-model judge's verdict on the first trial that is unscored for `reason`.
fn first_failure<'a>(unscored: &[(UnscoredReason, &'a Trial)], reason: UnscoredReason) -> Option<&'a JudgeVerdict> {
    let of_reason = unscored.iter().filter(|(other, _)| *other == reason);
    of_reason.flat_map(|(_, trial)| &trial.verdicts).find(|verdict| verdict.result.is_err())
}
