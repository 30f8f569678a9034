use super::*;

fn every_evidence() -> Vec<Evidence> {
    let bits = [false, true];
    let labels = [
        Labels::None,
        Labels::Right,
        Labels::Other,
        Labels::Several { is_echo: false },
        Labels::Several { is_echo: true },
    ];
    let relations = [None, Some(Relation::Ancestor), Some(Relation::Descendant)];
    let mut all = Vec::new();
    for i in 0..64_usize {
        for labels in labels {
            for relation in relations {
                all.push(Evidence {
                    has_content: bits[i & 1],
                    is_refusal: bits[i >> 1 & 1],
                    is_unclear: bits[i >> 2 & 1],
                    labels,
                    has_type_clash: bits[i >> 3 & 1],
                    has_leak: bits[i >> 4 & 1],
                    relation,
                    has_residue: bits[i >> 5 & 1],
                });
            }
        }
    }
    all
}

/// The same table as mutually exclusive conditions: exactly one must hold.
fn codes_by_exclusive_conditions(e: &Evidence) -> Vec<Option<ErrorCode>> {
    let speaks = e.has_content && !e.is_refusal && !e.is_unclear;
    let n = match e.labels {
        Labels::None => 0,
        Labels::Right | Labels::Other => 1,
        Labels::Several { .. } => 2,
    };
    let clash = n == 1 && e.has_type_clash;
    let outside = speaks && n == 0 && !e.has_leak;
    let rows = [
        (!e.has_content, Some(ErrorCode::Empty)),
        (e.has_content && e.is_refusal, Some(ErrorCode::Refusal)),
        (e.has_content && !e.is_refusal && e.is_unclear, Some(ErrorCode::Out)),
        (speaks && e.labels == Labels::Several { is_echo: true }, Some(ErrorCode::Echo)),
        (speaks && e.labels == Labels::Several { is_echo: false }, Some(ErrorCode::Multi)),
        (speaks && clash, Some(ErrorCode::TypeClash)),
        (speaks && !clash && e.labels == Labels::Right, None),
        (speaks && !clash && e.labels == Labels::Other, Some(ErrorCode::Wrong)),
        (speaks && n == 0 && e.has_leak, Some(ErrorCode::Leak)),
        (outside && e.relation == Some(Relation::Ancestor), Some(ErrorCode::TooGeneric)),
        (outside && e.relation == Some(Relation::Descendant), Some(ErrorCode::TooSpecific)),
        (outside && e.relation.is_none(), Some(ErrorCode::Out)),
    ];
    rows.into_iter().filter(|(holds, _)| *holds).map(|(_, code)| code).collect()
}

#[test]
fn every_set_of_mentions_and_residue_has_exactly_one_code() {
    let all = every_evidence();
    assert_eq!(all.len(), 64 * 15);
    for evidence in all {
        let code = match weigh(&evidence) {
            Finding::Correct { .. } => None,
            Finding::Error(code) => Some(code),
        };
        assert_eq!(codes_by_exclusive_conditions(&evidence), [code], "{evidence:?}");
        assert_ne!(code, Some(ErrorCode::Disputed), "only a second judge disputes");
    }
}

#[test]
fn a_leak_changes_codes_but_never_whether_an_answer_is_correct() {
    let mut n_changed = 0;
    for evidence in every_evidence() {
        let (with, without) = (Evidence { has_leak: true, ..evidence }, Evidence { has_leak: false, ..evidence });
        let is_correct = |evidence: &Evidence| matches!(weigh(evidence), Finding::Correct { .. });
        assert_eq!(is_correct(&with), is_correct(&without));
        n_changed += usize::from(weigh(&with) != weigh(&without));
    }
    assert!(n_changed > 0);
}
