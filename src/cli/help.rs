//! The end of every `--help`: examples and exit codes.

use clap::Command;

/// The end of one command's help.
pub(super) struct Page {
    path: &'static [&'static str],
    /// What an example does, and its command line.
    pub examples: &'static [(&'static str, &'static str)],
    /// What they mean.
    pub exit_codes: &'static [(u8, &'static str)],
}

const DONE: (u8, &str) = (0, "done");
const FAILED: (u8, &str) = (2, "the request or the machinery failed: usage, a missing file, an unreachable server");
const INTERRUPTED: (u8, &str) = (130, "interrupted; the same command resumes");

const PAGES: &[Page] = &[
    Page {
        path: &[],
        examples: &[
            ("See everything once, offline, in about a minute", "emt demo"),
            ("Evaluate a checkpoint on 1,000 images per dataset", "emt eval --model ./llava-1.5-7b --limit 1000"),
            (
                "Decide whether an adapter may be released",
                "emt gate --model ./llava-1.5-7b --adapter ./my-lora --out decision.json",
            ),
            ("List the topics of the manual, and read one", "emt help start"),
        ],
        exit_codes: &[
            (0, "done; of `emt gate`: the candidate passes"),
            (1, "the gate failed: the candidate has forgotten"),
            FAILED,
            (3, "the gate is inconclusive, for a named reason"),
            INTERRUPTED,
        ],
    },
    Page {
        path: &["eval"],
        examples: &[
            (
                "A checkpoint on two datasets, at most 1,000 images each",
                "emt eval --model ./llava-1.5-7b --datasets mnist,cifar10 --limit 1000 --out runs/base",
            ),
            (
                "A base and its adapter in one pass, into runs/base and runs/tuned",
                "emt eval --model ./llava-1.5-7b --adapter tuned=./my-lora --tuned-on cifar10 --out runs",
            ),
            (
                "A model behind a server, with a language model as judge",
                "emt eval --model http://localhost:8000/v1 --judge rules+llm --judge-url http://localhost:8001/v1 \
                 --judge-model NAME",
            ),
        ],
        exit_codes: &[
            DONE,
            (2, "the request or the machinery failed, or more trials than --max-unscored have no verdict"),
            INTERRUPTED,
        ],
    },
    Page {
        path: &["report"],
        examples: &[
            ("Write the report of one run again", "emt report runs/base"),
            (
                "Compare a fine-tuned model with its base",
                "emt report runs/tuned --baseline runs/base --decision decision.json --out report",
            ),
            (
                "The forgetting matrix of two fine-tunes, one after the other",
                "emt report --stages runs/base runs/first:cifar10 runs/second:mnist",
            ),
        ],
        exit_codes: &[DONE, FAILED],
    },
    Page {
        path: &["gate"],
        examples: &[
            ("Decide on two finished runs", "emt gate --baseline runs/base --candidate runs/tuned --out decision.json"),
            (
                "Evaluate a base and its adapter until each dataset is decided",
                "emt gate --model ./llava-1.5-7b --adapter ./my-lora --policy policy.toml --junit gate.xml",
            ),
            ("Write the default policy as a file to change", "emt gate --print-policy"),
        ],
        exit_codes: &[
            (0, "pass: the candidate may be released"),
            (1, "fail: the candidate has forgotten"),
            FAILED,
            (3, "inconclusive, for a named reason"),
            INTERRUPTED,
        ],
    },
    Page {
        path: &["diagnose"],
        examples: &[
            (
                "Find out why an adapter forgot, on 200 images of each dataset",
                "emt diagnose --model ./llava-1.5-7b --adapter ./my-lora --datasets mnist,cifar10 --out diagnosis",
            ),
            (
                "The same with the built-in model, offline",
                "emt diagnose --model embedded --adapter adapters/lora --limit 60 --out diagnosis",
            ),
            (
                "The images that a report lists as lost",
                "emt diagnose --model ./llava-1.5-7b --adapter ./my-lora --datasets mnist --samples report/lost.csv --out lost",
            ),
        ],
        exit_codes: &[(0, "done, also if nothing was lost"), FAILED, INTERRUPTED],
    },
    Page {
        path: &["recover"],
        examples: &[
            (
                "The strength at which an adapter for CIFAR-10 keeps what the base knew of MNIST",
                "emt recover --model ./llava-1.5-7b --adapter ./my-lora --new cifar10 --old mnist --out recovered",
            ),
            (
                "Also with the base's weights of the component that a diagnosis finds guilty",
                "emt recover --model ./llava-1.5-7b --adapter ./my-lora --new cifar10 --old mnist --diagnosis diagnosis --out recovered",
            ),
            (
                "Between the base and a merged checkpoint, at four strengths",
                "emt recover --model ./llava-1.5-7b --adapter ./merged --new cifar10 --old mnist --methods interpolate --strengths 0.25,0.5,0.75,1 --out recovered",
            ),
        ],
        exit_codes: &[
            (0, "pass: a strength keeps both, and its weights are written"),
            (1, "fail: no strength passes"),
            FAILED,
            (3, "inconclusive: the images do not decide about the chosen strength"),
            INTERRUPTED,
        ],
    },
    Page {
        path: &["finetune"],
        examples: &[
            (
                "Train low-rank updates on CIFAR-10 and show the forgetting curve",
                "emt finetune --model ./llava-1.5-7b --method lora --train cifar10 --out adapters/lora",
            ),
            (
                "Train the miniature's projector, offline",
                "emt finetune --model embedded --method linear --train embedded/cifar10 --epochs 2 --out adapters/linear",
            ),
        ],
        exit_codes: &[DONE, FAILED, INTERRUPTED],
    },
    Page {
        path: &["sweep"],
        examples: &[
            ("Train and evaluate every arm of a file, and rank the arms", "emt sweep arms.toml --out sweep"),
            ("Print the paper's sweep for the built-in model", "emt sweep --print-paper --model embedded"),
        ],
        exit_codes: &[DONE, (2, "the request or the machinery failed, or a training did"), INTERRUPTED],
    },
    Page {
        path: &["judge"],
        examples: &[(
            "Judge a run's answers again by the present rules",
            "emt judge score runs/base --out runs/base-again",
        )],
        exit_codes: &[DONE, FAILED, INTERRUPTED],
    },
    Page {
        path: &["judge", "score"],
        examples: &[
            ("Judge a run's answers again by the present rules", "emt judge score runs/base --out runs/base-again"),
            (
                "Let a language model judge them with the paper's prompt",
                "emt judge score runs/base --judge llm --judge-url http://localhost:8001/v1 --judge-model NAME \
                 --judge-prompt emt --out runs/base-llm",
            ),
        ],
        exit_codes: &[
            DONE,
            (2, "the request or the machinery failed, or more trials than --max-unscored have no verdict"),
            INTERRUPTED,
        ],
    },
    Page {
        path: &["judge", "sample"],
        examples: &[("A sheet of 300 answers to mark", "emt judge sample runs/base --n 300 --out sheet.csv")],
        exit_codes: &[DONE, FAILED],
    },
    Page {
        path: &["judge", "calibrate"],
        examples: &[(
            "Measure the rules against the marks, for `emt gate --calibration-baseline`",
            "emt judge calibrate --labels sheet.csv --judge rules --out calibration.json",
        )],
        exit_codes: &[DONE, FAILED, INTERRUPTED],
    },
    Page {
        path: &["models"],
        examples: &[("The list as JSON", "emt models --format json")],
        exit_codes: &[DONE, FAILED],
    },
    Page {
        path: &["data"],
        examples: &[("What is known, and what is on this machine", "emt data list")],
        exit_codes: &[DONE, FAILED],
    },
    Page {
        path: &["data", "list"],
        examples: &[("The datasets of one folder", "emt data list --data ./datasets")],
        exit_codes: &[DONE, FAILED],
    },
    Page {
        path: &["data", "verify"],
        examples: &[
            ("Every dataset that is found", "emt data verify"),
            ("A folder of images, 100 of them", "emt data verify ./photos --limit 100"),
        ],
        exit_codes: &[DONE, (2, "the request failed, or a dataset is not good")],
    },
    Page {
        path: &["data", "fetch"],
        examples: &[("The datasets that `emt eval` uses by default", "emt data fetch mnist cifar10 cifar100")],
        exit_codes: &[DONE, FAILED],
    },
    Page {
        path: &["demo"],
        examples: &[("Everything into one folder", "emt demo --out demo")],
        exit_codes: &[(0, "done, whatever the verdict"), FAILED, INTERRUPTED],
    },
    Page {
        path: &["help"],
        examples: &[
            ("All commands and topics", "emt help"),
            ("The page about policies", "emt help policy"),
            ("The flags of `emt gate`, then the page about it", "emt help gate"),
        ],
        exit_codes: &[DONE, (2, "there is no such command or topic")],
    },
    Page {
        path: &["completions"],
        examples: &[
            ("For this session of bash, by `source <(...)`", "emt completions bash"),
            ("For fish, into ~/.config/fish/completions/emt.fish", "emt completions fish"),
        ],
        exit_codes: &[DONE, FAILED],
    },
    Page {
        path: &["man"],
        examples: &[
            ("The page of one command, shown by `man -l -`", "emt man judge score"),
            ("The pages of all commands", "emt man --out ./share/man/man1"),
        ],
        exit_codes: &[DONE, FAILED],
    },
];

