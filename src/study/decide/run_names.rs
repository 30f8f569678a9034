//! Runs as decisions name them, and which of them are of one candidate.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::compare;
use crate::domain::RunSpec;
use crate::eval::SERVER;
use crate::gate::RunName;
use crate::record::{self, TrialsDigest, run_name};
use crate::study::recorded_run::RecordedRun;
use crate::study::{LOGPROB_TOLERANCE, logprobs_apart, probe_logprobs};

/// How [`RunName::model`] begins of a served model.
const SERVED_PREFIX: &str = "served:";

/// The name of a finished run; what should be known of its trials is added to `warnings`.
pub(super) fn of_recorded(run: &RecordedRun, warnings: &mut Vec<String>) -> Result<RunName> {
    let (digest, warning) = run.digest()?;
    warnings.extend(warning);
    let manifest = &run.manifest;
    Ok(RunName {
        earlier_identities: manifest.earlier_identities(),
        ..named(run.name.clone(), manifest.identity.clone(), &manifest.spec, &manifest.environment, Some(digest))
    })
}

/// The name of a run that is about to be made, or to go on, in `dir`; `server` is what its server was found to be.
pub(super) fn of_planned(dir: &Path, spec: &RunSpec, server: Option<Value>) -> RunName {
    let environment: Map<String, Value> = server.into_iter().map(|server| (SERVER.to_owned(), server)).collect();
    // What is there already may be all that is asked for.
    let recorded = record::read_manifest(dir).ok();
    let digest = recorded.as_ref().and_then(|_| record::trials_digest(dir).ok());
    let mut earlier: Vec<String> = Vec::new();
    let identity = record::identity(spec);
    if let Some(recorded) = recorded {
        earlier = recorded.earlier_identities();
        earlier.extend(Some(recorded.identity).filter(|recorded| *recorded != identity));
    }
    RunName { earlier_identities: earlier, ..named(run_name(dir), identity, spec, &environment, digest) }
}

fn named(
    run: String,
    identity: String,
    spec: &RunSpec,
    environment: &Map<String, Value>,
    digest: Option<TrialsDigest>,
) -> RunName {
    let logprobs = environment.get(SERVER).and_then(probe_logprobs);
    let (n_trials, trials) = digest.map(|digest| (digest.n_trials, digest.trials)).unzip();
    RunName {
        run,
        identity,
        n_trials,
        trials,
        earlier_identities: Vec::new(),
        model: compare::model_key(spec),
        probe_logprobs: logprobs.unwrap_or_default(),
    }
}

/// Whether two runs are of one candidate: of the same model, merged or not, in whatever modes, numbers and datasets it was asked.
///
/// Calling two candidates one would make a test too lenient; so a served model, which is known by a name, counts as the same
/// only where its answer to the probe has the same log-probabilities, or without those where its trials are the same.
pub(super) fn is_same_candidate(decided: &RunName, now: &RunName) -> bool {
    let was = |one: &RunName, other: &RunName| one.earlier_identities.contains(&other.identity);
    let is_same_run = decided.identity == now.identity || was(decided, now) || was(now, decided);
    let is_same_model = decided.model.is_some() && decided.model == now.model;
    if !is_same_run && !is_same_model {
        return false;
    }
    let is_served =
        [decided, now].into_iter().any(|run| run.model.as_ref().is_some_and(|model| model.starts_with(SERVED_PREFIX)));
    if !is_served {
        return true;
    }
    match (decided.probe_logprobs.is_empty(), now.probe_logprobs.is_empty()) {
        (false, false) => logprobs_apart(&decided.probe_logprobs, &now.probe_logprobs) <= LOGPROB_TOLERANCE,
        _ => decided.trials.is_some() && decided.trials == now.trials,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(identity: &str, model: &str) -> RunName {
        RunName { run: identity.into(), identity: identity.into(), model: Some(model.into()), ..RunName::default() }
    }

    #[test]
    fn a_candidate_is_known_by_its_model_or_by_a_run_that_grew() {
        let first = run("a", "blake3:m");
        assert!(is_same_candidate(&first, &run("b", "blake3:m")), "merged, in other numbers, on other datasets");
        assert!(!is_same_candidate(&first, &run("b", "blake3:n")));
        let older = RunName { model: None, ..run("a", "") };
        assert!(!is_same_candidate(&older, &RunName { model: None, ..run("b", "") }), "nothing is known of either");
        let grown = RunName { earlier_identities: vec!["a".into()], ..run("c", "blake3:m") };
        assert!(is_same_candidate(&older, &grown) && is_same_candidate(&grown, &older));
    }

    #[test]
    fn a_served_name_is_another_candidate_as_soon_as_another_model_may_answer_under_it() {
        let served = |logprobs: &[f64], trials: Option<&str>| RunName {
            probe_logprobs: logprobs.to_vec(),
            trials: trials.map(str::to_owned),
            ..run("a", "served:blake3:m")
        };
        let first = served(&[-0.1, -0.2], Some("t"));
        assert!(is_same_candidate(&first, &served(&[-0.1001, -0.2], Some("other"))));
        assert!(!is_same_candidate(&first, &served(&[-0.9, -0.2], Some("t"))));
        assert!(!is_same_candidate(&first, &served(&[-0.1], Some("t"))));
        assert!(is_same_candidate(&served(&[], Some("t")), &served(&[], Some("t"))));
        assert!(!is_same_candidate(&served(&[], Some("t")), &served(&[], Some("u"))));
        assert!(!is_same_candidate(&served(&[], None), &served(&[], None)));
    }
}
