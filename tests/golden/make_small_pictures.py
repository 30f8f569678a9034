"""What image processors make of pictures, by transformers over Pillow: writes preprocess/ and image_tokens.json.

    python make_small_pictures.py        (torch, transformers, numpy, pillow, safetensors)

They go into the folder fixtures/ beside itself. The processors are those of real checkpoints (but for the tiles of
SmolVLM, of which there are four at most). `reference.safetensors` keeps every `step`-th value and `reference.json` the
sum of all. `image_tokens.json` counts the positions that images of many sizes take in a language model.
"""

import shutil

import torch
from PIL import Image
from small_fixtures import OUT, pictures, save, write_json
from transformers import (
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    LlavaNextImageProcessorPil,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    SmolVLMImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

STEP = 3989
IMAGES = ["p0_225x301.png", "p1_32x32.png", "p2_28x28_L.png", "p3_128x85.png"]
COLOURS = {
    "clip": dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711]),
    "half": dict(image_mean=[0.5] * 3, image_std=[0.5] * 3),
}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def clip(side):
    return dict(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, resample=3, **COLOURS["clip"])


def qwen(patch, shortest, longest, colours):
    size = {"shortest_edge": shortest, "longest_edge": longest}
    return dict(size=size, patch_size=patch, merge_size=2, temporal_patch_size=2, resample=3, **COLOURS[colours])


PROCESSORS = {
    "clip_224": (CLIPImageProcessorPil, clip(224)),
    "clip_336": (CLIPImageProcessorPil, clip(336)),
    "siglip_384": (SiglipImageProcessorPil, dict(size={"height": 384, "width": 384}, resample=3, **COLOURS["half"])),
    "blip_224": (BlipImageProcessorPil, dict(size={"height": 224, "width": 224}, resample=3, **COLOURS["clip"])),
    "qwen2_5_vl": (Qwen2VLImageProcessorPil, qwen(14, 3136, 12845056, "clip")),
    "qwen3_vl": (Qwen2VLImageProcessorPil, qwen(16, 65536, 16777216, "half")),
    "smolvlm_256m": (
        SmolVLMImageProcessorPil,
        dict(size={"longest_edge": 1024}, max_image_size={"longest_edge": 512}, resample=1, **COLOURS["half"]),
    ),
    "llava_next_336": (
        LlavaNextImageProcessorPil,
        dict(image_grid_pinpoints=PINPOINTS, do_pad=True, **clip(336)),
    ),
}


def squared(image):
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def preprocess():
    folder = OUT / "preprocess"
    shutil.rmtree(folder, ignore_errors=True)
    drawn = pictures(folder, IMAGES)
    processors, results, tensors = {}, {}, {}
    for name, (kind, options) in PROCESSORS.items():
        type_name = kind.__name__.removesuffix("Pil")
        processors[name] = {"config": {"image_processor_type": type_name, **options}}
        ways = [(name, lambda image: image)] + ([("clip_336_pad", squared)] if name == "clip_336" else [])
        for way, prepared in ways:
            for path, image in zip(IMAGES, drawn):
                seen = kind(**options)(prepared(image), return_tensors="pt")
                pixels = torch.as_tensor(seen["pixel_values"]).float()
                tensors[f"{way}/{path}"] = pixels.flatten()[::STEP]
                result = {"shape": list(pixels.shape), "sum": float(pixels.double().sum())}
                if "image_grid_thw" in seen:
                    result["image_grid_thw"] = seen["image_grid_thw"].tolist()
                results[f"{way}/{path}/pil"] = result
    save(folder / "reference.safetensors", tensors)
    write_json(folder / "reference.json", {"step": STEP, "processors": processors, "results": results})


SIZES = [(32, 32), (224, 224), (500, 375), (333, 500), (640, 480), (1024, 768), (91, 1200)]


def image_tokens():
    """By the processors' own arithmetic; sizes are width x height."""
    counts = {}
    for name, factor, least, most in [
        ("qwen2.5-vl (14x2, min 3136, max 12845056)", 28, 3136, 12845056),
        ("qwen2.5-vl (min 256*28*28)", 28, 256 * 784, 12845056),
        ("qwen3-vl (16x2, min 65536, max 16777216)", 32, 65536, 16777216),
    ]:
        counts[name] = {}
        for width, height in SIZES:
            high, wide = smart_resize(height, width, factor, least, most)
            counts[name][f"{width}x{height}"] = f"{high * wide // factor**2} ({wide}x{high})"
    pinpoints = [[rows * 384, columns * 384] for rows in range(1, 7) for columns in range(1, 7)]
    processor = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
    processor.image_processor = LlavaOnevisionImageProcessorPil(image_grid_pinpoints=pinpoints)
    processor.num_image_tokens, processor.vision_aspect_ratio = 729, "anyres_max_9"
    name = "llava-onevision (384/14, anyres_max_9)"
    counts[name] = {f"{w}x{h}": processor._get_number_of_features(h, w, 384, 384) for w, h in SIZES}
    write_json(OUT / "image_tokens.json", counts)


preprocess()
image_tokens()
