#!/usr/bin/env python3
"""A large model with and without weights rounded to 8 bits: peak memory, and seconds an image.

    cargo build --release
    python3 tests/bench/int8.py --shared DIR        (torch, transformers, safetensors)

DIR is the folder of models and data. Makes a LLaVA of the shape (`l14-7b`: that of LLaVA-1.5-7B) with random bf16 weights, 13.5 GB of it on
the disk of --work, which is removed in the end; `--types bf16,bf16+int8` says what is run. Seconds are those from the first image on, on as
many threads as there are cores.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from random_models import make_large_model


def measured(options, checkpoint, dtype, out):
    """The peak resident memory in GiB, and seconds an image."""
    command = [options.emt, "eval", "--model", checkpoint, "--encoder", "none", "--data", options.shared / "data"]
    command += ["--datasets", "cifar100", "--limit", str(options.images), "--batch-size", str(options.batch_size)]
    command += ["--dtype", dtype, "--max-new-tokens", "16", "--judge", "rules", "--quiet", "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"error: {options.emt} ended with {process.returncode}")
    seconds = json.loads((out / "run.json").read_text())["environment"]["timing"]["seconds"]
    return usage.ru_maxrss / 2**20, seconds / options.images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=pathlib.Path, required=True)
    parser.add_argument("--emt", type=pathlib.Path, default=pathlib.Path("target/release/emt"))
    parser.add_argument("--shape", default="l14-7b")
    parser.add_argument("--types", default="bf16,bf16+int8")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--work", type=pathlib.Path, default=None)
    options = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(dir=options.work))
    try:
        checkpoint = work / "model"
        # In a process of its own: the peak of a child begins with what its parent holds.
        maker = multiprocessing.get_context("spawn").Process(target=make_large_model, args=(options.shared, options.shape, checkpoint))
        maker.start()
        maker.join()
        if maker.exitcode != 0:
            sys.exit("error: no checkpoint could be made")
        n_bytes = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
        print(f"{options.shape}: {n_bytes / 2**30:.1f} GiB on the disk, {options.images} images, batches of {options.batch_size}")
        for dtype in options.types.split(","):
            peak, seconds = measured(options, checkpoint, dtype, work / dtype)
            print(f"{dtype}: peak {peak:.1f} GiB, {seconds:.1f} s an image", flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
