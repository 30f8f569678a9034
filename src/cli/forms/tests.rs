use std::collections::{BTreeMap, BTreeSet};

use clap::builder::ValueRange;
use clap::error::ErrorKind;

use super::form::{Axis, forms_of};
use super::*;
use crate::cli::{command, parse};

/// Commands without subcommands of their own, with their paths.
fn leaves(command: &clap::Command) -> Vec<(Vec<String>, clap::Command)> {
    let mut found = Vec::new();
    for inner in command.get_subcommands() {
        let name = inner.get_name().to_owned();
        if inner.has_subcommands() {
            found.extend(leaves(inner).into_iter().map(|(mut path, leaf)| {
                path.insert(0, name.clone());
                (path, leaf)
            }));
        } else {
            found.push((vec![name], inner.clone()));
        }
    }
    found
}

fn is_of_the_command(argument: &clap::Arg) -> bool {
    !argument.is_global_set() && !["help", "version", "quiet", "config"].contains(&argument.get_id().as_str())
}

fn forms(path: &[String]) -> &'static CommandForms {
    let found = COMMANDS.iter().find(|forms| forms.path.iter().eq(path.iter()));
    found.unwrap_or_else(|| panic!("`emt {}` has no line in src/cli/forms/table.rs", path.join(" ")))
}

#[test]
fn every_flag_of_every_command_says_which_forms_use_it() {
    let leaves = leaves(&command());
    for (path, leaf) in &leaves {
        let declared: Vec<&str> = forms(path).rules().map(|(rule, _)| rule.flag).collect();
        let declared_once: BTreeSet<&str> = declared.iter().copied().collect();
        assert_eq!(declared.len(), declared_once.len(), "a flag of `emt {}` is declared twice", path.join(" "));
        let flags: BTreeSet<&str> = leaf.get_arguments().filter(|flag| is_of_the_command(flag)).map(name_of).collect();
        let undeclared: Vec<_> = flags.difference(&declared_once).collect();
        assert!(
            undeclared.is_empty(),
            "say in src/cli/forms/table.rs which forms of `emt {}` use {undeclared:?}",
            path.join(" ")
        );
        let unknown: Vec<_> = declared_once.difference(&flags).collect();
        assert!(unknown.is_empty(), "`emt {}` has no flag {unknown:?}", path.join(" "));
    }
    for forms in COMMANDS {
        assert!(leaves.iter().any(|(path, _)| forms.path.iter().eq(path.iter())), "{:?} is no command", forms.path);
    }
}

#[test]
fn a_flag_that_not_every_form_uses_is_used_by_one_and_refused_by_another() {
    for forms in COMMANDS {
        let mut combinations: Vec<Vec<Form>> = vec![Vec::new()];
        for axis in forms.axes {
            let of_axis = forms_of(*axis);
            combinations = combinations
                .iter()
                .flat_map(|chosen| of_axis.iter().map(|(form, _)| [chosen.as_slice(), &[*form]].concat()))
                .collect();
        }
        for (rule, of_group) in forms.rules() {
            let n_used = combinations.iter().filter(|present| forms.unmet(rule.flag, present).is_none()).count();
            let needs: Vec<&Need> = of_group.iter().chain(rule.needs).collect();
            let place = format!("--{} of `emt {}`", rule.flag, forms.path.join(" "));
            match needs.iter().any(|need| need.forms.is_empty()) {
                true => assert_eq!(n_used, 0, "{place}"),
                false => assert!(n_used > 0, "{place} is used nowhere"),
            }
            assert_eq!(needs.is_empty(), n_used == combinations.len(), "{place} has a need that is always met");
            for form in needs.iter().flat_map(|need| need.forms) {
                // A group of rules may speak of an axis that this command lacks, but never of those alone.
                assert!(form.axis().is_some() && !form.text().is_empty(), "{place}: {form:?} has no line in form.rs");
            }
        }
    }
}

