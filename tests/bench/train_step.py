"""Times one training step of `emt finetune` beside transformers + peft, on the same batch in one run.

    python train_step.py --emt target/release/emt --shared DIR [--methods lora,linear] [--shapes tiny,b32-300m] [--rounds 3]
                                                             (torch, transformers, peft, pillow, numpy)

DIR is the shared folder (models/tiny-llava, fixtures/qwen2_vl, data/cifar10). Training images of CIFAR-10 are written to a folder; each engine, in
turn, makes steps on all of them as one batch, in a process of its own: LoRA (rank 64, projector trained too, dropout 0) or the
projector alone. `tiny` and `tiny-qwen` are those models, other shapes are those of random_models.py. The reference runs as people
run it, and once more with the tower's features kept from step to step, as emt keeps them: the second ratio compares what trains. The
losses of the first step must agree. Printed: the median seconds of a step (the first two left out) with spread, the peak memory of each
process, the ratios, and the instruction sets.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_models import make_model

N_STEPS, N_WARM = 8, 2
SMALL = {"tiny": "models/tiny-llava", "tiny-qwen": "fixtures/qwen2_vl"}
# Images of a batch.
N_IMAGES = dict.fromkeys(SMALL, 32) | {"qwen-500m": 2}
N_IMAGES_OF_REAL_SIZES = 4
REFERENCE, KEPT = "transformers + peft", "the same, features kept"
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
ANSWER = "The object is a {}."


def write_images(shared, folder, n_images):
    import numpy as np
    from PIL import Image

    raw = np.fromfile(shared / "data/cifar10/cifar-10-batches-bin/train_subset_10000.bin", np.uint8).reshape(-1, 3073)
    for index, row in enumerate(raw[:n_images]):
        path = folder / CLASSES[row[0]]
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row[1:].reshape(3, 32, 32).transpose(1, 2, 0)).save(path / f"{index:02}.png")


def question_about(folder):
    classes = sorted(path.name for path in folder.iterdir())
    return "What is the object in the image? Please only answer a single object in " + ", ".join(classes) + "."


def examples_of_llava(model_dir, config, folder):
    """The tokens of each example's question and answer, and what the model takes besides."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    side = config.vision_config.image_size
    n_image = (side // config.vision_config.patch_size) ** 2
    prompt = tokenizer("USER: " + "<image>" * n_image + "\n" + question_about(folder) + " ASSISTANT:")["input_ids"]
    assert prompt.count(config.image_token_index) == n_image
    alone = tokenizer("ASSISTANT:", add_special_tokens=False)["input_ids"]
    rows, pixels = [], []
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    for path in sorted(folder.glob("*/*.png")):
        text = "ASSISTANT: " + ANSWER.format(path.parent.name)
        answer = tokenizer(text, add_special_tokens=False)["input_ids"][len(alone) :] + [tokenizer.eos_token_id]
        rows.append((prompt, answer))
        image = Image.open(path).resize((side, side), Image.BICUBIC)
        pixels.append(((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1))
    return rows, {"pixel_values": torch.from_numpy(np.stack(pixels))}


def examples_of_qwen(model_dir, config, folder):
    """The same by the model's own processor and chat template."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoProcessor

    processor = AutoProcessor.from_pretrained(model_dir)
    processor.image_processor = AutoImageProcessor.from_pretrained(model_dir, backend="pil")
    content = [{"type": "image"}, {"type": "text", "text": question_about(folder)}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    rows, images = [], []
    for path in sorted(folder.glob("*/*.png")):
        image = Image.open(path)
        asked = processor(images=[image], text=[prompt])
        whole = prompt + ANSWER.format(path.parent.name) + processor.tokenizer.eos_token
        ids, n_asked = processor(images=[image], text=[whole])["input_ids"][0], len(asked["input_ids"][0])
        assert ids[:n_asked] == asked["input_ids"][0] and config.image_token_id in ids
        rows.append((ids[:n_asked], ids[n_asked:]))
        images.append(asked)
    named = {name: torch.cat([torch.as_tensor(of[name]) for of in images]) for name in ["pixel_values", "image_grid_thw"]}
    return rows, named


def batch_of(rows):
    """Padded tokens, and the answers' as labels."""
    import torch

    length = max(len(p) + len(a) for p, a in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), -100)
    attention = torch.zeros(len(rows), length, dtype=torch.long)
    for index, (p, a) in enumerate(rows):
        n = len(p) + len(a)
        ids[index, :n] = torch.tensor(p + a)
        labels[index, len(p) : n] = torch.tensor(a)
        attention[index, :n] = 1
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def keep_features(model, is_qwen):
    """From the second step on, the tower gives what it gave in the first. In a Qwen2-VL the projector is part of it, and computes."""
    tower = model.model.visual if is_qwen else model.model.vision_tower
    plain, kept = tower.forward, []

    def forward(*words, **named):
        if not kept:
            kept.append(plain(*words, **named))
        if not is_qwen:
            return kept[0]
        states = kept[0].last_hidden_state.detach()
        return type(kept[0])(last_hidden_state=states, pooler_output=tower.merger(states))

    tower.forward = forward


def trainable(model, method, projector):
    """The model of which this method's tensors train."""
    from peft import LoraConfig, get_peft_model

    if method == "lora":
        targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
        config = LoraConfig(r=64, lora_alpha=16, lora_dropout=0.0, target_modules=targets, modules_to_save=[projector])
        return get_peft_model(model, config).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f"{projector}." in name)
    return model


