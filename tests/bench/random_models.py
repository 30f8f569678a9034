"""Checkpoints of real sizes with random weights, and the tokenizer and templates of the small ones (torch, transformers).

A shape is a tower, for a CLIP, or a tower and a language model, for a LLaVA: `l14`, `b32-300m`, `b32-tiny`. With a tower of
Qwen2-VL it is a Qwen2-VL: `qwen-500m`.
"""

import json
import os
import shutil

# (side, patch, width, hidden, layers, heads) and (width, hidden, layers, heads, heads of keys); `tiny` is the small LLaVA's own.
TOWERS = {"b32": (224, 32, 768, 3072, 12, 12), "l14": (336, 14, 1024, 4096, 24, 16)}
LANGUAGE = {"tiny": None, "300m": (1024, 2816, 22, 16, 16), "1b": (2048, 5632, 22, 32, 4), "7b": (4096, 11008, 32, 32, 32)}
VOCABULARY = 32000
# (least side, width, layers, heads) of towers of Qwen2-VL: its own width, of which few layers are enough; and, as above, the language
# model of Qwen2-0.5B, whose embeddings are its head.
QWEN_TOWERS = {"qwen": (224, 1280, 4, 16)}
QWEN_LANGUAGE = {"500m": (896, 4864, 24, 14, 2)}
QWEN_VOCABULARY = 151936


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


def qwen_tower_config(tower, language_width):
    _, width, layers, heads = QWEN_TOWERS[tower]
    return {"embed_dim": width, "depth": layers, "num_heads": heads, "mlp_ratio": 4, "hidden_size": language_width}


def qwen_language_config(language, tokenizer):
    width, hidden, layers, heads, kv_heads = QWEN_LANGUAGE[language]
    config = {"hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers, "max_position_embeddings": 4096}
    config |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": QWEN_VOCABULARY}
    config |= {"layer_types": ["full_attention"] * layers, "tie_word_embeddings": True, "bos_token_id": None}
    # Half a head's width in pairs, for time, height and width in the ratio of Qwen2-VL (16, 24, 24).
    n_pairs = width // heads // 2
    sections = [n_pairs // 4, n_pairs * 3 // 8, n_pairs * 3 // 8]
    config["rope_parameters"] = {"mrope_section": sections, "rope_theta": 1e6, "rope_type": "default", "type": "mrope"}
    return config | {"eos_token_id": tokenizer.eos_token_id}


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


def configured_qwen(shared, shape, folder):
    """All of a Qwen2-VL of this shape but its weights, and the configuration that they follow from."""
    import transformers

    config = emptied(shared / "fixtures/qwen2_vl", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tower, language = shape.split("-")
    config["text_config"] |= qwen_language_config(language, tokenizer)
    config["vision_config"] |= qwen_tower_config(tower, config["text_config"]["hidden_size"])
    config["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    path = folder / "processor_config.json"
    processor = json.loads(path.read_text())
    n_pixels = QWEN_TOWERS[tower][0] ** 2
    processor["image_processor"]["size"] = {"shortest_edge": n_pixels, "longest_edge": 4 * n_pixels}
    path.write_text(json.dumps(processor))
    return transformers.Qwen2VLConfig.from_pretrained(folder)


def make_qwen(shared, shape, folder):
    """A Qwen2-VL of this shape."""
    import torch
    import transformers

    config = configured_qwen(shared, shape, folder)
    torch.manual_seed(1)
    transformers.Qwen2VLForConditionalGeneration(config).save_pretrained(folder, safe_serialization=True)


def never_ends(config, head):
    """Tokens that the small tokenizer lacks never win, and neither does the end: all answers are of one length."""
    head[config.image_token_index :] = 0  # Padding comes after it.
    head[config.text_config.eos_token_id] = 0


def make_model(shared, shape, folder):
    """A model of this shape. A LLaVA never ends an answer of its own accord."""
    import torch
    import transformers

    if shape.split("-")[0] in QWEN_TOWERS:
        return make_qwen(shared, shape, folder)
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
