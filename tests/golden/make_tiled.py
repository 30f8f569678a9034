"""References of models that see an image in tiles, and of SigLIP 2: writes the folder tiled/ beside itself.

    python make_tiled.py        (torch, transformers, peft, tokenizers, safetensors; after make_small_tiled.py)

- `siglip2/`: a tiny SigLIP 2 of fixed resolution with random weights, in the layout of the hub (model_type `siglip`, a
  Gemma tokenizer whose file does not lower-case), and what transformers computes with it. Texts are lower-cased and padded
  on the right, as the model was trained.
- `smolvlm_lora/`, `llava_onevision_lora/`: LoRA of PEFT on language model, tower and projector of the fixtures of
  those names, with logits and answers of the first image, beside the base and merged.
- `anyres.safetensors`: the fixture `llava_onevision` with `vision_aspect_ratio` anyres_max_2, where feature maps are
  made smaller.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    LlavaOnevisionForConditionalGeneration,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SmolVLMForConditionalGeneration,
)

FIXTURES = Path(__file__).parent / "fixtures"
OUT = Path(__file__).parent / "tiled"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TEXTS = [f"This is a photo of {name}." for name in CLASSES]


def randomise(model, seed, std=0.2):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * std


def gemma_tokenizer():
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special + alphabet, show_progress=False)
    tokenizer.train_from_iterator([text.lower() for text in TEXTS], trainer)
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(saved))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer


@torch.no_grad()
def siglip2():
    folder = OUT / "siglip2"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = gemma_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    rest = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right", "tokenizer_class": "GemmaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | rest, indent=1) + "\n")
    side = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    # No `pad_token_id`: the configuration's default is 1, and the tokenizer pads with 0.
    text = side | {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 24}
    vision = side | {"image_size": 30, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    randomise(model, 20261125)
    model.save_pretrained(folder)
    # A patch of 8 pixels does not divide the side of 30: the last 6 pixels are not seen, as with patch 14 of 384.
    SiglipImageProcessor(size={"height": 30, "width": 30}, resample=2).save_pretrained(folder)
    pixels = torch.randn(3, 3, 30, 30, generator=torch.Generator().manual_seed(1))
    rows = [tokenizer.encode(text.lower()).ids for text in TEXTS]
    ids = torch.tensor([row + [0] * (24 - len(row)) for row in rows])
    out = model(input_ids=ids, pixel_values=pixels)
    states = model.vision_model(pixels, output_hidden_states=True).hidden_states
    save_file(
        {
            "pixel_values": pixels,
            "input_ids": ids,
            "vision_hidden_state_m2": states[-2].contiguous(),
            "image_embeds_normalised": out.image_embeds.contiguous(),
            "text_embeds_normalised": out.text_embeds.contiguous(),
            "logits_per_image": out.logits_per_image.contiguous(),
        },
        folder / "reference.safetensors",
    )


def answer(model, inputs):
    """Logits of the first token, and eight tokens."""
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1]
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=8, min_new_tokens=8)
    return logits, ids[:, inputs["input_ids"].shape[1] :]


def inputs_of(fixture, names, prefix="prompt."):
    reference = load_file(FIXTURES / fixture / "reference.safetensors")
    return {name: reference[prefix + name] for name in names}, reference


def adapter(fixture, model_class, names, targets):
    model = model_class.from_pretrained(FIXTURES / fixture).float().eval()
    inputs, reference = inputs_of(fixture, names)
    base, _ = answer(model, inputs)
    difference = (base - reference["prompt.first_logits"]).norm() / base.norm()
    assert difference < 1e-5, f"{fixture} without an adapter is not met: {difference}"
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=targets))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    folder = OUT / f"{fixture}_lora"
    model.eval().save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = fixture
    config["target_modules"] = sorted(config["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    beside, ids = answer(model, inputs)
    merged, _ = answer(model.merge_and_unload(), inputs)
    reference = {"adapter.first_logits": beside, "adapter.generated_ids": ids, "merged.first_logits": merged}
    save_file({name: tensor.contiguous() for name, tensor in reference.items()}, folder / "reference.safetensors")
    print(fixture, "logits move by", ((beside - base).norm() / base.norm()).item())


def anyres():
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(FIXTURES / "llava_onevision").float().eval()
    model.config.vision_aspect_ratio = "anyres_max_2"
    out = {}
    for prefix in ("prompt.", "image1.", "image2."):
        inputs, _ = inputs_of("llava_onevision", ["input_ids", "pixel_values", "image_sizes"], prefix)
        with torch.no_grad():
            features = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output[0]
        row = inputs["input_ids"][0]
        image = (row == model.config.image_token_index).nonzero()[:, 0]
        token = row[image[0]].repeat(len(features))
        inputs["input_ids"] = torch.cat([row[: image[0]], token, row[image[-1] + 1 :]])[None]
        logits, ids = answer(model, inputs)
        out |= {f"{prefix}features": features, f"{prefix}first_logits": logits, f"{prefix}generated_ids": ids}
        print(prefix, len(image), "positions become", len(features))
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, OUT / "anyres.safetensors")


siglip2()
adapter(
    "smolvlm",
    SmolVLMForConditionalGeneration,
    ["input_ids", "pixel_values", "pixel_attention_mask"],
    ["q_proj", "v_proj", "proj"],
)
adapter(
    "llava_onevision",
    LlavaOnevisionForConditionalGeneration,
    ["input_ids", "pixel_values", "image_sizes"],
    ["q_proj", "k_proj", "v_proj", "linear_1"],
)
anyres()
