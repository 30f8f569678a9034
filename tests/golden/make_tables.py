#!/usr/bin/env python3
"""Writes tests/golden/tables/: tables as Python's `datasets` and pyarrow write them, and what those libraries read from them.

    python3 tests/golden/make_tables.py

Needs datasets, pyarrow, numpy, Pillow and blake3. `expected.json` has, for each table, the label and the content hash of every
sample in order, as `datasets` hands the images out; for `oriented` also as Pillow's `convert("RGB")` shows them, and as they
are stored.
"""
import io
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset, load_from_disk
from datasets.arrow_writer import ArrowWriter
from PIL import Image as Pillow

OUT = Path(__file__).resolve().parent / "tables"
NAMES = ["cat", "dog", "sports_car"]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def draw(n_images, seed):
    random = np.random.default_rng(seed)
    for index in range(n_images):
        yield index % len(NAMES), random.integers(0, 256, (3 + index % 3, 4 + index % 2, 3), dtype=np.uint8)


def png(pixels):
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def content(image):
    pixels = np.asarray(image.convert("RGB"))
    height, width, _ = pixels.shape
    return "blake3:" + blake3(struct.pack("<II", width, height) + pixels.tobytes()).hexdigest()


def name(label):
    return NAMES[label].replace("_", " ")


def as_datasets(data):
    return [[name(row["label"]), content(row["image"])] for row in data]


def saved(expected):
    """save_to_disk: two splits, one of them in two files; and an older form with indices beside the rows."""
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    splits = {}
    for split, n_images in [("test", 8), ("train", 3)]:
        rows = [{"image": Pillow.fromarray(pixels), "label": label} for label, pixels in draw(n_images, n_images)]
        splits[split] = Dataset.from_list(rows, features=features)
    DatasetDict(splits).save_to_disk(OUT / "saved", num_shards={"test": 2, "train": 1})
    for split in splits:
        expected[f"saved/{split}"] = as_datasets(load_from_disk(OUT / "saved" / split))
    folder = OUT / "indexed"
    splits["test"].save_to_disk(folder)
    writer = ArrowWriter(path=str(folder / "indices.arrow"), features=Features({"indices": __import__("datasets").Value("uint64")}))
    writer.write_table(pa.table({"indices": pa.array([5, 0, 7], pa.uint64())}))
    writer.finalize()
    state = json.loads((folder / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state, indent=1) + "\n")
    rows = as_datasets(splits["test"])
    expected["indexed"] = [rows[index] for index in [5, 0, 7]]


def oriented(expected):
    """Every orientation in every format that carries one: files in class folders, and a table that names them by path."""
    pixels = np.random.default_rng(5).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    paths, labels = [], []
    for form, end, options in [("PNG", "png", {}), ("JPEG", "jpg", {"quality": 95}), ("WEBP", "webp", {"lossless": True}),
                               ("TIFF", "tif", {})]:
        for orientation in range(1, 9):
            label = orientation % 2
            path = Path("oriented") / NAMES[label] / f"{orientation}.{end}"
            (OUT / path).parent.mkdir(parents=True, exist_ok=True)
            exif = Pillow.Exif()
            exif[0x0112] = orientation
            Pillow.fromarray(pixels).save(OUT / path, form, exif=exif, **options)
            paths.append(str(path))
            labels.append(label)
    table = pa.table({"image": pa.array([{"bytes": None, "path": path} for path in paths], STRUCT), "label": labels})
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES[:2])})
    metadata = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    pq.write_table(table.replace_schema_metadata(metadata), OUT / "oriented.parquet")
    turned, shown, stored = [], [], []
    for path, label in zip(paths, labels):
        file = (OUT / path).read_bytes()
        turned.append([NAMES[label], content(Image().decode_example({"bytes": file, "path": None}))])
        shown.append([NAMES[label], content(Pillow.open(OUT / path))])
        image = Pillow.open(OUT / path)
        # Without its orientation a TIFF is shown as it is stored, and no other format is turned by Pillow.
        if path.endswith("tif"):
            stored.append([NAMES[label], content(Pillow.fromarray(pixels))])
        else:
            stored.append([NAMES[label], content(image)])
    expected["oriented/datasets"], expected["oriented/pillow"], expected["oriented/stored"] = turned, shown, stored


