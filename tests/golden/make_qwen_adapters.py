"""Small adapters of Qwen's families by PEFT, and what transformers computes under them: writes qwen_adapters/ beside itself.

    python make_qwen_adapters.py        (torch, transformers, peft, pillow; after make_small_qwen.py, whose models they adapt)

`<family>-regex` is what ms-swift writes: a pattern over the language model's modules. `<family>-list` is a list of leaf
names, which also match within the tower, whose queries, keys and values are one map; `qwen3_vl-list` reaches into the
mergers, too. `qwen2_5_vl-saved` keeps the whole projector beside an update. Weights are drawn from a seed and large enough
to matter. `reference.safetensors` holds the logits of the first answer token about one image, beside the base and merged
into it, and eight greedy tokens.
"""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLImageProcessorPil

FIXTURES = Path(__file__).parent / "fixtures"
OUT = Path(__file__).parent / "qwen_adapters"
REGEX = r"^(model.language_model(?=\.).*\.(k_proj|v_proj|down_proj|q_proj|up_proj|gate_proj|o_proj))$"
ADAPTERS = {
    "qwen2_vl-regex": dict(target_modules=REGEX),
    "qwen2_vl-list": dict(target_modules=["qkv", "fc1", "q_proj"]),
    "qwen2_5_vl-regex": dict(target_modules=REGEX, use_rslora=True),
    "qwen2_5_vl-list": dict(target_modules=["qkv", "up_proj", "v_proj"]),
    "qwen2_5_vl-saved": dict(target_modules=["o_proj"], modules_to_save=["merger"]),
    "qwen3_vl-regex": dict(target_modules=REGEX, use_dora=True),
    "qwen3_vl-list": dict(target_modules=["qkv", "linear_fc1", "k_proj"]),
}
IMAGE = "img2_61x150.png"


def inputs(folder):
    """The prompt about one image, as the fixture has it."""
    from json import loads

    reference = loads((folder / "reference.json").read_text())
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    image = processor(Image.open(folder / "images" / IMAGE).convert("RGB"), return_tensors="pt")
    n_tokens = int(image["image_grid_thw"].prod()) // processor.merge_size**2
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = reference["prompts"]["image2."].replace("<|image_pad|>", "<|image_pad|>" * n_tokens)
    ids = tokenizer(text, return_tensors="pt")
    types = (ids["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    return dict(ids, **image, mm_token_type_ids=types)


@torch.no_grad()
def first_logits(model, given):
    return model(**given).logits[:, -1].contiguous()


@torch.no_grad()
def generated(model, given):
    ids = model.generate(**given, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    return ids[:, given["input_ids"].shape[1] :].contiguous()


for name, options in ADAPTERS.items():
    folder = FIXTURES / name.split("-")[0]
    given = inputs(folder)
    torch.manual_seed(20261125)
    base = AutoModelForImageTextToText.from_pretrained(folder).float().eval()
    of_base = first_logits(base, given)
    model = get_peft_model(base, LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **options)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    beside = first_logits(model, given)
    assert (beside - of_base).abs().max() > 0.05, name
    ids = generated(model, given)
    model.peft_config["default"].base_model_name_or_path = name.split("-")[0]
    model.save_pretrained(OUT / name)
    (OUT / name / "README.md").unlink(missing_ok=True)
    merged = first_logits(model.merge_and_unload(), given)
    reference = {"beside.first_logits": beside, "merged.first_logits": merged, "generated_ids": ids}
    save_file(reference, OUT / name / "reference.safetensors")
    print(name, float((beside - of_base).abs().max()), float((beside - merged).abs().max()), ids.tolist())
