use super::*;

fn strengths(list: &str) -> Vec<f64> {
    parse_strengths(list).unwrap().into_iter().map(Share::value).collect()
}

fn lora() -> Weakened {
    Weakened { is_whole: false, changed: [Component::Attention, Component::Mlp, Component::Projector].into() }
}

#[test]
fn strengths_are_a_list_or_go_in_equal_steps() {
    assert_eq!(strengths("0,0.1,..,1"), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]);
    assert_eq!(strengths("0.75, 0.5,0.75"), [0.5, 0.75]);
    assert_eq!(strengths("0.2,0.4,...,0.8"), [0.2, 0.4, 0.6, 0.8]);
    for broken in ["", "0", "1.5", "a", "0,0.3,..,1", "1,0.9,..,0", "0,0,..,1", "-0.1", "nan"] {
        assert!(parse_strengths(broken).is_err(), "{broken}");
    }
}

#[test]
fn every_method_has_every_strength_and_equal_points_are_one() {
    let methods = [RecoveryMethod::Scale, RecoveryMethod::Lines];
    let points = plan_points(&lora(), &methods, &parse_strengths("0,0.5,1").unwrap(), &[]).unwrap();
    let names: Vec<String> = points.iter().map(PlannedPoint::name).collect();
    assert_eq!(names, ["scale-0", "scale-0.5", "scale-1", "lines-0", "lines-0.5"], "lines at 1 is scale at 1");
    assert!(points[0].is_base() && !points[3].is_base());
    assert_eq!(points[2].part, ModelPart::default(), "the candidate itself");
}

#[test]
fn guilty_components_are_left_as_in_the_base_one_by_one_and_together() {
    let guilty = [Component::Projector, Component::Mlp];
    let points = plan_points(&lora(), &[RecoveryMethod::Scale], &parse_strengths("0,1").unwrap(), &guilty).unwrap();
    let names: Vec<String> = points.iter().map(PlannedPoint::name).collect();
    let without = ["scale-1-without-projector", "scale-1-without-mlp", "scale-1-without-projector+mlp"];
    assert_eq!(names[2..], without);
    assert!(!points[2].part.uses("multi_modal_projector.linear_1.weight"));
    assert!(points[2].part.uses("language_model.layers.0.mlp.up_proj"));
    let error = plan_points(&lora(), &[RecoveryMethod::Scale], &[Share::ALL], &[Component::Tower]).unwrap_err();
    assert!(error.to_string().contains("tower"), "{error}");
    let alone = Weakened { is_whole: false, changed: [Component::Projector].into() };
    let points = plan_points(&alone, &[RecoveryMethod::Scale], &[Share::ALL], &[Component::Projector]).unwrap();
    assert_eq!(points.len(), 1, "nothing is left of a candidate without its only component");
}

#[test]
fn a_method_that_does_not_fit_the_candidate_is_refused_with_the_one_that_does() {
    let whole = Weakened { is_whole: true, ..lora() };
    for (candidate, method, other) in
        [(whole, RecoveryMethod::Scale, "interpolate"), (lora(), RecoveryMethod::Interpolate, "scale")]
    {
        let error = plan_points(&candidate, &[method], &[Share::ALL], &[]).unwrap_err().to_string();
        assert!(error.contains(&format!("hint: --methods {other}")), "{error}");
        let defaults = RecoveryMethod::defaults(candidate.is_whole);
        assert!(plan_points(&candidate, &defaults, &[Share::ALL], &[]).is_ok());
    }
    assert!(RecoveryMethod::parse_list("scale,scale").is_err() && RecoveryMethod::parse_list("half").is_err());
}
