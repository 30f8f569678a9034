//! `emt demo`: the whole story in miniature, computed on the spot and offline.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use super::eval::{self, EvalArgs};
use super::finetune::{self, FinetuneArgs};
use super::{exit_code, parsed, results};
use crate::chart::{self, RoseChart, RoseOptions, Scale, Style};
use crate::compare::{self, Forgetting, Summary};
use crate::record;
use crate::report::{self, Chapter, Story};

/// Flags of `emt demo`.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Folder for runs, adapters, charts and the report; default: reports/demo, with a number where that exists
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of both fine-tunes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Held-out images of each dataset at the end
    #[arg(long, value_name = "N", default_value_t = 300)]
    limit: usize,
    /// Epochs of both fine-tunes; default: 6 for linear, 4 for lora
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

const PNG_WIDTH_PX: u32 = 1600;

/// Runs the command and returns its exit code.
pub(super) fn run(args: &DemoArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let started = Instant::now();
    let dir = args.out.clone().unwrap_or_else(default_folder);
    let say = |err: &mut dyn Write, line: String| if quiet { Ok(()) } else { writeln!(err, "{line}") };
    say(err, format!("everything is computed now and written into {}", dir.display()))?;
    for (index, (method, what)) in METHODS.into_iter().enumerate() {
        say(err, format!("\n{}/3: fine-tuning `{method}` on {TUNED_ON} ({what})", index + 1))?;
        let command: FinetuneArgs = parsed("finetune", finetune_flags(args, &dir, method))?;
        // Its table is part of the progress here; results are what stands at the end.
        let code = finetune::run(&command, quiet, &mut *err, &mut std::io::sink())?;
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
    write_story(&dir)?;
    writeln!(out, "\n{}: report.html, rose.svg, rose.png ({:.0} s)", dir.display(), started.elapsed().as_secs_f64())?;
    Ok(exit_code::OK)
}

/// `reports/demo`, or the first free `reports/demo-2`, `reports/demo-3`, …
fn default_folder() -> PathBuf {
    let reports = Path::new("reports");
    let named = |number: usize| if number == 1 { "demo".to_owned() } else { format!("demo-{number}") };
    (1..).map(|number| reports.join(named(number))).find(|dir| !dir.exists()).unwrap_or_else(|| reports.join("demo"))
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

/// Draws before against after and writes the page.
fn write_story(dir: &Path) -> Result<()> {
    let options = RoseOptions { scale: Scale::Radius, style: Style::Petals, paper_rows: false };
    let before: Summary = record::read_summary(&dir.join("base"))?;
    let (_, trials_before) = results::read_run(&dir.join("base"))?;
    let of_base = chart::rose(&RoseChart::of_summary(&before, options));
    let mut told = Vec::new();
    for (method, _) in METHODS {
        let after: Summary = record::read_summary(&dir.join(method))?;
        let rose = chart::rose(&RoseChart::before_after(&before, &after, options));
        let curve = record::read_text(&adapter_dir(dir, method).join("curve.svg"))?;
        let (_, trials_after) = results::read_run(&dir.join(method))?;
        let names = after.datasets.iter().map(|dataset| dataset.dataset.as_str());
        let forgetting: Vec<Forgetting> =
            names.map(|name| compare::forgetting(name, &trials_before, &trials_after)).collect();
        told.push((method, after, forgetting, rose, curve, format!("{method}/report.html")));
    }
    let chapters: Vec<Chapter> = told
        .iter()
        .map(|(name, after, forgetting, rose_svg, curve, report)| Chapter {
            name,
            after,
            forgetting,
            rose_svg,
            curve_svg: Some(curve),
            report,
        })
        .collect();
    let lead = [
        format!(
            "A miniature model that is part of the program was fine-tuned twice on 200 images of {TUNED_ON} to answer \
             “{ANSWER}”, and then asked about held-out images of all three datasets."
        ),
        "What it still knows elsewhere is what it did not forget. All figures were computed on this machine."
            .to_owned(),
    ];
    let story = Story {
        title: "Fine-tuned on one dataset: what was forgotten of the others?",
        lead: &lead,
        before: &before,
        rose_svg: &of_base,
        chapters: &chapters,
    };
    record::write_file(dir, "report.html", report::story(&story).as_bytes())?;
    let Some((_, _, _, rose, ..)) = told.last() else { bail!("there is no fine-tune to tell of") };
    record::write_file(dir, "rose.svg", rose.as_bytes())?;
    record::write_file(dir, "rose.png", &chart::png(rose, PNG_WIDTH_PX)?)?;
    Ok(())
}
