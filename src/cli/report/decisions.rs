//! The decisions that a report shows: only decisions about its own runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::compare::CandidateComparison;
use crate::gate::{DECISION_SCHEMA, Decision, ReasonCode, RunName};
use crate::record;
use crate::study::RecordedRun;

/// The decisions of the report's candidates, in their order.
pub(in crate::cli) struct Decisions {
    given: Vec<(PathBuf, Decision)>,
}

impl Decisions {
    /// Reads `paths`, the k-th about the k-th of `candidates` against `baseline`; refuses one that is about other runs, or
    /// was made when these had other trials.
    pub fn read(paths: &[PathBuf], baseline: &RecordedRun, candidates: &[RecordedRun]) -> Result<Self> {
        let mut given = Vec::with_capacity(paths.len());
        for (path, candidate) in paths.iter().zip(candidates) {
            let decision = read(path)?;
            check_run(path, "baseline", &decision.baseline, baseline)?;
            if let Err(error) = check_run(path, "candidate", &decision.candidate, candidate) {
                // Of the right run, in which something else is wrong, the order says nothing.
                let is_here = is_of(&decision.candidate, candidate);
                let about = candidates.iter().find(|run| !is_here && is_of(&decision.candidate, run));
                return Err(match about {
                    Some(run) => error.context(format!(
                        "`{}` is a decision about `{}`, but is given for `{}`; hint: give --decision in the order of \
                         the runs",
                        path.display(),
                        run.name,
                        candidate.name
                    )),
                    None => error,
                });
            }
            given.push((path.clone(), decision));
        }
        Ok(Self { given })
    }

    /// Whether a candidate may lack `dataset`: none of the decisions is about it.
    pub fn leave_out(&self, dataset: &str) -> bool {
        let decides = |decision: &Decision| {
            let of_dataset = decision.datasets.iter().find(|decided| decided.dataset == dataset);
            of_dataset.is_some_and(|decided| decided.reasons.iter().all(|reason| reason.code != ReasonCode::Ignored))
        };
        !self.given.is_empty() && !self.given.iter().any(|(_, decision)| decides(decision))
    }

    /// Refuses a decision of an earlier version, which names no trials, where its numbers are not those of `compared`; what
    /// cannot be checked is told.
    pub fn check_numbers(&self, compared: &[CandidateComparison]) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for ((path, decision), compared) in self.given.iter().zip(compared) {
            let names_trials = |run: &Option<RunName>| run.as_ref().is_some_and(|run| run.trials.is_some());
            if names_trials(&decision.baseline) && names_trials(&decision.candidate) {
                continue;
            }
            if decision.design == "fixed" {
                refuse_other_numbers(path, decision, compared)?;
            }
            warnings.push(format!(
                "the decision `{}` was made by an earlier emt and does not say which trials it is about; hint: decide again",
                path.display()
            ));
        }
        Ok(warnings)
    }

    /// The margin that all of them decided by; `None` where there are none, or several margins.
    pub fn margin(&self) -> Option<f64> {
        let mut margins = self.given.iter().flat_map(|(_, decision)| &decision.datasets).map(|dataset| dataset.margin);
        let first = margins.next()?;
        margins.all(|margin| margin == first).then_some(first)
    }

    /// The decisions.
    pub fn all(&self) -> impl Iterator<Item = &Decision> {
        self.given.iter().map(|(_, decision)| decision)
    }
}

fn read(path: &Path) -> Result<Decision> {
    let not_ours = || {
        format!(
            "`{}` is not a decision of emt; hint: --decision takes the file that `emt gate --out` wrote",
            path.display()
        )
    };
    let value: serde_json::Value = serde_json::from_str(&record::read_text(path)?).with_context(not_ours)?;
    match value.get("schema").and_then(serde_json::Value::as_str) {
        Some(DECISION_SCHEMA) => serde_json::from_value(value).with_context(not_ours),
        Some(other) if other.starts_with("emt.decision/") => bail!(
            "`{}` has the schema `{other}`, and this emt knows `{DECISION_SCHEMA}`; hint: use the emt that wrote it, or a \
             newer one",
            path.display()
        ),
        _ => bail!("{}", not_ours()),
    }
}

fn is_of(named: &Option<RunName>, run: &RecordedRun) -> bool {
    named.as_ref().is_some_and(|named| named.identity == run.manifest.identity)
}

fn check_run(path: &Path, role: &str, named: &Option<RunName>, run: &RecordedRun) -> Result<()> {
    let (shown, again) =
        (path.display(), "hint: decide again with `emt gate --baseline RUN --candidate RUN --out FILE`");
    let Some(named) = named else {
        bail!("the decision `{shown}` does not name its {role}, so it may be about other runs; {again}");
    };
    if named.identity != run.manifest.identity {
        bail!(
            "the decision `{shown}` is about the {role} `{}` ({}), and not about `{}` ({}); {again}",
            named.run,
            short(&named.identity),
            run.name,
            short(&run.manifest.identity)
        );
    }
    let (digest, _) = run.digest()?;
    let is_other = named.trials.as_ref().is_some_and(|trials| *trials != digest.trials);
    if is_other {
        let then = named.n_trials.map_or_else(String::new, |n| format!(": {n} trials then, {} now", digest.n_trials));
        bail!("the {role} `{}` has changed since the decision `{shown}`{then}; {again}", run.name);
    }
    Ok(())
}

/// `blake3:0123abcd…`.
fn short(identity: &str) -> String {
    let n = identity.find(':').map_or(0, |colon| colon + 1) + 8;
    identity.get(..n).map_or_else(|| identity.to_owned(), |start| format!("{start}…"))
}

fn refuse_other_numbers(path: &Path, decision: &Decision, compared: &CandidateComparison) -> Result<()> {
    for decided in &decision.datasets {
        let Some(found) = compared.datasets.iter().find(|dataset| dataset.dataset == decided.dataset) else { continue };
        let of_decision = [decided.n_pairs, decided.n_unscored, decided.n_lost, decided.n_gained];
        let of_runs = [found.n_pairs, found.n_unscored, found.n_lost, found.n_gained];
        if of_decision != of_runs {
            bail!(
                "the decision `{}` is about other trials of `{}`: {} pairs, {} lost, {} gained, but the runs have {}, \
                 {} and {}; hint: decide again",
                path.display(),
                decided.dataset,
                decided.n_pairs,
                decided.n_lost,
                decided.n_gained,
                found.n_pairs,
                found.n_lost,
                found.n_gained
            );
        }
    }
    Ok(())
}
