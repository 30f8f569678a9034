#!/usr/bin/env python3
"""Time and peak memory of `emt report` and `emt gate` over two runs of 4 datasets.

    tests/bench/report.py [--emt target/release/emt] [--samples 1000 10000] [--repeats 3]

Two real runs of the miniature (60 images of each embedded dataset) are made once and then written out at length: each image
stands for many, with samples and contents of their own, in 4 datasets. Nothing else is made up.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

DATASETS = ["embedded/mnist", "embedded/cifar10", "embedded/cifar100"]


def run(command):
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode not in (0, 1, 3):
        sys.exit(f"{' '.join(map(str, command))}: {finished.stderr}")
    return finished


def timed(command):
    """Wall seconds and peak memory in MiB of one process."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.execv(command[0], [str(part) for part in command])
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1, 3):
        sys.exit(f"{command}: exit code {code}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def lengthen(source, target, n_samples):
    """The run with `n_samples` of each dataset, and the first dataset a second time under another name."""
    target.mkdir(parents=True)
    manifest = json.loads((source / "run.json").read_text())
    copy = dict(manifest["spec"]["datasets"][0], dataset="copy")
    manifest["spec"]["datasets"].append(copy)
    for field in ("split", "label_set", "prompt_text", "prompt_ids"):
        manifest["comparable"][field]["copy"] = manifest["comparable"][field][DATASETS[0]]
    (target / "run.json").write_text(json.dumps(manifest))
    by_dataset = {}
    for line in (source / "trials.jsonl").read_text().splitlines():
        trial = json.loads(line)
        by_dataset.setdefault(trial["dataset"], []).append(trial)
    by_dataset["copy"] = [dict(trial, dataset="copy") for trial in by_dataset[DATASETS[0]]]
    with open(target / "trials.jsonl", "w") as file:
        for trials in by_dataset.values():
            n_images = len({trial["sample"] for trial in trials})
            for round_ in range(-(-n_samples // n_images)):
                for index, trial in enumerate(trials):
                    if round_ * n_images + index // (len(trials) // n_images) < n_samples:
                        again = dict(trial, sample=f"{trial['sample']}-{round_}", content=f"{trial['content']}-{round_}")
                        file.write(json.dumps(again) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--emt", default="target/release/emt")
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    emt = pathlib.Path(arguments.emt).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        adapter = folder / "lora"
        run([emt, "finetune", "--model", "embedded", "--method", "lora", "--train", "embedded/cifar10", "--epochs", "1",
             "--limit", "100", "--eval-datasets", "none", "--out", adapter])
        run([emt, "eval", "--model", "embedded", "--datasets", ",".join(DATASETS), "--limit", "60", "--adapter", adapter,
             "--out", folder / "runs"])
        print("samples  command      s (least to most)        peak MiB")
        for n_samples in arguments.samples:
            base, tuned = folder / f"{n_samples}/base", folder / f"{n_samples}/lora"
            lengthen(folder / "runs/base", base, n_samples)
            lengthen(folder / "runs/lora", tuned, n_samples)
            for name, command in [
                ("report", [emt, "report", tuned, "--baseline", base, "--out", folder / "out", "--no-images"]),
                ("gate", [emt, "gate", "--baseline", base, "--candidate", tuned]),
            ]:
                measured = sorted(timed(command) for _ in range(arguments.repeats))
                middle = measured[len(measured) // 2][0]
                peak = max(memory for _, memory in measured)
                print(f"{n_samples:>7}  {name:<8} {middle:>6.2f} ({measured[0][0]:.2f} to {measured[-1][0]:.2f}) {peak:>14.0f}")


if __name__ == "__main__":
    main()
