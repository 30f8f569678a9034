//! Tests of `config_file`.

use proptest::prelude::*;

use super::*;

fn with_command(name: &str, text: &str, rest: &[&str]) -> Result<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("emt.toml");
    std::fs::write(&path, text).unwrap();
    let mut args: Vec<OsString> = ["emt", name, "--config"].map(OsString::from).into();
    args.push(path.into());
    args.extend(rest.iter().map(OsString::from));
    let command = super::super::command();
    let all = read(&command, &args)?.expect("a file is named").put_into(&args);
    Ok(all.into_iter().map(|arg| arg.into_string().unwrap()).collect())
}

fn with(text: &str, rest: &[&str]) -> Result<Vec<String>> {
    with_command("eval", text, rest)
}

#[test]
fn keys_become_flags_before_those_of_the_command_line() {
    let args = with("limit = 5\ndatasets = [\"mnist\", \"cifar10\"]\nfresh = true\n", &["--seed", "7"]).unwrap();
    let at = |flag: &str| args.iter().position(|arg| arg == flag).unwrap();
    assert!(at("--limit=5") < at("--config"));
    assert!(args.contains(&"--datasets=mnist,cifar10".to_owned()));
    assert!(args.contains(&"--fresh".to_owned()));
}

#[test]
fn a_flag_of_the_command_line_replaces_its_key() {
    let args = with("limit = 5\nadapter = [\"a\", \"b\"]\n", &["--limit=7", "--adapter", "c"]).unwrap();
    assert!(args.iter().all(|arg| !["--limit=5", "--adapter=a", "--adapter=b"].contains(&arg.as_str())), "{args:?}");
}

#[test]
fn a_list_repeats_a_flag_that_takes_one_value() {
    let args = with("adapter = [\"a,1\", \"b\"]\n", &[]).unwrap();
    assert!(args.contains(&"--adapter=a,1".to_owned()) && args.contains(&"--adapter=b".to_owned()), "{args:?}");
}

#[test]
fn an_unknown_key_is_named_with_the_file_the_line_and_the_nearest_key() {
    let error = format!("{:#}", with("# comment\nlimmit = 5\n", &[]).unwrap_err());
    for part in ["`limmit`", "emt.toml", "line 2", "did you mean `limit`"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn keys_of_other_commands_are_passed_over() {
    let args = with("epochs = 3\njunit = \"x.xml\"\nlimit = 5\n", &[]).unwrap();
    assert!(args.contains(&"--limit=5".to_owned()));
    assert!(args.iter().all(|arg| !arg.contains("epochs") && !arg.contains("junit")), "{args:?}");
}

#[test]
fn a_form_that_the_command_line_chooses_is_not_contradicted_by_the_file() {
    let flags = ["--baseline", "a", "--candidate", "b"];
    let args = with_command("gate", "model = \"m\"\nmargin = 1\n", &flags);
    assert!(format!("{:#}", args.unwrap_err()).contains("margin"), "no command has it");
    let args = with_command("gate", "model = \"m\"\njunit = \"x.xml\"\n", &flags).unwrap();
    assert!(args.iter().all(|arg| arg != "--model=m"), "{args:?}");
    assert!(args.contains(&"--junit=x.xml".to_owned()));
}

#[test]
fn a_wrong_type_is_named_with_its_line() {
    for (text, parts) in [
        ("limit = 5\nfresh = \"yes\"\n", ["line 2", "`fresh`", "true or false"]),
        ("\n\nlimit = { n = 5 }\n", ["line 3", "`limit`", "a table"]),
        ("data = 2024-01-01\n", ["line 1", "`data`", "a date"]),
    ] {
        let error = format!("{:#}", with(text, &[]).unwrap_err());
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_text_is_flags_or_an_error(
        noise in ".{0,60}", key in "[a-z_-]{0,12}|limit|datasets|fresh|quiet", value in "[-0-9a-z'\"\\[\\]{}.,:]{0,20}",
    ) {
        let _ = with(&noise, &[]);
        if let Ok(args) = with(&format!("{key} = {value}\n"), &["--limit", "7"]) {
            // What comes out are flags of the command, and the command line stays last.
            prop_assert!(args[2..args.len() - 4].iter().all(|arg| arg.starts_with("--")), "{args:?}");
            prop_assert_eq!(&args[args.len() - 2..], ["--limit", "7"]);
        }
    }
}
