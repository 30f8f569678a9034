#!/usr/bin/env python3
"""Writes the miniature that is compiled into emt: src/assets/embedded/ and tests/golden/embedded.tsv.

    python3 tests/golden/make_embedded.py SHARED [--folders DIR]

SHARED holds data/ (MNIST's and CIFAR's published files) and models/ (tiny-clip and tiny-llava, which
tests/golden/recipe/ trains). Needs numpy, Pillow with WebP, and blake3. The same inputs and library versions give
the same bytes. `--folders DIR` also writes the two rounded checkpoints as transformers reads them.

Images: for each dataset and split the first images of each class in the order of sha256("emt miniature/" + source
id), where no two have the same pixels, neither within a dataset nor across its splits. They lie in rounds of the
classes, so that image i is of class i mod the number of classes, on a sheet of 25 columns, which is saved as a
lossless WebP: its colour transform and spatial predictors come before its entropy coder.

Weights: rounded to IEEE half precision. The values of the vision tower (which both models share), of the rest of
the LLaVA and of the rest of the CLIP are three files: first the low bytes of all values, then the high ones, then
deflate. `header.json` of each model is the JSON header of the safetensors file whose data are the tower's values and
then the model's own.
"""
import argparse
import gzip
import hashlib
import io
import json
import lzma
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
from blake3 import blake3
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "src/assets/embedded"
N_COLUMNS = 25
N_IMAGES = {"test": 600, "train": 200}
MODEL_FILES = {
    "llava": ["config.json", "generation_config.json", "processor_config.json", "special_tokens_map.json",
              "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"],
    "clip": ["config.json", "preprocessor_config.json", "special_tokens_map.json", "tokenizer_config.json",
             "tokenizer.json"],
}


# ---- sources: (id as emt names it, class index, pixels (height, width, 3)) ----


def mnist(data):
    with gzip.open(data / "mnist/t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(data / "mnist/t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return [(f"mnist/test/{i:05}", int(label), np.repeat(image[:, :, None], 3, 2))
            for i, (image, label) in enumerate(zip(pixels, labels))]


def planes_to_pixels(planes):
    return planes.reshape(3, 32, 32).transpose(1, 2, 0)


def cifar10_test(data):
    with open(data / "cifar10/cifar-10-batches-py/test_batch", "rb") as file:
        batch = pickle.load(file, encoding="bytes")
    return [(f"cifar10/test/{i:05}", label, planes_to_pixels(row))
            for i, (row, label) in enumerate(zip(batch[b"data"], batch[b"labels"]))]


def cifar_binary(path, name, n_label_bytes):
    records = np.fromfile(path, np.uint8).reshape(-1, n_label_bytes + 3072)
    return [(f"{name}/train/{i:05}", int(row[n_label_bytes - 1]), planes_to_pixels(row[n_label_bytes:]))
            for i, row in enumerate(records)]


def cifar100_test(data):
    rows = []
    with zipfile.ZipFile(data / "cifar100/cifar100_test_png.zip") as archive:
        paths = sorted(name for name in archive.namelist() if name.endswith(".png"))
        classes = sorted({path.split("/")[-2] for path in paths})
        for path in paths:
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(path))).convert("RGB"))
            rows.append(("cifar100/" + path[path.index("test/"):], classes.index(path.split("/")[-2]), pixels))
    return rows


def sources(data):
    """By dataset: number of classes, sources of the test part and of the training part."""
    digits = mnist(data)
    c10 = cifar_binary(data / "cifar10/cifar-10-batches-bin/train_subset_10000.bin", "cifar10", 1)
    c100 = cifar_binary(data / "cifar100/cifar-100-binary/train_subset_10000.bin", "cifar100", 2)
    return {
        # Only MNIST's test images are at hand: both parts come from them, without overlap.
        "mnist": (10, {"test": digits, "train": digits}),
        "cifar10": (10, {"test": cifar10_test(data), "train": c10}),
        "cifar100": (100, {"test": cifar100_test(data), "train": c100}),
    }


# ---- images ----


