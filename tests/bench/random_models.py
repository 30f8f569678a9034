"""Checkpoints of real sizes with random weights, and the tokenizer and templates of the small ones (torch, transformers).

A shape is a tower, for a CLIP, or a tower and a language model, for a LLaVA: `l14`, `b32-300m`, `b32-tiny`.
"""

import json
import os
import shutil

# (side, patch, width, hidden, layers, heads) and (width, hidden, layers, heads, heads of keys); `tiny` is the small LLaVA's own.
TOWERS = {"b32": (224, 32, 768, 3072, 12, 12), "l14": (336, 14, 1024, 4096, 24, 16)}
LANGUAGE = {"tiny": None, "300m": (1024, 2816, 22, 16, 16), "1b": (2048, 5632, 22, 32, 4), "7b": (4096, 11008, 32, 32, 32)}
VOCABULARY = 32000


def emptied(small, folder):
    """A copy of a checkpoint without its weights: its configuration."""
    shutil.copytree(small, folder, copy_function=shutil.copyfile)
    os.chmod(folder, 0o755)
    (folder / "model.safetensors").unlink()
    return json.loads((small / "config.json").read_text())


def tower_config(tower):
    side, patch, width, hidden, layers, heads = TOWERS[tower]
    config = {"image_size": side, "patch_size": patch, "hidden_size": width, "intermediate_size": hidden}
    return config | {"num_hidden_layers": layers, "num_attention_heads": heads}


def language_config(language):
    if LANGUAGE[language] is None:
        return {}
    width, hidden, layers, heads, kv_heads = LANGUAGE[language]
    config = {"hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers, "head_dim": width // heads}
    return config | {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": VOCABULARY}


def of_side(image_processor, side):
    return image_processor | {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}


def make_encoder(shared, tower, folder):
    """A CLIP with this tower and the text side of the small one."""
    import torch
    import transformers

    config = emptied(shared / "models/tiny-clip", folder)
    config["vision_config"] |= tower_config(tower)
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(of_side(json.loads(path.read_text()), TOWERS[tower][0])))
    torch.manual_seed(1)
    transformers.CLIPModel(transformers.CLIPConfig.from_pretrained(folder)).save_pretrained(folder, safe_serialization=True)


def configured_model(shared, shape, folder):
    """All of a LLaVA of this shape but its weights, and the part of its configuration that they follow from."""
    import transformers

    config = emptied(shared / "models/tiny-llava", folder)
    tower, language = shape.split("-")
    side, patch = TOWERS[tower][:2]
    config["image_seq_length"] = (side // patch) ** 2
    config["vision_config"] |= tower_config(tower)
    config["text_config"] |= language_config(language)
    config["text_config"]["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "processor_config.json"
    processor = json.loads(path.read_text())
    processor["patch_size"] = patch
    processor["image_processor"] = of_side(processor["image_processor"], side)
    path.write_text(json.dumps(processor))
    return transformers.LlavaConfig.from_pretrained(folder)


def never_ends(config, head):
    """Tokens that the small tokenizer lacks never win, and neither does the end: all answers are of one length."""
    head[config.image_token_index :] = 0  # Padding comes after it.
    head[config.text_config.eos_token_id] = 0


def make_model(shared, shape, folder):
    """A LLaVA of this shape, which never ends an answer of its own accord."""
    import torch
    import transformers

    config = configured_model(shared, shape, folder)
    torch.manual_seed(1)
    model = transformers.LlavaForConditionalGeneration(config)
    with torch.no_grad():
        never_ends(config, model.lm_head.weight)
    model.save_pretrained(folder, safe_serialization=True)


def make_large_model(shared, shape, folder):
    """The same in bf16, a tensor at a time: no more than a shard is ever in memory."""
    import safetensors.torch
    import torch
    import transformers

    config = configured_model(shared, shape, folder)
    with torch.device("meta"):
        wanted = transformers.LlavaForConditionalGeneration(config).state_dict()
    torch.manual_seed(1)
    shard, places = {}, {}

    def write():
        name = f"model-{len(set(places.values())) + 1:05}.safetensors"
        safetensors.torch.save_file(shard, folder / name)
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, like in wanted.items():
        if like.dim() > 1 or "class_embedding" in name:
            tensor = torch.randn(like.shape, dtype=torch.bfloat16) * 0.02
        else:
            tensor = torch.full(like.shape, float("norm" in name and name.endswith("weight")), dtype=torch.bfloat16)
        if name == "lm_head.weight":
            never_ends(config, tensor)
        shard[name] = tensor
        if sum(tensor.nbytes for tensor in shard.values()) > 2e9:
            write()
    write()
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
