//! The command line as a person meets it: flags that a form does not use, slips, configuration files, help and `--quiet`.

use std::fs;

use super::support::{emt, finish, run};

/// The command line must end with exit code 2 and a message that says all of `parts`.
fn refuse(line: &[&str], parts: &[&str]) {
    let finished = run(line);
    assert_eq!(finished.code, Some(2), "{line:?}\n{}{}", finished.stdout, finished.stderr);
    assert_eq!(finished.stdout, "", "{line:?}");
    for part in parts {
        assert!(finished.stderr.contains(part), "`{part}` is missing in: {}", finished.stderr);
    }
}

#[test]
fn a_flag_that_a_form_does_not_use_is_refused_with_the_forms_that_use_it() {
    let gate = ["gate", "--baseline", "a", "--candidate", "b"];
    let eval = ["eval", "--model", "embedded"];
    let served = ["eval", "--model", "http://127.0.0.1:9/v1"];
    let finetune = ["finetune", "--model", "embedded", "--method", "linear", "--train", "mnist", "--out", "x"];
    let embedded = ["eval", "--model", "embedded", "--datasets", "embedded/mnist"];
    let local = ["eval", "--model", "x", "--datasets", "embedded/mnist,embedded/cifar10"];
    let trained = ["finetune", "--model", "embedded", "--method", "linear", "--train", "embedded/mnist", "--out", "x"];
    let score = ["judge", "score", "a", "--out", "b"];
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&gate, &["--limit", "5"], &["--limit", "`emt gate` with two finished runs", "--model", "hint: "]),
        (&gate, &["--encoder", "none"], &["--encoder has no effect"]),
        (&gate, &["--rose-scale", "area"], &["--rose-scale has no effect"]),
        (&gate, &["--runs", "x"], &["--runs has no effect"]),
        (&["gate", "--print-policy"], &["--policy", "x.toml"], &["--policy has no effect", "--print-policy"]),
        (&eval, &["--server-repeats", "5"], &["--server-repeats has no effect", "miniature", "a served model"]),
        (&eval, &["--judge-url", "http://x"], &["--judge-url", "--judge rules;", "--judge llm or --judge rules+llm"]),
        (&eval, &["--judge", "llm", "--judge-scope", "all"], &["--judge-scope has no effect", "rules+llm"]),
        (&eval, &["--max-connections", "5"], &["--max-connections has no effect", "no server is used"]),
        (&eval, &["--modes", "score", "--max-new-tokens", "5"], &["--max-new-tokens", "label scoring"]),
        (&eval, &["--encoder", "none", "--captions", "ensemble"], &["--captions has no effect", "--encoder none"]),
        (&eval, &["--comparator", "zero-shot", "--probe-shots", "5"], &["--probe-shots", "--comparator probe"]),
        (&eval, &["--probe", "knn"], &["--probe has no effect", "--comparator probe"]),
        (&eval, &["--merge"], &["--merge has no effect", "no adapter", "--adapter DIR"]),
        (&eval, &["--data", "x"], &["--data has no effect", "--datasets"]),
        (&eval, &["--download"], &["--download has no effect", "ORG/NAME"]),
        (&embedded, &["--download"], &["--download has no effect", "embedded datasets alone"]),
        (&embedded, &["--data", "x"], &["--data has no effect", "part of the program"]),
        (&local, &["--data", "x"], &["--data has no effect", "part of the program"]),
        (&embedded, &["--exif", "apply"], &["--exif has no effect", "part of the program"]),
        (&eval, &["--exif", "apply"], &["--exif has no effect", "part of the program"]),
        (&trained, &["--exif", "apply"], &["--exif has no effect", "--train"]),
        (&trained, &["--data", "x"], &["--data has no effect", "part of the program"]),
        (&["data", "verify", "embedded/mnist"], &["--exif", "apply"], &["--exif has no effect", "embedded/mnist"]),
        (&["data", "verify", "embedded/mnist"], &["--download"], &["--download has no effect", "embedded/mnist"]),
        (&["judge", "sample", "a", "--out", "b.csv"], &["--n", "0"], &["--n must be at least 1"]),
        (&trained, &["--mix", "0.1"], &["--mix has no effect on one dataset", "--limit"]),
        (&eval, &["--feature-cache-gb", "5"], &["--feature-cache-gb has no effect", "--feature-cache DIR"]),
        (&served, &["--dtype", "f32"], &["--dtype has no effect", "the server was started with its own"]),
        (&served, &["--feature-cache", "x"], &["--feature-cache has no effect", "behind a server"]),
        (&served, &["--probe-shots", "5"], &["--probe-shots has no effect", "tower"]),
        (&served, &["--captions", "ensemble"], &["--captions has no effect", "a server names no encoder"]),
        (&finetune, &["--rank", "4"], &["--rank has no effect", "--method linear", "--method lora"]),
        (&finetune, &["--no-projector"], &["--no-projector has no effect", "--method lora"]),
        (
            &finetune,
            &["--eval-datasets", "none", "--eval-limit", "4"],
            &["--eval-limit has no effect", "no forgetting"],
        ),
        (&["report", "a"], &["--title", "x"], &["--title has no effect", "one run", "--baseline RUN"]),
        (&["report", "a", "b"], &["--decision", "x"], &["--decision has no effect", "several runs"]),
        (&["report", "a", "--baseline", "b"], &["--paper-rows"], &["--paper-rows has no effect", "a baseline"]),
        (&["report", "a"], &["--stages", "b", "c:mnist"], &["RUN has no effect", "stages"]),
        (&["report", "--stages", "b", "c:mnist"], &["--rose-style", "radar"], &["--rose-style has no effect"]),
        (&score, &["--judge-prompt", "emt"], &["--judge-prompt has no effect", "`emt judge score` with --judge rules"]),
        (&score, &["--timeout", "5"], &["--timeout has no effect"]),
    ];
    for (form, flag, parts) in cases {
        refuse(&[*form, *flag].concat(), parts);
    }
}