/// Flags of an evaluation that `emt gate -h` leaves to `emt gate --help`: it has a screen of flags of its own.
const LONG_HELP_OF_GATE: [&str; 9] =
    ["prompt", "modes", "batch_size", "device", "dtype", "judge_url", "judge_model", "download", "markdown"];

/// `command` with examples and exit codes below the flags of every `--help`.
pub(super) fn with_pages(command: Command) -> Command {
    let command = command.mut_subcommand("gate", |gate| {
        gate.mut_args(|flag| {
            let is_long = LONG_HELP_OF_GATE.contains(&flag.get_id().as_str());
            if is_long { flag.hide_short_help(true) } else { flag }
        })
    });
    PAGES.iter().fold(command, |command, page| with_page(command, page.path, page))
}

/// The examples and exit codes of the command with this path.
pub(super) fn page(path: &[&str]) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.path == path)
}

fn with_page(command: Command, path: &[&'static str], page: &Page) -> Command {
    match path.split_first() {
        None => command.after_long_help(text(page)),
        Some((first, rest)) => command.mut_subcommand(*first, |inner| with_page(inner, rest, page)),
    }
}

fn text(page: &Page) -> String {
    let mut text = "Examples:\n".to_owned();
    for (what, line) in page.examples {
        text.push_str(&format!("  {what}:\n      {line}\n"));
    }
    text.push_str("\nExit codes:\n");
    for (code, what) in page.exit_codes {
        text.push_str(&format!("  {code:>3}  {what}\n"));
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests;
