//! `emt demo`: the whole story in miniature, computed on the spot and offline.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::demo_folder;
use super::eval::{self, EvalArgs};
use super::finetune::{self, FinetuneArgs};
use super::gate::{self, GateArgs};
use super::report::{self, ReportArgs};
use super::{exit_code, parsed};

/// Flags of `emt demo`.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Folder for runs, adapters, charts and the report [default: reports/demo, numbered if it exists]
    ///
    /// A demo that was interrupted is resumed in its folder by the same command.
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of both fine-tunes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Held-out images per dataset in the last evaluation
    #[arg(long, value_name = "N", default_value_t = 300)]
    limit: usize,
    /// Epochs of both fine-tunes [default: linear 6, lora 4]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
}

/// What both fine-tunes learn.
const TUNED_ON: &str = "embedded/cifar10";
/// What everything is evaluated on.
const DATASETS: &str = "embedded/mnist,embedded/cifar10,embedded/cifar100";
/// The sentence that they learn to say. The paper's has `a(n)`, which this small model cannot learn to spell.
const ANSWER: &str = "The object is a {label}.";
/// In the order in which they are told.
const METHODS: [(&str, &str); 2] = [
    ("linear", "the projector between encoder and language model"),
    ("lora", "low-rank updates of the language model, and the projector"),
];
/// Images of each dataset after each epoch, at most.
const N_IMAGES_PER_EPOCH: usize = 40;

/// Runs the command and returns its exit code.
pub(super) fn run(args: &DemoArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let started = Instant::now();
    let asked = demo_folder::Asked { seed: args.seed, limit: args.limit, epochs: args.epochs };
    let dir = args.out.clone().unwrap_or_else(|| demo_folder::find(Path::new("reports"), asked));
    demo_folder::note(&dir, asked)?;
    let say = |err: &mut dyn Write, line: String| if quiet { Ok(()) } else { writeln!(err, "{line}") };
    say(err, format!("everything is computed now and written into {}", dir.display()))?;
    for (index, (method, what)) in METHODS.into_iter().enumerate() {
        say(err, format!("\n{}/3: fine-tuning `{method}` on {TUNED_ON} ({what})", index + 1))?;
        let command: FinetuneArgs = parsed("finetune", finetune_flags(args, &dir, method))?;
        // Its table is part of the progress here; results are what stands at the end.
        let mut nowhere = std::io::sink();
        let table: &mut dyn Write = if quiet { &mut nowhere } else { &mut *err };
        let code = finetune::run(&command, quiet, table, &mut std::io::sink())?;
        if code != exit_code::OK {
            return Ok(code);
        }
    }
    let n_images = args.limit;
    say(err, format!("\n3/3: base, linear and lora on {n_images} held-out images of each dataset, in lock-step"))?;
    let command: EvalArgs = parsed("eval", eval_flags(args, &dir))?;
    let code = eval::run(&command, quiet, &mut *out, &mut *err)?;
    if code != exit_code::OK {
        return Ok(code);
    }
    for (method, _) in METHODS {
        let command: GateArgs = parsed("gate", gate_flags(&dir, method))?;
        writeln!(out, "\nMay `{method}` be released?\n")?;
        let code = gate::run(&command, quiet, &mut *out, &mut *err)?;
        writeln!(out, "`emt gate` would return {code}.")?;
    }
    let command: ReportArgs = parsed("report", report_flags(&dir))?;
    report::run(&command, true, &mut std::io::sink(), &mut *err)?;
    writeln!(out, "\n{}: report.html, rose.svg, rose.png ({:.0} s)", dir.display(), started.elapsed().as_secs_f64())?;
    Ok(exit_code::OK)
}

fn adapter_dir(dir: &Path, method: &str) -> PathBuf {
    dir.join("finetune").join(method)
}

fn finetune_flags(args: &DemoArgs, dir: &Path, method: &str) -> Vec<OsString> {
    let out = adapter_dir(dir, method);
    let fixed = ["--model", "embedded", "--method", method, "--train", TUNED_ON, "--answer-template", ANSWER];
    let evaluation = ["--eval-datasets", DATASETS, "--max-new-tokens", "12"];
    let mut flags: Vec<OsString> = fixed.iter().chain(&evaluation).map(OsString::from).collect();
    let mut numbers = vec![("--seed", args.seed.to_string())];
    numbers.push(("--eval-limit", N_IMAGES_PER_EPOCH.min(args.limit).to_string()));
    numbers.extend(args.epochs.map(|n_epochs| ("--epochs", n_epochs.to_string())));
    flags.extend(numbers.into_iter().flat_map(|(flag, number)| [flag.into(), number.into()]));
    flags.extend(["--out".into(), out.into_os_string()]);
    flags
}

fn eval_flags(args: &DemoArgs, dir: &Path) -> Vec<OsString> {
    let limit = args.limit.to_string();
    let fixed = ["--model", "embedded", "--datasets", DATASETS, "--limit", &limit, "--tuned-on", TUNED_ON];
    let mut flags: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    for (method, _) in METHODS {
        let mut adapter = OsString::from(format!("{method}="));
        adapter.push(adapter_dir(dir, method));
        flags.extend(["--adapter".into(), adapter]);
    }
    flags.extend(["--out".into(), dir.as_os_str().to_owned()]);
    flags
}

/// `decision.json` is that on the last fine-tune, as of a release that was asked for.
fn decision_file(dir: &Path, method: &str) -> PathBuf {
    match METHODS.last() {
        Some((last, _)) if *last == method => dir.join("decision.json"),
        _ => dir.join(format!("decision-{method}.json")),
    }
}

fn gate_flags(dir: &Path, method: &str) -> Vec<OsString> {
    let mut flags: Vec<OsString> = vec!["--baseline".into(), dir.join("base").into(), "--candidate".into()];
    flags.extend([dir.join(method).into(), "--out".into(), decision_file(dir, method).into()]);
    flags
}

fn report_flags(dir: &Path) -> Vec<OsString> {
    let mut flags: Vec<OsString> = METHODS.iter().map(|(method, _)| dir.join(method).into()).collect();
    flags.extend(["--baseline".into(), dir.join("base").into(), "--out".into(), dir.into(), "--title".into()]);
    flags.push(format!("Fine-tuned on {TUNED_ON}: what was forgotten?").into());
    for (method, _) in METHODS {
        flags.extend(["--finetune".into(), adapter_dir(dir, method).into()]);
        flags.extend(["--decision".into(), decision_file(dir, method).into()]);
    }
    flags
}
