#!/usr/bin/env python3
"""Times base and one adapter in lock-step against two separate runs, in turn, and checks that the answers are equal.

    python3 tests/bench/lock_step.py --shared FOLDER [--tower b32] [--images 300] [--repeats 5] [--emt target/release/emt]

The small pair; with --tower the small LLaVA behind a tower of real size with random weights (random_models.py), without an encoder. Loading
is not counted. The second checkpoint costs what the two take together less the base alone.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import tempfile

from random_models import make_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--shared", required=True, type=pathlib.Path)
parser.add_argument("--tower")
parser.add_argument("--images", type=int, default=300)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--emt", default="target/release/emt")
args = parser.parse_args()


def adapter_without_projector(folder):
    """The small adapter of the language model alone: the projector that it was saved with fits the small tower."""
    from safetensors.numpy import load_file, save_file

    source = args.shared / "models/adapters/lora-mnist"
    folder.mkdir()
    config = json.loads((source / "adapter_config.json").read_text()) | {"modules_to_save": None}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(source / "adapter_model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "multi_modal_projector" not in name}
    save_file(kept, folder / "adapter_model.safetensors", {"format": "pt"})


def run(out, *flags):
    """Seconds of one `emt eval` on CIFAR-10, from the first image on."""
    command = [args.emt, "eval", "--quiet", "--model", model, "--encoder", encoder, *flags]
    command += ["--data", args.shared / "data", "--datasets", "cifar10", "--limit", str(args.images), "--out", out]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    manifest = next(path for path in [out / "run.json", out / "base/run.json"] if path.exists())
    return json.loads(manifest.read_text())["environment"]["timing"]["seconds"]


work = pathlib.Path(tempfile.mkdtemp())
if args.tower:
    model, encoder, adapter = work / "model", "none", work / "adapter"
    make_model(args.shared, f"{args.tower}-tiny", model)
    adapter_without_projector(adapter)
else:
    models = args.shared / "models"
    model, encoder, adapter = models / "tiny-llava", models / "tiny-clip", models / "adapters/lora-mnist"

together, apart, second = [], [], []
for repeat in range(args.repeats + 1):
    folder = work / "runs"
    seconds = run(folder / "together", "--adapter", adapter)
    base = run(folder / "base")
    adapted = run(folder / "adapted", "--adapter", adapter, "--no-base")
    for name, other in [("base", "base"), (adapter.name, "adapted")]:
        equal = (folder / "together" / name / "trials.jsonl").read_bytes() == (folder / other / "trials.jsonl").read_bytes()
        assert equal, f"{name}: the run in lock-step differs from the run made alone"
    shutil.rmtree(folder)
    if repeat:  # The first warms up.
        together.append(seconds)
        apart.append(base + adapted)
        second.append((seconds - base) / base)
shutil.rmtree(work)

for name, seconds in [("in lock-step", together), ("two runs", apart)]:
    print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
print(f"two runs over lock-step: {statistics.median(apart) / statistics.median(together):.2f}")
print(f"the second checkpoint over the first: {statistics.median(second):.2f} ({min(second):.2f} to {max(second):.2f})")
