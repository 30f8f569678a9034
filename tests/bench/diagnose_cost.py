#!/usr/bin/env python3
"""What a diagnosis costs against one evaluation of the same images, in time and memory; prints a table in Markdown.

    cargo build --release
    python3 tests/bench/diagnose_cost.py --shared DIR [--emt target/release/emt] [--limit 100] [--repeats 3] [--adapter NAME]

DIR holds models/tiny-llava, models/adapters and data. The evaluation is `emt eval --encoder none` of the base. Each probe runs
alone; its figure includes the base, the candidate and, for probes that read passes, the base's answers. Figures are medians.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

PROBES = "quick weights swap reliance drift lens patch knockout similarity flow truncation cam mir composite merge".split()


def timed(command, out):
    shutil.rmtree(out, ignore_errors=True)
    start = time.monotonic()
    process = subprocess.Popen([*command, "--out", out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.monotonic() - start, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=pathlib.Path, required=True)
    parser.add_argument("--emt", default="target/release/emt")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--adapter", default="lora-cifar10")
    given = parser.parse_args()
    common = ["--model", given.shared / "models/tiny-llava", "--data", given.shared / "data", "--datasets", "mnist,cifar10"]
    common += ["--limit", str(given.limit)]
    evaluation = [given.emt, "eval", *common, "--encoder", "none"]
    diagnosis = [given.emt, "diagnose", *common, "--adapter", given.shared / "models/adapters" / given.adapter, "--probes"]
    commands = {"evaluation": evaluation, **{probe: [*diagnosis, probe] for probe in PROBES}}
    found = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.repeats):
            for name, command in commands.items():
                found[name].append(timed(command, os.path.join(folder, "out")))
    seconds = {name: statistics.median(one for one, _ in runs) for name, runs in found.items()}
    memory = {name: max(one for _, one in runs) for name, runs in found.items()}
    print("| what | seconds | evaluations | peak memory, MiB |\n|---|---:|---:|---:|")
    for name in commands:
        ratio = seconds[name] / seconds["evaluation"]
        print(f"| {name} | {seconds[name]:.2f} | {ratio:.1f} | {memory[name]:.0f} |")


if __name__ == "__main__":
    main()