/// Forms in which no model is named.
const NO_MODEL: [Form; 3] = [Form::GateOfRuns, Form::DiagnosesRuns, Form::PrintsPolicy];

/// Words that a command needs to be understood, in the forms that are `chosen`.
fn words(path: &[String], axes: &[Axis], chosen: &[(Axis, Form, &'static [&'static str])]) -> Vec<String> {
    let mut words: Vec<String> = std::iter::once("emt".to_owned()).chain(path.iter().cloned()).collect();
    let fixed: &[&str] = match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["finetune"] => &["--out", "out"],
        ["diagnose"] => &["--out", "out"],
        ["recover"] => &["--model", "checkpoint", "--adapter", "lora", "--new", "a", "--old", "b", "--out", "out"],
        ["judge", "score" | "sample"] => &["run", "--out", "out.csv"],
        ["judge", "calibrate"] => &["--labels", "sheet.csv", "--out", "out.json"],
        ["data", "fetch"] => &["mnist"],
        ["completions"] => &["bash"],
        _ => &[],
    };
    words.extend(fixed.iter().map(|word| (*word).to_owned()));
    let is_chosen = |form: Form| chosen.iter().any(|(_, chosen, _)| *chosen == form);
    let has_no_model = NO_MODEL.into_iter().any(is_chosen);
    for axis in axes {
        // Where nothing is chosen, what a command cannot do without.
        let default = match axis {
            Axis::Model => Some(Form::LocalModel),
            Axis::Method => Some(Form::Lora),
            Axis::Train => Some(Form::TrainNamed),
            Axis::Report => Some(Form::ReportOfOneRun),
            Axis::Diagnosis => Some(Form::DiagnosesModel),
            _ => None,
        };
        if *axis == Axis::Model && has_no_model {
            continue;
        }
        let of_axis = chosen.iter().find(|(chosen, _, _)| chosen == axis).map(|(_, _, words)| *words);
        let of_default =
            || forms_of(*axis).into_iter().find(|(form, _)| Some(*form) == default).map(|(_, words)| words);
        words.extend(of_axis.or_else(of_default).unwrap_or_default().iter().map(|word| (*word).to_owned()));
    }
    words
}

/// The flag with a value that is understood.
fn typed(flag: &clap::Arg, value: &str) -> Vec<String> {
    let Some(long) = flag.get_long() else { return vec![value.to_owned()] };
    let long = format!("--{long}");
    match (flag.get_action().takes_values(), flag.get_num_args().unwrap_or(ValueRange::SINGLE).min_values()) {
        (false, _) => vec![long],
        (true, 2) => vec![long, "base".to_owned(), "tuned:mnist".to_owned()],
        (true, _) => vec![long, value.to_owned()],
    }
}

enum Answer {
    Used,
    /// The flag takes the command to a form that does not go with its other words.
    Excluded,
    Refused(String),
}

fn ask(path: &[String], words: &[String], flag: &clap::Arg) -> Answer {
    if flag.is_positional() && flag.is_required_set() {
        return Answer::Used;
    }
    let possible: Vec<String> = flag.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let others = ["1", "0.5", "x", "self", "mean", "lora", "interleaved"].map(str::to_owned);
    let refusal = format!("{} has no effect on `emt {}`", shown(flag), path.join(" "));
    // What has no name stands before the flags.
    let place = if flag.is_positional() { 1 + path.len() } else { words.len() };
    for value in possible.into_iter().chain(others) {
        let mut line = words.to_vec();
        line.splice(place..place, typed(flag, &value));
        let Err(error) = parse(line.into_iter().map(OsString::from).collect()) else { return Answer::Used };
        match error.downcast_ref::<clap::Error>().map(clap::Error::kind) {
            Some(ErrorKind::ValueValidation | ErrorKind::InvalidValue) => {}
            Some(ErrorKind::ArgumentConflict | ErrorKind::MissingRequiredArgument) => return Answer::Excluded,
            Some(_) => panic!("{words:?} {}: {error:#}", shown(flag)),
            None => {
                let message = format!("{error:#}");
                assert!(message.contains(" has no effect on `emt "), "{message}");
                return if message.starts_with(&refusal) { Answer::Refused(message) } else { Answer::Excluded };
            }
        }
    }
    panic!("no value of {} is understood", shown(flag))
}

