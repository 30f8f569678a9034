use super::*;
use crate::chart::comparison_samples::{candidate, compared};
use crate::gate::{Policy, decide, no_corrections};

#[test]
fn a_dataset_with_any_reason_is_never_shown_as_passed() {
    let comparison = candidate("tuned", vec![compared("mnist", &[("correct", "correct", 500)])]);
    let whole = decide(&Policy::default(), &comparison, &no_corrections);
    for verdict in [Verdict::Fail, Verdict::Inconclusive, Verdict::NotApplicable] {
        for &code in ReasonCode::VARIANTS {
            let mut decision = whole.clone();
            decision.datasets[0].decision = verdict;
            decision.datasets[0].reasons = vec![Reason { code, message: "because".to_owned(), dataset: None }];
            let text = junit(&decision);
            let result = if verdict == Verdict::Fail { "><failure message=" } else { "><skipped message=" };
            let n_shown = text.lines().filter(|line| line.contains("because") && line.contains(result)).count();
            assert_eq!(n_shown, 1, "{}: {text}", code.name());
        }
    }
}
