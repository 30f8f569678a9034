"""Checkpoints of real sizes with random weights, and the tokenizer and templates of the small ones (torch, transformers).

A shape is a tower, for a CLIP, or a tower and a language model, for a LLaVA: `l14`, `b32-300m`, `b32-tiny`.
"""

import json
import os
import shutil

# (side, patch, width, hidden, layers, heads) and (width, hidden, layers, heads, heads of keys); `tiny` is the small LLaVA's own.
TOWERS = {"b32": (224, 32, 768, 3072, 12, 12), "l14": (336, 14, 1024, 4096, 24, 16)}
LANGUAGE = {"tiny": None, "300m": (1024, 2816, 22, 16, 16), "1b": (2048, 5632, 22, 32, 4)}
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


def make_model(shared, shape, folder):
    """A LLaVA of this shape, which never ends an answer of its own accord."""
    import torch
    import transformers

    config = emptied(shared / "models/tiny-llava", folder)
    tower, language = shape.split("-")
    side, patch = TOWERS[tower][:2]
    n_known = config["image_token_index"]  # Padding comes after it.
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
    torch.manual_seed(1)
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig.from_pretrained(folder))
    with torch.no_grad():
        # Tokens that the small tokenizer lacks never win, and neither does the end: all answers are of one length.
        model.lm_head.weight[n_known:] = 0
        model.lm_head.weight[config["text_config"]["eos_token_id"]] = 0
    model.save_pretrained(folder, safe_serialization=True)
