#!/usr/bin/env python3
"""Writes tests/golden/hub/: small datasets as the Hugging Face hub and webdataset have them, and what is in them.

    python3 tests/golden/make_hub_data.py

Needs datasets, pyarrow, numpy, Pillow and blake3. The images are drawn here: one of each class in turns, a colour with
noise, of differing sides. `expected.json` has, for each dataset, the label and the content hash of every sample in
order, computed from the pixels before they were encoded (PNG and lossless WebP give back what was put in).
"""
import io
import json
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow

# Without the padding that a tape wants.
tarfile.RECORDSIZE = tarfile.BLOCKSIZE
OUT = Path(__file__).resolve().parent / "hub"
NAMES = ["cat", "dog", "sports_car"]
COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
CARD = """---
license: cc0-1.0
dataset_info:
  features:
  - name: img
    dtype: image
  - name: fine_label
    dtype:
      class_label:
        names:
          '0': cat
          '1': dog
          '2': sports_car
  splits:
  - name: test
    num_examples: 8
---
# Drawn images
"""


def draw(n_images, seed):
    """(class, pixels) of images whose classes take turns."""
    random = np.random.default_rng(seed)
    for index in range(n_images):
        label = index % len(NAMES)
        height, width = 5 + index % 4, 6 + index % 3
        noise = random.integers(-30, 31, (height, width, 3))
        yield label, (np.array(COLOURS[label]) + noise).astype(np.uint8)


def encode(pixels, form="PNG"):
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, form, lossless=True)
    return file.getvalue()


def content(pixels):
    height, width, _ = pixels.shape
    return "blake3:" + blake3(struct.pack("<II", width, height) + pixels.tobytes()).hexdigest()


def rows(images):
    return [[NAMES[label].replace("_", " "), content(pixels)] for label, pixels in images]


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    expected = {}

    # As `datasets` writes them: two shards of a split, and another split beside them.
    folder = OUT / "pets/data"
    folder.mkdir(parents=True)
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    for split, n_images, n_shards in [("test", 14, 2), ("train", 6, 1)]:
        images = list(draw(n_images, len(split)))
        data = Dataset.from_list([{"image": Pillow.fromarray(pixels), "label": label} for label, pixels in images],
                                 features=features)
        for index in range(n_shards):
            shard = data.shard(n_shards, index, contiguous=True)
            shard.to_parquet(folder / f"{split}-{index:05}-of-{n_shards:05}.parquet", batch_size=4)
        expected[f"pets/{split}"] = rows(images)

    # Plain bytes and plain numbers, which the card names; zstd.
    folder = OUT / "carded"
    folder.mkdir()
    images = list(draw(8, 1))
    table = pa.table({"img": [encode(pixels) for _, pixels in images],
                      "fine_label": pa.array([label for label, _ in images], pa.int32())})
    pq.write_table(table, folder / "test-00000-of-00001.parquet", compression="zstd")
    (folder / "README.md").write_text(CARD)
    expected["carded/test"] = rows(images)

    # As other writers write them: pages of two rows, of version 2, of text labels; an image is absent.
    images = list(draw(8, 2))
    values = [{"bytes": encode(pixels), "path": f"{index}.png"} for index, (_, pixels) in enumerate(images)]
    values[4] = {"bytes": None, "path": "4.png"}
    table = pa.table({"image": values, "label": [NAMES[label] for label, _ in images]})
    options = {"row_group_size": 5, "write_batch_size": 2, "data_page_size": 1, "compression": "gzip"}
    pq.write_table(table, OUT / "texts.parquet", data_page_version="2.0", use_dictionary=False, **options)
    expected["texts"] = rows(images)
    expected["texts"][4][1] = None
    # The same with a dictionary that fills up after a few images, and pages of version 1.
    pq.write_table(table, OUT / "coded.parquet", dictionary_pagesize_limit=600, **{**options, "compression": "lz4"})
    expected["coded"] = expected["texts"]

    # Webdataset: numbers that `classnames.txt` names, two shards; and descriptions with text labels.
    folder = OUT / "shapes/test"
    folder.mkdir(parents=True)
    (OUT / "shapes/classnames.txt").write_text("\n".join(NAMES) + "\n")
    images = list(draw(6, 3))
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for index, (label, pixels) in list(enumerate(images))[shard * 4:shard * 4 + 4]:
                for end, data in [("cls", str(label).encode()), ("webp", encode(pixels, "WEBP"))]:
                    add(tar, f"s{index:07}.{end}", data)
    expected["shapes/test"] = rows(images)
    images = list(draw(3, 4))
    with tarfile.open(OUT / "described-val-000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, (label, pixels) in enumerate(images):
            add(tar, f"a/{index:03}.png", encode(pixels))
            add(tar, f"a/{index:03}.json", json.dumps({"label": NAMES[label], "width": 6}).encode())
    expected["described/val"] = rows(images)

    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def add(tar, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    main()
