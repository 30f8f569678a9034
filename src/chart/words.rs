//! The wording of numbers and headings, shared by charts and reports.

use crate::compare::{EncoderHeading, Interval, JudgeHeading, ModelHeading, Summary};
use crate::domain::{Computing, EncoderRelation, JudgeKind};

/// The text for an undefined value.
pub const MISSING: &str = "–";

/// Formats `0.7325` as `73.3`; [`MISSING`] if there is no number.
pub fn percent_number(fraction: Option<f64>) -> String {
    match fraction.filter(|value| value.is_finite()) {
        Some(fraction) => format!("{:.1}", fraction * 100.0),
        None => MISSING.to_owned(),
    }
}

/// Formats `0.7325` as `73.3%`; [`MISSING`] if there is no number.
pub fn percent(fraction: Option<f64>) -> String {
    match fraction.filter(|value| value.is_finite()) {
        Some(fraction) => format!("{:.1}%", fraction * 100.0),
        None => MISSING.to_owned(),
    }
}

/// Formats `[0.704, 0.759]` as `70.4–75.9`; [`MISSING`] if there is none.
pub fn interval(interval: Option<Interval>) -> String {
    match interval {
        Some([low, high]) if low.is_finite() && high.is_finite() => {
            format!("{:.1}–{:.1}", low * 100.0, high * 100.0)
        }
        _ => MISSING.to_owned(),
    }
}

/// Returns `text` on one line, without control characters, which could steer a terminal, and without characters that
/// break a line or change the direction of text.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() || steers(letter) { ' ' } else { letter }).collect()
}