def typed(expected):
    """One table with labels of every type that people have, as Parquet and as an Arrow stream."""
    images = [png(pixels) for _, pixels in draw(4, 9)]
    cell = [{"bytes": image, "path": None} for image in images]
    texts = ["cat", "dog", "cat", "dog"]
    columns = {
        "image": pa.array(cell, STRUCT),
        "images": pa.array([[value] for value in cell], pa.list_(STRUCT)),
        "raw": pa.array(images, pa.binary()),
        "large_raw": pa.array(images, pa.large_binary()),
        "pair": pa.array([[cell[0], cell[1]]] + [[value] for value in cell[1:]], pa.list_(STRUCT)),
        "absent": pa.array([cell[0], None, {"bytes": b"", "path": "x"}, cell[3]], STRUCT),
        "text": pa.array(texts),
        "spaced": pa.array(["cat ", "dog", " cat", "dog"]),
        "large": pa.array(texts, pa.large_string()),
        "view": pa.array(texts, pa.string_view()),
        "long_view": pa.array([f"a {text} of more than twelve letters" for text in texts], pa.string_view()),
        "dictionary": pa.array(texts).dictionary_encode(),
        "list": pa.array([["cat"], ["dog"], ["cat"], ["dog"]]),
        "some": pa.array(["cat", None, "cat", "dog"]),
        "empty_list": pa.array([["cat"], [], None, ["dog"]]),
        "numbers": pa.array([0, 1, 0, 1]),
        "bytes": pa.array([0, 1, 0, 1], pa.uint8()),
        "small": pa.array([0, 1, 0, 1], pa.int8()),
        "bools": pa.array([False, True, False, True]),
        "floats": pa.array([0.0, 1.0, 0.0, 1.0], pa.float32()),
        "doubles": pa.array([0.0, 1.0, None, 1.0]),
        "halves": pa.array([0.5, 1.0, 0.0, 1.0]),
        "number_list": pa.array([[0], [1], [0], [1]]),
        "two": pa.array([["cat", "dog"], ["dog"], ["cat"], ["dog"]]),
        "days": pa.array([0, 1, 2, 3], pa.date32()),
        "none": pa.array([None] * 4, pa.string()),
    }
    table = pa.table(columns)
    pq.write_table(table, OUT / "types.parquet")
    with pa.ipc.new_stream(OUT / "types.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    with pa.ipc.new_file(OUT / "types_with_footer.arrow", table.schema) as writer:
        writer.write_table(table)
    expected["types"] = [[text, content(Pillow.open(io.BytesIO(image)))] for text, image in zip(texts, images)]


def with_metadata(expected):
    """The hub's image folder: the sheet names files, in folders that are no classes."""
    folder = OUT / "meta"
    (folder / "test/a").mkdir(parents=True)
    rows = []
    for index, (label, pixels) in enumerate(draw(4, 11)):
        path = "a/" * (index % 2) + f"{index}.png"
        (folder / "test" / path).write_bytes(png(pixels))
        rows.append((path, NAMES[label]))
    sheet = "".join(f'{path},"{label}",note\n' for path, label in rows)
    (folder / "test/metadata.csv").write_text("file_name,label,other\n" + sheet)
    data = load_dataset("imagefolder", data_dir=str(folder), split="test", cache_dir="/tmp/emt-golden-cache")
    expected["meta/test"] = [[row["label"].replace("_", " "), content(row["image"])] for row in data]
    table = pa.table({"file_name": [path for path, _ in rows], "label": [label for _, label in rows]})
    pq.write_table(table, folder / "test/by_path.parquet")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    expected = {}
    for part in [saved, oriented, typed, with_metadata]:
        part(expected)
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
