#!/usr/bin/env python3
"""Times base and one adapter in lock-step against two separate runs, in turn, and checks that the answers are equal.

    python3 tests/bench/lock_step.py --shared FOLDER [--images 300] [--repeats 5] [--emt target/release/emt]
"""

import argparse
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--shared", required=True, type=pathlib.Path)
parser.add_argument("--images", type=int, default=300)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--emt", default="target/release/emt")
args = parser.parse_args()

ADAPTER = args.shared / "models/adapters/lora-mnist"


def run(out, *flags):
    """Seconds of one `emt eval` of the small pair on CIFAR-10."""
    models = args.shared / "models"
    command = [args.emt, "eval", "--quiet", "--model", models / "tiny-llava", "--encoder", models / "tiny-clip"]
    command += ["--data", args.shared / "data", "--datasets", "cifar10", "--limit", str(args.images)]
    started = time.perf_counter()
    subprocess.run([*command, "--out", out, *flags], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


together, apart = [], []
for repeat in range(args.repeats + 1):
    folder = pathlib.Path(tempfile.mkdtemp())
    seconds = run(folder / "together", "--adapter", ADAPTER)
    base = run(folder / "base")
    adapted = run(folder / "adapted", "--adapter", ADAPTER, "--no-base")
    for name, other in [("base", "base"), (ADAPTER.name, "adapted")]:
        equal = (folder / "together" / name / "trials.jsonl").read_bytes() == (folder / other / "trials.jsonl").read_bytes()
        assert equal, f"{name}: the run in lock-step differs from the run made alone"
    shutil.rmtree(folder)
    if repeat:  # The first warms up.
        together.append(seconds)
        apart.append(base + adapted)

for name, seconds in [("in lock-step", together), ("two runs", apart)]:
    print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
print(f"two runs over lock-step: {statistics.median(apart) / statistics.median(together):.2f}")
