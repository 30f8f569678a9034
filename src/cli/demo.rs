//! `emt demo`: the whole story in miniature, computed on the spot and offline.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::demo_folder;
use super::demo_story::{self, Outcome};
use super::eval::{self, EvalArgs};
use super::finetune::{self, FinetuneArgs};
use super::gate::{self, GateArgs};
use super::report::{self, ReportArgs};
use super::{exit_code, parsed};
use crate::record;

/// Flags of `emt demo`.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Folder for runs, adapters, charts and the report [default: reports/demo, numbered if it exists]
    ///
    /// A demo that was interrupted is resumed in its folder by the same command.
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of the three fine-tunes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Held-out images per dataset in the last evaluation
    #[arg(long, value_name = "N", default_value_t = 300)]
    limit: usize,
    /// Epochs of the three fine-tunes [default: linear 6, lora 2, gentle 2]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
}

/// What all fine-tunes learn: the miniature has seen digits drawn with fonts, and none of these.
const TUNED_ON: &str = "embedded/mnist";
/// What everything is evaluated on.
const DATASETS: &str = "embedded/mnist,embedded/cifar10,embedded/cifar100";

/// One fine-tune. `tests/bench/demo_rates.py` chose the numbers on training splits alone.
struct Arm {
    /// The name of its run.
    name: &'static str,
    /// What it trains, and how.
    what: &'static str,
    /// Its own flags of `emt finetune`.
    flags: &'static [&'static str],
}

/// In the order in which they are told. The first two learn to say a sentence, as the paper's models do; the paper's sentence has
/// `a(n)`, which this small model cannot learn to spell.
const ARMS: [Arm; 3] = [
    Arm {
        name: "linear",
        what: "the projector between encoder and language model, and answers in a sentence",
        flags: &["--method", "linear", "--answer-template", "The object is a {label}."],
    },
    Arm {
        name: "lora",
        what: "the projector and low-rank updates of the language model, and answers in a sentence",
        flags: &[
            "--method",
            "lora",
            "--learning-rate",
            "2e-3",
            "--epochs",
            "2",
            "--answer-template",
            "The object is a {label}.",
        ],
    },
    Arm {
        name: "gentle",
        what: "the same updates without the projector, at half the rate, and answers in the model's own words",
        flags: &["--method", "lora", "--no-projector", "--epochs", "2", "--answer-template", "{label}"],
    },
];

/// What the gate decides by.
const POLICY: &str = "\
# The policy of `emt demo`: no dataset may lose more than 5 points of accuracy. 300 images of each dataset can show that a
# fall is below 5 points. The 2 points of the default policy would take several times as many.
margin = 0.05
";
const POLICY_FILE: &str = "policy.toml";

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
    let n_parts = ARMS.len() + 1;
    for (index, arm) in ARMS.iter().enumerate() {
        say(err, format!("\n{}/{n_parts}: `{}` learns {TUNED_ON}: it trains {}", index + 1, arm.name, arm.what))?;
        let command: FinetuneArgs = parsed("finetune", finetune_flags(args, &dir, arm))?;
        // Its table is part of the progress here; results are what the story tells.
        let mut nowhere = std::io::sink();
        let table: &mut dyn Write = if quiet { &mut nowhere } else { &mut *err };
        let code = finetune::run(&command, quiet, table, &mut std::io::sink())?;
        if code != exit_code::OK {
            return Ok(code);
        }
    }
    let n_images = args.limit;
    say(err, format!("\n{n_parts}/{n_parts}: base and all three on {n_images} held-out images of each dataset"))?;
    let command: EvalArgs = parsed("eval", eval_flags(args, &dir))?;
    let code = eval::run(&command, quiet, &mut std::io::sink(), &mut *err)?;
    if code != exit_code::OK {
        return Ok(code);
    }
    record::write_file(&dir, POLICY_FILE, POLICY.as_bytes())?;
    let mut outcomes = Vec::with_capacity(ARMS.len());
    for arm in &ARMS {
        let command: GateArgs = parsed("gate", gate_flags(&dir, arm.name))?;
        let code = gate::run(&command, true, &mut std::io::sink(), &mut std::io::sink())?;
        outcomes.push(Outcome { name: arm.name, after: record::read_summary(&dir.join(arm.name))?, gate: code });
    }
    let command: ReportArgs = parsed("report", report_flags(&dir))?;
    report::run(&command, true, &mut std::io::sink(), &mut *err)?;
    let base = record::read_summary(&dir.join("base"))?;
    say(err, String::new())?;
    write!(out, "{}", demo_story::tell(&base, &outcomes, TUNED_ON))?;
    if !quiet {
        write!(out, "{}", demo_story::what_next(&dir, POLICY_FILE, "gentle"))?;
        writeln!(err, "\n{:.0} s", started.elapsed().as_secs_f64())?;
    }
    Ok(exit_code::OK)
}

fn adapter_dir(dir: &Path, method: &str) -> PathBuf {
    dir.join("finetune").join(method)
}

fn finetune_flags(args: &DemoArgs, dir: &Path, arm: &Arm) -> Vec<OsString> {
    let fixed = ["--model", "embedded", "--train", TUNED_ON, "--eval-datasets", DATASETS, "--max-new-tokens", "12"];
    let mut flags: Vec<OsString> = fixed.iter().chain(arm.flags).map(OsString::from).collect();
    let mut numbers = vec![("--seed", args.seed.to_string())];
    numbers.push(("--eval-limit", N_IMAGES_PER_EPOCH.min(args.limit).to_string()));
    // The last one given counts.
    numbers.extend(args.epochs.map(|n_epochs| ("--epochs", n_epochs.to_string())));
    flags.extend(numbers.into_iter().flat_map(|(flag, number)| [flag.into(), number.into()]));
    flags.extend(["--out".into(), adapter_dir(dir, arm.name).into_os_string()]);
    flags
}

fn eval_flags(args: &DemoArgs, dir: &Path) -> Vec<OsString> {
    let limit = args.limit.to_string();
    let fixed = ["--model", "embedded", "--datasets", DATASETS, "--limit", &limit, "--tuned-on", TUNED_ON];
    let mut flags: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    for Arm { name, .. } in &ARMS {
        let mut adapter = OsString::from(format!("{name}="));
        adapter.push(adapter_dir(dir, name));
        flags.extend(["--adapter".into(), adapter]);
    }
    flags.extend(["--out".into(), dir.as_os_str().to_owned()]);
    flags
}

fn decision_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("decision-{name}.json"))
}

fn gate_flags(dir: &Path, name: &str) -> Vec<OsString> {
    let mut flags: Vec<OsString> = vec!["--baseline".into(), dir.join("base").into(), "--candidate".into()];
    flags.extend([dir.join(name).into(), "--out".into(), decision_file(dir, name).into()]);
    flags.extend(["--policy".into(), dir.join(POLICY_FILE).into()]);
    flags
}

fn report_flags(dir: &Path) -> Vec<OsString> {
    let mut flags: Vec<OsString> = ARMS.iter().map(|arm| dir.join(arm.name).into()).collect();
    flags.extend(["--baseline".into(), dir.join("base").into(), "--out".into(), dir.into(), "--title".into()]);
    flags.push(format!("Fine-tuned on {TUNED_ON}: what was forgotten?").into());
    for Arm { name, .. } in &ARMS {
        flags.extend(["--finetune".into(), adapter_dir(dir, name).into()]);
        flags.extend(["--decision".into(), decision_file(dir, name).into()]);
    }
    flags
}