/// Asks about every flag of `leaf` in the forms that are `chosen`, and counts.
fn walk(
    path: &[String],
    leaf: &clap::Command,
    chosen: &[(Axis, Form, &'static [&'static str])],
    counts: &mut BTreeMap<String, [usize; 3]>,
) {
    let words = words(path, forms(path).axes, chosen);
    let line: Vec<OsString> = words.iter().map(OsString::from).collect();
    if parse(line.clone()).is_err() {
        // Two forms that do not go together.
        assert!(chosen.len() > 1, "{words:?}");
        return;
    }
    let described = command();
    let matches = described.clone().try_get_matches_from(&line).unwrap();
    let (_, _, inner) = innermost(&described, &matches);
    for (axis, form, _) in chosen {
        assert_eq!(axis.find(inner), Some(*form), "{words:?}");
    }
    for flag in leaf.get_arguments().filter(|flag| is_of_the_command(flag)) {
        let counted = counts.entry(name_of(flag).to_owned()).or_default();
        match ask(path, &words, flag) {
            Answer::Used => counted[0] += 1,
            Answer::Excluded => counted[2] += 1,
            Answer::Refused(message) => {
                counted[1] += 1;
                assert!(message.contains("; hint: ") && !message.contains("  "), "{message}");
            }
        }
    }
}

#[test]
fn every_flag_is_used_or_refused_in_each_form_of_its_command() {
    for (path, leaf) in leaves(&command()) {
        let forms = forms(&path);
        let mut counts = BTreeMap::new();
        walk(&path, &leaf, &[], &mut counts);
        for axis in forms.axes {
            for (form, words) in forms_of(*axis) {
                walk(&path, &leaf, &[(*axis, form, words)], &mut counts);
                // What kind of model is asked decides most: all else is walked through for each.
                let takes_a_model = forms.axes.contains(&Axis::Model) && *axis != Axis::Model;
                if !takes_a_model || NO_MODEL.contains(&form) {
                    continue;
                }
                for (model, of_model) in forms_of(Axis::Model) {
                    walk(&path, &leaf, &[(Axis::Model, model, of_model), (*axis, form, words)], &mut counts);
                }
            }
        }
        for (rule, of_group) in forms.rules() {
            let [n_used, n_refused, n_excluded] = counts[rule.flag];
            let place = format!("{} of `emt {}`", rule.flag, path.join(" "));
            // Clap itself refuses some flags beside the words that choose a form.
            match of_group.is_empty() && rule.needs.is_empty() {
                true => assert_eq!(n_refused, 0, "{place}"),
                false => assert!(n_refused + n_excluded > 0, "{place} is refused nowhere"),
            }
            let is_never_used = rule.needs.iter().any(|need| need.forms.is_empty());
            assert!(n_used > 0 || is_never_used, "{place} is refused everywhere");
        }
    }
}

#[test]
fn a_short_flag_and_a_value_behind_an_equals_sign_are_typed_and_what_follows_two_dashes_is_not() {
    let is = |words: &[&str], long: &str, short: Option<char>| {
        is_typed(&words.iter().map(OsString::from).collect::<Vec<_>>(), long, short)
    };
    assert!(is(&["emt", "eval", "--limit=5"], "limit", None));
    assert!(is(&["emt", "eval", "-oDIR"], "out", Some('o')));
    assert!(!is(&["emt", "eval", "--limits", "5"], "limit", None));
    assert!(!is(&["emt", "report", "--", "--title"], "title", None));
    assert!(!is(&["emt", "eval", "limit"], "limit", None));
}