#[test]
fn a_slip_is_answered_with_what_was_probably_meant() {
    refuse(&["eval", "--model", "x", "--limmit", "5"], &["--limit"]);
    refuse(&["eval", "--model", "x", "--judge", "rule"], &["rules"]);
    refuse(&["eval", "--model", "x", "--rose-style", "petal"], &["petals"]);
    refuse(&["finetune", "--model", "x", "--method", "lara"], &["lora"]);
    refuse(&["evaluate"], &["eval"]);
}

/// Flags of an evaluation that takes a second.
const SMALL: [&str; 7] = ["eval", "--model", "embedded", "--datasets", "embedded/mnist", "--limit", "4"];

#[test]
fn a_configuration_file_and_the_environment_serve_several_commands_and_forms() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("emt.toml");
    let text = "server_repeats = 5\njudge_url = \"http://127.0.0.1:9\"\nepochs = 3\njunit = \"x.xml\"\nlogprobs = true\n\
                dtype = \"f32\"\nprobe_shots = [1, 2]\nfeature_cache_gb = 3\nquiet = true\n";
    fs::write(&config, format!("\u{feff}{text}")).unwrap();
    let out = folder.path().join("run");
    let mut command = emt();
    command.args(SMALL).arg("--config").arg(&config).arg("--out").arg(&out);
    command.env("EMT_DATA", folder.path()).env("EMT_JUDGE_BASE_URL", "http://127.0.0.1:9");
    let finished = finish(&mut command);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stderr, "", "quiet is quiet");
    // Typed, the same flag is refused.
    let finished = finish(command.args(["--server-repeats", "5"]));
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
}

#[test]
fn a_key_that_the_form_at_hand_cannot_use_is_warned_of_once_with_the_file_and_the_form() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("emt.toml");
    fs::write(&config, "served_model = \"a\"\njudge_model = \"b\"\nepochs = 3\nmerge = false\nlogprobs = true\n")
        .unwrap();
    let out = folder.path().join("run");
    let finished = finish(emt().args(SMALL).arg("--config").arg(&config).arg("--out").arg(&out));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let warnings: Vec<&str> = finished.stderr.lines().filter(|line| line.contains("no effect")).collect();
    let [judge, served] = warnings[..] else { panic!("{}", finished.stderr) };
    assert!(
        served.contains("emt.toml`, `logprobs` and `served_model` have no effect on `emt eval` with the miniature"),
        "{served}"
    );
    assert!(judge.contains("`judge_model` has no effect on `emt eval` with --judge rules"), "{judge}");
}