def reference(model_dir, folder, method, keeps_features):
    """Runs in a process of its own: prints seconds and losses of every step as JSON."""
    import torch
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(model_dir).float()
    config = model.config
    is_qwen = config.model_type == "qwen2_vl"
    if keeps_features:
        keep_features(model, is_qwen)
    model = trainable(model, method, "merger" if is_qwen else "multi_modal_projector")
    rows, images = (examples_of_qwen if is_qwen else examples_of_llava)(model_dir, config, folder)
    batch = batch_of(rows) | images
    if is_qwen:
        batch["mm_token_type_ids"] = (batch["input_ids"] == config.image_token_id).int()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    seconds, losses = [], []
    for _ in range(N_STEPS):
        start = time.perf_counter()
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(float(loss))
    print(json.dumps(dict(seconds=seconds, losses=losses, capability=torch.backends.cpu.get_cpu_capability())))


def child(command):
    """Standard output and peak memory (bytes) of a process."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return text, usage.ru_maxrss * 1024


def pixel_limits(model):
    """The limits of a Qwen2-VL's own processor, as flags; emt's default is a larger image."""
    size = json.loads((model / "processor_config.json").read_text())["image_processor"]["size"]
    if "longest_edge" not in size:
        return []
    return ["--min-pixels", size["shortest_edge"], "--max-pixels", size["longest_edge"]]


def emt_steps(arguments, model, method, n_images, folder, out):
    command = [arguments.emt, "finetune", "--model", model, "--method", method, "--train", folder, "--out", out]
    command += ["--epochs", N_STEPS, "--learning-rate", "1e-4", "--warmup-ratio", "0", "--batch-size", n_images]
    command += ["--dropout", "0"] if method == "lora" else []
    command += ["--answer-template", ANSWER.format("{label}"), "--eval-datasets", "none", "--quiet"]
    command += pixel_limits(model)
    _, peak = child([str(word) for word in command])
    lines = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    shutil.rmtree(out)
    return [line["seconds"] for line in lines], [line["loss"] for line in lines], peak


def reference_steps(arguments, model, method, folder, keeps_features):
    command = [sys.executable, __file__, "--emt", "-", "--shared", arguments.shared, "--reference", model, folder, method]
    text, peak = child([str(word) for word in command + [int(keeps_features)]])
    text = json.loads(text)
    return text["seconds"], text["losses"], peak, text["capability"]


def compare(arguments, shape, method, scratch):
    n_images = N_IMAGES.get(shape, N_IMAGES_OF_REAL_SIZES)
    folder = scratch / "cifar/train"
    shutil.rmtree(folder, ignore_errors=True)
    write_images(arguments.shared, folder, n_images)
    model = arguments.shared / SMALL[shape] if shape in SMALL else scratch / shape
    if not model.exists():
        # In a process of its own: what this one holds when it starts another counts as the other's peak.
        command = [sys.executable, __file__, "--emt", "-", "--shared", arguments.shared, "--write", shape, model]
        child([str(word) for word in command])
    found = {"emt": [], REFERENCE: [], KEPT: []}
    memory, first, capability = dict.fromkeys(found, 0), {}, ""
    for _ in range(arguments.rounds):
        results = {"emt": emt_steps(arguments, model, method, n_images, folder, scratch / "out")}
        for name in [REFERENCE, KEPT]:
            *results[name], capability = reference_steps(arguments, model, method, folder, name == KEPT)
        for name, (seconds, losses, peak) in results.items():
            assert len(seconds) == N_STEPS
            found[name] += seconds[N_WARM:]
            memory[name] = max(memory[name], peak)
            first[name] = losses[0]
    assert all(abs(loss - first["emt"]) < 1e-4 * loss for loss in first.values()), f"the first losses differ: {first}"
    print(f"{shape}, {method}, batch of {n_images}; torch computes with {capability}")
    for name, seconds in found.items():
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        ratio = statistics.median(seconds) / statistics.median(found["emt"])
        ratios = f"; over emt {ratio:.2f}, of the fastest {min(seconds) / min(found['emt']):.2f}"
        line = f"  {name:24} {statistics.median(seconds):.3f} s a step ({spread}), peak {memory[name] / 2**20:.0f} MiB"
        print(line + (ratios if name != "emt" else ""), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emt", required=True)
    parser.add_argument("--shared", required=True, type=Path)
    parser.add_argument("--methods", default="lora,linear")
    parser.add_argument("--shapes", default="tiny")
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--reference", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reference:
        model, folder, method, keeps_features = arguments.reference
        return reference(Path(model), Path(folder), method, keeps_features == "1")
    if arguments.write:
        return make_model(arguments.shared, arguments.write[0], Path(arguments.write[1]))
    flags = re.findall(r"\b(?:avx\w*|fma|f16c|asimd\w*)\b", Path("/proc/cpuinfo").read_text().split("\n\n")[0])
    forced = os.environ.get("EMT_KERNELS", "the best of them")
    print(f"{os.cpu_count()} cores with {' '.join(flags)}; emt computes with {forced}")
    scratch = Path(tempfile.mkdtemp())
    for shape in arguments.shapes.split(","):
        for method in arguments.methods.split(","):
            compare(arguments, shape, method, scratch)
    shutil.rmtree(scratch)


main()
