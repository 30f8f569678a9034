#!/usr/bin/env python3
"""Peak memory of `emt eval` at 1,000 and at 10,000 images: it must be flat.

    cargo build --release
    python3 tests/bench/memory.py --shared DIR

DIR holds models/tiny-llava, models/tiny-clip and data/cifar10. Ends with 1 where the larger run takes over 10% more.
"""

import argparse
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
    if peaks[1] > 1.1 * peaks[0]:
        sys.exit(f"error: not flat: {peaks[1] / peaks[0]:.2f} times as much")


if __name__ == "__main__":
    main()