#[test]
fn no_key_of_a_shared_file_changes_or_hides_a_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("emt.toml");
    let out = folder.path().join("runs");
    let names = "embedded/mnist,embedded/cifar10";
    let flags = ["eval", "--model", "embedded", "--datasets", names, "--limit", "4", "--quiet", "--out"];
    assert_eq!(finish(emt().args(flags).arg(&out)).code, Some(0));
    let gate = |text: &str, more: &[&str]| {
        fs::write(&config, text).unwrap();
        let mut command = emt();
        command.args(["gate", "--allow-same", "--format", "json", "--baseline"]).arg(&out).arg("--candidate").arg(&out);
        finish(command.args(more).arg("--config").arg(&config))
    };
    let plain = gate("", &[]);
    assert_eq!(plain.code, Some(3), "{}", plain.stderr);
    // Meant for an evaluation: the verdict is the same, and a warning says what was left out.
    let shared = gate("model = \"embedded\"\ndatasets = [\"embedded/mnist\"]\nlimit = 2\n", &[]);
    assert!(shared.stdout == plain.stdout && shared.code == plain.code, "{}", shared.stdout);
    for part in [
        "`model` has no effect on `emt gate` beside --baseline",
        "`datasets` has no effect",
        "two finished runs",
        "type --datasets",
    ] {
        assert!(shared.stderr.contains(part), "{part}: {}", shared.stderr);
    }
    assert!(shared.stderr.contains("`limit` has no effect"), "{}", shared.stderr);
    let named = gate("samples = \"lost.csv\"\n", &[]);
    assert!(named.stdout == plain.stdout && named.stderr.contains("type --samples"), "{}", named.stderr);
    // Typed, it narrows what is decided on.
    let typed = gate("datasets = [\"embedded/cifar10\"]\n", &["--datasets", "embedded/mnist"]);
    assert!(
        typed.stdout.contains("embedded/mnist") && !typed.stdout.contains("\"dataset\": \"embedded/cifar10\""),
        "{}",
        typed.stdout
    );
    // A file can never put the policy in the place of a verdict.
    let printed = gate("limit = 2\nprint_policy = true\n", &[]);
    assert_eq!((printed.code, &printed.stdout[..]), (Some(2), ""), "{}", printed.stderr);
    for part in ["emt.toml`, line 2", "`print_policy`", "type --print-policy"] {
        assert!(printed.stderr.contains(part), "{part}: {}", printed.stderr);
    }
    let excluded = gate("history = \"h\"\nattempt = 2\n", &[]);
    assert_eq!(excluded.code, Some(2), "{}", excluded.stderr);
    assert!(
        excluded.stderr.contains("emt.toml`, line ") && excluded.stderr.contains("--attempt"),
        "{}",
        excluded.stderr
    );
    assert_eq!(gate("print_policy = false\n", &[]).stdout, plain.stdout);
}

#[test]
fn a_configuration_file_is_read_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("k.toml");
    fs::write(&config, "model = \"embedded\"\ndatasets = \"embedded/mnist\"\nlimit = 2\n").unwrap();
    let config = config.to_str().unwrap();
    let joined = format!("--config={config}");
    let orders: [&[&str]; 5] = [
        &["eval", "--config", config],
        &["--config", config, "eval"],
        &["-q", "eval", "--config", config],
        &["--quiet", &joined, "eval"],
        &["-q", "--config", config, "eval", "--limit", "2"],
    ];
    let out = folder.path().join("run");
    for order in orders {
        let finished = finish(emt().args(order).arg("--out").arg(&out));
        assert_eq!(finished.code, Some(0), "{order:?}: {}", finished.stderr);
    }
    let refused = finish(emt().args(["--config", config, "data", "list", "--format", "yaml"]));
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