/// Whether `letter` is an embedding, an override or an isolate of the bidirectional algorithm, or breaks a line. Text
/// after it would be displaced.
pub fn steers(letter: char) -> bool {
    matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Formats a difference of fractions in percentage points as `52.3 (46.6–58.0)`, with true minus signs; [`MISSING`] if
/// there is none.
pub fn points(value: Option<f64>, ends: Option<Interval>) -> String {
    let number = percent_number(value);
    let text = match ends {
        Some([low, high]) if number != MISSING && low.is_finite() && high.is_finite() => {
            // A dash next to a minus sign could be read as one.
            let between = if low < 0.0 { " to " } else { "–" };
            format!("{number} ({:.1}{between}{:.1})", low * 100.0, high * 100.0)
        }
        _ => number,
    };
    // A number that rounds to zero has no sign.
    text.replace("-0.0", "0.0").replace('-', "−")
}

/// Formats `-2.314` with two decimals as `−2.31`, with a true minus sign; [`MISSING`] if there is no number.
pub fn decimal(value: Option<f64>, n_decimals: usize) -> String {
    let Some(value) = value.filter(|value| value.is_finite()) else { return MISSING.to_owned() };
    let text = format!("{value:.n_decimals$}");
    match text.strip_prefix('-') {
        // A number that rounds to zero has no sign.
        Some(digits) if digits.bytes().all(|digit| matches!(digit, b'0' | b'.')) => digits.to_owned(),
        Some(digits) => format!("−{digits}"),
        None => text,
    }
}

/// Formats a number with its interval as `−2.31 (−2.50 to −2.12)`; [`MISSING`] if there is no number.
pub fn decimal_within(value: Option<f64>, ends: Option<Interval>, n_decimals: usize) -> String {
    let number = decimal(value, n_decimals);
    match ends {
        Some([low, high]) if number != MISSING && low.is_finite() && high.is_finite() => {
            format!("{number} ({} to {})", decimal(Some(low), n_decimals), decimal(Some(high), n_decimals))
        }
        _ => number,
    }
}

/// Formats floating-point operations as `1.53 TFLOP`; [`MISSING`] if there is no number.
pub fn operations(n: f64) -> String {
    let units = [(1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")];
    match units.into_iter().find(|(unit, _)| n.is_finite() && n >= *unit) {
        Some((unit, name)) => format!("{} {name}", decimal(Some(n / unit), 2)),
        None if n.is_finite() => format!("{} FLOP", decimal(Some(n), 0)),
        None => MISSING.to_owned(),
    }
}

/// Formats a value before and after as `71.0% → 40.0%`; [`MISSING`] alone if both are missing.
pub fn change(before: &str, after: &str) -> String {
    if before == MISSING && after == MISSING { MISSING.to_owned() } else { format!("{before} → {after}") }
}

/// Formats a p value with four decimals, or as `<0.0001`; [`MISSING`] if there is none.
pub fn p_value(value: Option<f64>) -> String {
    match value.filter(|value| value.is_finite()) {
        Some(value) if value < 0.0001 => "<0.0001".to_owned(),
        Some(value) => format!("{value:.4}"),
        None => MISSING.to_owned(),
    }
}

/// Returns the first `n_max` characters of `text`, followed by `…` if there are more.
pub fn shortened(text: &str, n_max: usize) -> String {
    match text.char_indices().nth(n_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Describes a change of accuracy: `fell by 12.3 points`, `rose by 0.4 points`, `unchanged`.
pub fn fall(fall: f64) -> String {
    let points = format!("{:.1}", fall.abs() * 100.0);
    match points.as_str() {
        "0.0" => "unchanged".to_owned(),
        _ if fall > 0.0 => format!("fell by {points} points"),
        _ => format!("rose by {points} points"),
    }
}

/// Formats a chance level: `10%`, `0.1%`.
pub fn chance(fraction: f64) -> String {
    let percent = fraction * 100.0;
    if percent >= 1.0 && (percent - percent.round()).abs() < 0.05 {
        format!("{percent:.0}%")
    } else {
        format!("{percent:.1}%")
    }
}

/// Names a model as in `llava-7b + adapter`.
pub fn model(model: &ModelHeading) -> String {
    // The name of a run in lock-step already includes the adapter's.
    let is_named = model.name.contains('+');
    if model.adapter.is_some() && !is_named { format!("{} + adapter", model.name) } else { model.name.clone() }
}

/// Describes how a model was run, such as `llava, f32 on cpu`; for a served model, none of that is known.
pub fn how_run(family: &str, computing: &Computing) -> String {
    match computing {
        Computing::Served => "behind a server".to_owned(),
        Computing::Local { compute_type, device_kind } => format!("{family}, {compute_type} on {device_kind}"),
    }
}

/// Describes the encoder's relation to the model's tower as a clause, with tower equality.
pub fn relation(encoder: &EncoderHeading) -> &'static str {
    match (encoder.relation, encoder.tower_equal) {
        (EncoderRelation::Own, Some(false)) => "the model's own tower by name, but weights differ",
        (EncoderRelation::Own, _) => "the model's own tower, weights equal",
        (EncoderRelation::Ancestor, Some(true)) => "the ancestor of the model's tower, weights equal",
        (EncoderRelation::Ancestor, _) => "the ancestor of the model's tower, weights differ",
        (EncoderRelation::Other, Some(true)) => "another checkpoint than the model's tower, weights equal",
        (EncoderRelation::Other, _) => "another encoder than the model's tower",
        (EncoderRelation::Changed, Some(true)) => "the model's tower, recorded as changed, weights equal",
        (EncoderRelation::Changed, _) => "the model's tower before fine-tuning changed it, weights differ",
        (EncoderRelation::None, _) => "no encoder was run",
    }
}

/// Describes how the encoder chose its labels: `zero-shot`, `probe (16 shots)`; `None` without an encoder.
pub fn comparator(encoder: &EncoderHeading) -> Option<String> {
    match encoder.comparator.as_str() {
        "none" => None,
        "zero_shot" => Some("zero-shot".to_owned()),
        "probe" => Some(encoder.probe.as_ref().map_or_else(|| "probe".to_owned(), |probe| shots(&probe.shots))),
        other => Some(other.to_owned()),
    }
}

/// Formats shots as `probe (16 shots)` or `probe (2–16 shots)`.
fn shots(rising: &[usize]) -> String {
    match rising {
        [] => "probe".to_owned(),
        [1] => "probe (1 shot)".to_owned(),
        [n] => format!("probe ({n} shots)"),
        [least, .., most] => format!("probe ({least}–{most} shots)"),
    }
}

/// Names the comparator in columns and legends: `encoder, zero-shot`, `probe (16 shots)`. Encoder and probe never share
/// a heading.
pub fn encoder_column(encoder: &EncoderHeading) -> String {
    match comparator(encoder) {
        None => "encoder".to_owned(),
        Some(how) if is_probe(encoder) => how,
        Some(how) => format!("encoder, {how}"),
    }
}

/// The noun for the comparator: `encoder`, or `probe` for a probe on the model's own tower.
pub fn encoder_noun(encoder: &EncoderHeading) -> &'static str {
    if is_probe(encoder) { "probe" } else { "encoder" }
}

/// Returns `text` with its first letter capitalised.
pub fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn is_probe(encoder: &EncoderHeading) -> bool {
    encoder.comparator == "probe"
}

/// Returns `Encoder: clip (the model's own tower, weights equal), zero-shot`, or `Encoder: the model's own tower, probe
/// (16 shots), nearest class mean`.
pub fn encoder_heading(encoder: &EncoderHeading) -> String {
    if encoder.relation == EncoderRelation::None {
        return "Encoder: none; retention is not defined".to_owned();
    }
    let comparator = comparator(encoder).map(|how| format!(", {how}")).unwrap_or_default();
    if let Some(probe) = &encoder.probe {
        return format!("Encoder: the model's own tower{comparator}, {}", probe.classifier.name());
    }
    let name = encoder.name.as_deref().unwrap_or("unnamed");
    format!("Encoder: {name} ({}){comparator}", relation(encoder))
}

/// Describes how far the model's tower differs from its encoder; `None` if it is the same or was not compared.
pub fn tower_change(encoder: &EncoderHeading) -> Option<String> {
    let change = encoder.tower_change.as_ref()?;
    let percent = |change: f64| format!("{:.2}%", change * 100.0);
    Some(format!(
        "Compared with it, the layers of the model's tower changed by {} in the median and by {} at most ({}), \
         relative to their length.",
        percent(change.median),
        percent(change.largest),
        change.largest_layer
    ))
}

/// Returns a heading such as `Judge: rules+llm (rules version 1, llm gpt-4o)`.
pub fn judge_heading(judge: &JudgeHeading) -> String {
    let version = |name: &str| if name == JudgeKind::Rules.name() { "version " } else { "" };
    let members: Vec<String> =
        judge.judges.iter().map(|one| format!("{} {}{}", one.judge, version(&one.judge), one.model)).collect();
    if members.is_empty() {
        format!("Judge: {}", judge.name)
    } else {
        format!("Judge: {} ({})", judge.name, members.join(", "))
    }
}

/// Returns the warning about datasets that were evaluated on a training split, if any.
pub fn training_split_warning(summary: &Summary) -> Option<String> {
    let names: Vec<String> = summary
        .datasets
        .iter()
        .filter(|dataset| dataset.is_training_split)
        .map(|dataset| format!("{} ({})", dataset.dataset, dataset.split))
        .collect();
    (!names.is_empty())
        .then(|| format!("Training split: {}. Memorised images count as seen; use a held-out split.", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::samples;
    use crate::domain::TowerChange;

    #[test]
    fn what_is_missing_or_not_a_number_is_a_dash() {
        assert_eq!(percent(None), "–");
        assert_eq!(percent(Some(f64::NAN)), "–");
        assert_eq!(percent_number(None), "–");
        assert_eq!(interval(None), "–");
        assert_eq!(interval(Some([f64::NAN, 0.2])), "–");
    }

    #[test]
    fn an_accuracy_of_zero_is_a_number() {
        assert_eq!(percent(Some(0.0)), "0.0%");
    }

    #[test]
    fn a_difference_has_a_true_minus_sign_and_none_at_nothing() {
        assert_eq!(points(Some(0.123), Some([0.1, 0.146])), "12.3 (10.0–14.6)");
        assert_eq!(points(Some(-0.02), Some([-0.03, -0.0001])), "−2.0 (−3.0 to 0.0)");
        assert_eq!(points(None, Some([0.1, 0.2])), "–");
    }

    #[test]
    fn a_plain_number_has_its_decimals_and_operations_have_a_unit() {
        assert_eq!((decimal(Some(-2.314), 2), decimal(Some(-0.004), 2)), ("−2.31".into(), "0.00".into()));
        assert_eq!((decimal(None, 2), decimal(Some(f64::NAN), 2)), ("–".into(), "–".into()));
        assert_eq!(decimal_within(Some(-2.314), Some([-2.5, -2.1]), 2), "−2.31 (−2.50 to −2.10)");
        assert_eq!((operations(1.534e12), operations(120.0)), ("1.53 TFLOP".into(), "120 FLOP".into()));
        assert_eq!((change("1", "2"), change("–", "–")), ("1 → 2".into(), "–".into()));
    }

    #[test]
    fn text_that_would_run_backwards_or_steer_a_terminal_is_made_plain() {
        assert_eq!(printable("a\u{1b}[2J\u{9b}\u{202e}b\u{2069}\u{2028}c"), "a [2J  b  c");
    }

    #[test]
    fn a_probe_and_a_zero_shot_encoder_are_never_called_the_same() {
        let zero_shot = samples::four().encoder;
        let probe = samples::with_probe(samples::four()).encoder;
        assert_eq!(encoder_column(&zero_shot), "encoder, zero-shot");
        assert_eq!(encoder_column(&probe), "probe (16 shots)");
        assert_eq!(encoder_column(&samples::without_encoder(samples::four()).encoder), "encoder");
        assert_eq!(encoder_heading(&probe), "Encoder: the model's own tower, probe (16 shots), nearest class mean");
        assert_eq!((encoder_noun(&zero_shot), encoder_noun(&probe)), ("encoder", "probe"));
        assert_eq!((shots(&[1]), shots(&[2, 5, 16])), ("probe (1 shot)".into(), "probe (2–16 shots)".into()));
    }

    #[test]
    fn an_ancestors_distance_is_told_by_layer() {
        let change = TowerChange { median: 0.012, largest: 0.0834, largest_layer: "encoder.layers.5".into() };
        let ancestor = EncoderHeading {
            relation: EncoderRelation::Ancestor,
            tower_equal: Some(false),
            tower_change: Some(change),
            ..samples::four().encoder
        };
        let told = tower_change(&ancestor).unwrap();
        assert!(told.contains("1.20%") && told.contains("8.34% at most (encoder.layers.5)"), "{told}");
        assert_eq!(tower_change(&samples::four().encoder), None);
    }

    #[test]
    fn a_p_value_is_never_nothing() {
        assert_eq!(p_value(Some(1e-9)), "<0.0001");
        assert_eq!(p_value(Some(0.0421)), "0.0421");
        assert_eq!(p_value(None), "–");
    }

    #[test]
    fn a_small_chance_level_keeps_its_digits() {
        assert_eq!(chance(0.1), "10%");
        assert_eq!(chance(0.01), "1%");
        assert_eq!(chance(0.001), "0.1%");
        assert_eq!(chance(1.0 / 3.0), "33.3%");
    }
}
