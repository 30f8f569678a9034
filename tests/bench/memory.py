#!/usr/bin/env python3
"""Peak memory of `emt eval` at 1,000 and at 10,000 images: it must be flat, and below a bound.

    cargo build --release
    python3 tests/bench/memory.py --shared DIR

DIR holds models/tiny-llava, models/tiny-clip and data/cifar10. The bound is weights (model and encoder, as stored) + keys and values of a
batch + one batch (its pixels, and the activations of its widest layer) + 200 MB; all from configurations and recorded prompts. Ends with 1
where the peak of either run is above it, or the larger run takes over 10% more.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time


def peak(options, n_images, out):
    """The peak resident memory in MiB, and the seconds."""
    shared = pathlib.Path(options.shared)
    command = [options.emt, "eval", "--model", shared / "models/tiny-llava", "--encoder", shared / "models/tiny-clip"]
    command += ["--data", shared / "data", "--datasets", "cifar10", "--limit", str(n_images), "--judge", "rules"]
    command += ["--batch-size", str(options.batch_size), "--quiet", "--out", out]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    # Of this one process, and not the greatest of all so far.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"error: {options.emt} ended with {process.returncode}")
    return usage.ru_maxrss / 1024, time.perf_counter() - start


MIB = 2**20
SLACK_BYTES = 200e6


def bound(options, run):
    """Bytes of weights, of keys and values, and of one batch."""
    shared = pathlib.Path(options.shared)
    weights = sum((shared / "models" / name / "model.safetensors").stat().st_size for name in ("tiny-llava", "tiny-clip"))
    config = json.loads((shared / "models/tiny-llava/config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    trials = map(json.loads, (run / "trials.jsonl").read_text().splitlines())
    n_tokens = max(trial.get("n_prompt_tokens", 0) for trial in trials) + 32  # of an answer
    n_bytes = 4  # f32
    n_cached = 2 * text["num_hidden_layers"] * text["num_key_value_heads"] * text["head_dim"]
    cache = options.batch_size * n_tokens * n_cached * n_bytes
    n_patches = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    tower = n_patches * (4 * vision["hidden_size"] + vision["intermediate_size"])
    language = n_tokens * (4 * text["hidden_size"] + 2 * text["intermediate_size"])
    pixels = 3 * vision["image_size"] ** 2
    return weights, cache, options.batch_size * (pixels + max(tower, language)) * n_bytes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default=os.environ.get("EMT_SHARED", "../shared"))
    parser.add_argument("--emt", default="target/release/emt")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    print("| images | peak resident memory | seconds |\n|---:|---:|---:|")
    peaks = []
    with tempfile.TemporaryDirectory() as work:
        for n_images in (1_000, 10_000):
            mebibytes, seconds = peak(options, n_images, pathlib.Path(work) / str(n_images))
            print(f"| {n_images:,} | {mebibytes:.0f} MiB | {seconds:.0f} |", flush=True)
            peaks.append(mebibytes)
        weights, cache, batch = bound(options, pathlib.Path(work) / "1000")
    most = (weights + cache + batch + SLACK_BYTES) / MIB
    print(f"\nbound: weights {weights / MIB:.0f} + keys and values {cache / MIB:.0f} + one batch of {options.batch_size} "
          f"{batch / MIB:.0f} + {SLACK_BYTES / MIB:.0f} = {most:.0f} MiB")
    if max(peaks) > most:
        sys.exit(f"error: the peak is above the bound by {max(peaks) - most:.0f} MiB")
    if peaks[1] > 1.1 * peaks[0]:
        sys.exit(f"error: not flat: {peaks[1] / peaks[0]:.2f} times as much")


if __name__ == "__main__":
    main()