def content(pixels):
    height, width, _ = pixels.shape
    return "blake3:" + blake3(struct.pack("<II", width, height) + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def choose(rows, n_classes, n_images, taken):
    """`n_images` of `rows`, in rounds of the classes; adds their contents to `taken`."""
    order = sorted(rows, key=lambda row: hashlib.sha256(f"emt miniature/{row[0]}".encode()).digest())
    by_class = [[] for _ in range(n_classes)]
    for source, label, pixels in order:
        key = content(pixels)
        if len(by_class[label]) < n_images // n_classes and key not in taken:
            taken.add(key)
            by_class[label].append((source, key, pixels))
    assert all(len(chosen) == n_images // n_classes for chosen in by_class)
    return [by_class[i % n_classes][i // n_classes] for i in range(n_images)]


def sheet(images):
    side = images[0].shape[0]
    tiles = np.stack(images).reshape(-1, N_COLUMNS, side, side, 3)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, N_COLUMNS * side, 3)


def write_images(data):
    lines = ["sample\tsource\tcontent\n"]
    for name, (n_classes, splits) in sources(data).items():
        taken = set()
        for split, rows in splits.items():
            chosen = choose(rows, n_classes, N_IMAGES[split], taken)
            pixels = sheet([image for _, _, image in chosen])
            path = ASSETS / f"{name}-{split}.webp"
            Image.fromarray(pixels).save(path, lossless=True, quality=100, method=6)
            assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), pixels)
            lines += [f"embedded/{name}/{split}/{i:05}\t{source}\t{key}\n"
                      for i, (source, key, _) in enumerate(chosen)]
            print(f"{path.name}: {path.stat().st_size} bytes")
    (ROOT / "tests/golden/embedded.tsv").write_text("".join(lines))


# ---- models ----


def read_safetensors(path):
    raw = path.read_bytes()
    (n_header,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + n_header])
    header.pop("__metadata__", None)
    tensors = {}
    for name, info in header.items():
        assert info["dtype"] == "F32", name
        start, end = (8 + n_header + offset for offset in info["data_offsets"])
        tensors[name] = np.frombuffer(raw[start:end], "<f4").reshape(info["shape"]).astype("<f2")
        assert np.isfinite(tensors[name]).all(), name
    return tensors


def values(tensors, names):
    return b"".join(tensors[name].tobytes() for name in names)


def pack(path, data):
    """The number of values, their low bytes, and their high bytes in LZMA."""
    low, high = np.frombuffer(data, np.uint8).reshape(-1, 2).T
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]
    high = lzma.compress(high.tobytes(), format=lzma.FORMAT_ALONE, filters=filters)
    path.write_bytes(len(low).to_bytes(8, "little") + low.tobytes() + high)
    print(f"{path.name}: {path.stat().st_size} bytes of {len(data)}")


def header_of(tensors, names):
    entries, offset = {}, 0
    for name in names:
        end = offset + tensors[name].nbytes
        entries[name] = {"dtype": "F16", "shape": list(tensors[name].shape), "data_offsets": [offset, end]}
        offset = end
    # A safetensors header is padded so that the data begin at a multiple of 8 bytes.
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":"))
    return text + " " * (-len(text) % 8)


def write_models(models, folders):
    llava = read_safetensors(models / "tiny-llava/model.safetensors")
    clip = read_safetensors(models / "tiny-clip/model.safetensors")
    tower = sorted(name.removeprefix("vision_tower.") for name in llava if name.startswith("vision_tower."))
    in_llava, in_clip = (["vision_tower." + name for name in tower], ["vision_model." + name for name in tower])
    for one, other in zip(in_llava, in_clip):
        assert np.array_equal(llava[one], clip[other]), one
    pack(ASSETS / "tower.bin", values(llava, in_llava))
    for name, source, tensors, shared in (("llava", "tiny-llava", llava, in_llava), ("clip", "tiny-clip", clip, in_clip)):
        own = sorted(set(tensors) - set(shared))
        pack(ASSETS / f"{name}.bin", values(tensors, own))
        folder = ASSETS / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in MODEL_FILES[name]:
            text = (models / source / file).read_text()
            if file == "config.json":
                text = text.replace('"dtype": "float32"', '"dtype": "float16"')
                assert '"dtype": "float16"' in text
            (folder / file).write_text(text)
        header = header_of(tensors, shared + own)
        (folder / "header.json").write_text(header)
        data = struct.pack("<Q", len(header)) + header.encode() + values(tensors, shared + own)
        print(f"{name}: model.safetensors sha256 {hashlib.sha256(data).hexdigest()}")
        if folders:
            shutil.copytree(folder, folders / f"embedded-{name}", ignore=shutil.ignore_patterns("header.json"),
                            dirs_exist_ok=True)
            (folders / f"embedded-{name}" / "model.safetensors").write_bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--folders", type=Path)
    args = parser.parse_args()
    ASSETS.mkdir(parents=True, exist_ok=True)
    write_images(args.shared / "data")
    write_models(args.shared / "models", args.folders)


if __name__ == "__main__":
    main()
