#!/usr/bin/env python3
"""Chooses the miniature's learning rates and epochs on the embedded training splits alone.

    tests/bench/demo_rates.py EMT FOLDER TUNED_ON METHOD:RATE:EPOCHS[:EXTRA FLAGS] ...

For each setting and each of --folds folds, it tunes `EMT --model embedded` on 150 of the 200 training images of TUNED_ON and asks
the result about the training splits of all three datasets. The table has the accuracy in percent on the 50 images of TUNED_ON that
were held out (mean over the folds, with the base's on the same images) and on the 200 images of each other dataset. No image of
a test split is read. Evaluations are kept in FOLDER, so a second call computes what is new.
"""
import argparse, json, pathlib, subprocess, sys

DATASETS = ["embedded/mnist", "embedded/cifar10", "embedded/cifar100"]
N_TRAINED = 150

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("emt")
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("tuned_on", choices=DATASETS)
parser.add_argument("settings", nargs="+")
parser.add_argument("--folds", type=int, default=2)
parser.add_argument("--answer-template", default="The object is a {label}.")
args = parser.parse_args()


def emt(*flags):
    finished = subprocess.run([args.emt, *map(str, flags), "--quiet"], capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"{' '.join(map(str, flags))}\n{finished.stderr}")


def trials(run):
    """The outcomes of a run: by dataset, by sample, whether the answer is right."""
    by_dataset = {name: {} for name in DATASETS}
    for line in open(run / "trials.jsonl"):
        trial = json.loads(line)
        by_dataset[trial["dataset"]][trial["sample"]] = (trial["outcome"] == "correct", trial["answer"])
    return by_dataset


def evaluated(name, *flags):
    run = args.folder / name
    if not (run / "summary.json").is_file():
        emt("eval", "--model", "embedded", "--split", "train", "--encoder", "none", "--max-new-tokens", 16, "--out", run, *flags)
    return run


def mean(values):
    values = list(values)
    return 100 * sum(values) / len(values)


base = trials(evaluated("base", "--datasets", ",".join(DATASETS)))
dataset = args.tuned_on.split("/")[1]
folds = []
for fold in range(1, args.folds + 1):
    flags = ["--datasets", args.tuned_on, "--limit", N_TRAINED, "--sample-seed", fold]
    folds.append(trials(evaluated(f"{dataset}-fold-{fold}", *flags))[args.tuned_on].keys())
others = [name for name in DATASETS if name != args.tuned_on]
print(f"{'setting':44}{'held out':>9}{'base':>7}" + "".join(f"{name.split('/')[1]:>10}{'flips':>7}" for name in others))
for setting in args.settings:
    method, rate, epochs, extra = (setting.split(":", 3) + [""])[:4]
    held, held_base, other = [], [], {name: [] for name in others}
    flips = {name: [] for name in others}
    for fold, trained in enumerate(folds, 1):
        words = args.answer_template.replace("{label}", "L").replace(" ", "-")
        name = f"{dataset}-{method}-{rate}-{epochs}-{extra.replace(' ', '').replace('/', '')}-{words}-{fold}"
        adapter, run = args.folder / "adapters" / name, args.folder / name
        if not (run / "epoch" / "summary.json").is_file():
            emt("finetune", "--model", "embedded", "--method", method, "--train", args.tuned_on, "--limit", N_TRAINED,
                "--sample-seed", fold, "--learning-rate", rate, "--epochs", epochs, "--eval-datasets", "none",
                "--answer-template", args.answer_template, "--out", adapter, *extra.split())
            emt("eval", "--model", "embedded", "--split", "train", "--encoder", "none", "--max-new-tokens", 16, "--out", run,
                "--datasets", ",".join(DATASETS), "--adapter", f"epoch={adapter}", "--no-base", "--allow-noop-adapter")
        tuned = trials(run / "epoch" if (run / "epoch").is_dir() else run)
        held += [right for sample, (right, _) in tuned[args.tuned_on].items() if sample not in trained]
        held_base += [right for sample, (right, _) in base[args.tuned_on].items() if sample not in trained]
        for one in others:
            other[one] += [right for right, _ in tuned[one].values()]
            flips[one] += [right != base[one][sample][0] for sample, (right, _) in tuned[one].items()]
    print(f"{setting:44}{mean(held):9.1f}{mean(held_base):7.1f}"
          + "".join(f"{mean(other[name]):10.1f}{mean(flips[name]):7.1f}" for name in others), flush=True)