#[test]
fn a_fault_of_a_configuration_file_is_named_with_the_file_and_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("emt.toml");
    for (text, parts) in [
        ("# evaluation\nlimmit = 5\n", ["line 2", "`limmit`", "did you mean `limit`?"]),
        ("\nlimit = \"many\"\n", ["line 2", "`limit` cannot be `many`", "invalid"]),
        ("judge = \"ruls\"\n", ["line 1", "`judge` cannot be `ruls`", "rules"]),
        ("limit = 1\nfresh = 1\n", ["line 2", "`fresh`", "true or false"]),
        ("limit = [[1]]\n", ["line 1", "`limit`", "a list"]),
        ("limit = \n", ["emt.toml", "line 1", "failed to read"]),
        ("[gate]\nlimit = 1\n", ["line 1", "`gate`", "not a flag of any command"]),
        ("colour = 1\n", ["line 1", "`colour`", "`emt eval --help`"]),
    ] {
        fs::write(&config, text).unwrap();
        refuse(&["eval", "--model", "embedded", "--config", config.to_str().unwrap()], &parts);
        refuse(&["eval", "--model", "embedded", "--config", config.to_str().unwrap()], &["emt.toml"]);
    }
    // What the command line says instead is not looked at.
    fs::write(&config, "limit = \"many\"\n").unwrap();
    let out = folder.path().join("run");
    let finished = finish(emt().args(SMALL).arg("--config").arg(&config).arg("--out").arg(&out));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

#[test]
fn quiet_commands_print_results_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let quiet = |line: &[&str]| {
        let finished = finish(emt().args(line).arg("--quiet"));
        assert_eq!(finished.stderr, "", "{line:?}");
        assert!(matches!(finished.code, Some(0 | 1 | 3)), "{line:?}: {:?}", finished.code);
        finished.stdout
    };
    let (base, again, adapter) = (path("base"), path("again"), path("adapter"));
    assert!(quiet(&[&SMALL[..], &["--out", &base]].concat()).contains("embedded/mnist"));
    let small = ["--limit", "10", "--epochs", "1", "--eval-limit", "4", "--eval-datasets", "embedded/mnist"];
    let finetune = ["finetune", "--model", "embedded", "--method", "linear", "--train", "embedded/cifar10"];
    assert!(quiet(&[&finetune[..], &small[..], &["--out", &adapter]].concat()).contains("epoch 1"));
    let runs = path("runs");
    let gate = ["gate", "--model", "embedded", "--adapter", &adapter, "--datasets", "embedded/mnist", "--limit", "10"];
    assert!(quiet(&[&gate[..], &["--runs", &runs]].concat()).contains("embedded/mnist"));
    assert!(quiet(&["judge", "score", &base, "--out", &again]).contains("embedded/mnist"));
    assert!(quiet(&["report", &base]).contains("embedded/mnist"));
    let tuned = format!("{runs}/adapter");
    let report = ["report", &tuned, "--baseline", &format!("{runs}/base"), "--out", &path("report")];
    assert!(quiet(&report).contains("embedded/mnist"));
    assert!(quiet(&["judge", "sample", &base, "--out", &path("sheet.csv")]).contains("embedded/mnist"));
    assert!(quiet(&["data", "list"]).contains("embedded/mnist"));
    assert!(quiet(&["data", "verify", "embedded/mnist", "--limit", "4"]).contains("good"));
    assert!(quiet(&["models"]).contains("models"));
}

#[test]
fn every_help_has_examples_and_exit_codes_and_the_short_one_fits_two_screens() {
    for command in ["", "eval", "report", "gate", "finetune", "judge score", "judge calibrate", "data fetch", "demo"] {
        let words: Vec<&str> = command.split_whitespace().collect();
        let long = finish(emt().args(&words).arg("--help").env("COLUMNS", "100"));
        assert_eq!(long.code, Some(0), "{command}");
        assert!(long.stdout.contains("Examples:\n") && long.stdout.contains("Exit codes:\n"), "{}", long.stdout);
        let short = finish(emt().args(&words).arg("-h").env("COLUMNS", "100"));
        let n_lines = short.stdout.lines().count();
        assert!(short.code == Some(0) && n_lines <= 66, "`emt {command} -h` has {n_lines} lines");
    }
}
