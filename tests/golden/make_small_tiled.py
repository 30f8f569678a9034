"""Tiny models that see an image in tiles: writes into the folder fixtures/ beside itself.

    python make_small_tiled.py        (torch, transformers, tokenizers, numpy, pillow, safetensors)

`smolvlm/` (one image of 2 x 2 tiles) and `llava_onevision/` (three images), with what transformers computes.
"""

import shutil

import torch
from small_fixtures import (
    OUT,
    QUESTION,
    padded,
    pictures,
    qwen_tokenizer,
    randomise,
    save,
    save_in_bfloat16,
    write_json,
)
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    Idefics3Processor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    SmolVLMConfig,
    SmolVLMImageProcessorPil,
)

TEXT = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
TOWER = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@torch.no_grad()
def answer(model, given):
    passed = model(**given, output_hidden_states=True)
    new = model.generate(
        **given,
        do_sample=False,
        max_new_tokens=8,
        min_new_tokens=8,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    n = given["input_ids"].shape[1]
    return passed, new.sequences[:, n:], torch.stack(new.logits, 1)


def smolvlm():
    folder = OUT / "smolvlm"
    shutil.rmtree(folder, ignore_errors=True)
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tiles]
    tokens = qwen_tokenizer(folder, marks)
    id_of = tokens.token_to_id
    kept = {name: (folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    text = TEXT | {"model_type": "llama", "vocab_size": padded(tokens.get_vocab_size()), "max_position_embeddings": 512}
    text |= {"tie_word_embeddings": False, "pad_token_id": id_of("<|endoftext|>")}
    vision = TOWER | {"image_size": 16, "patch_size": 4}
    config = SmolVLMConfig(
        text_config=text,
        vision_config=vision,
        scale_factor=2,
        image_token_id=id_of("<image>"),
        tie_word_embeddings=False,
        pad_token_id=id_of("<|endoftext|>"),
    )
    model = randomise(AutoModelForImageTextToText.from_config(config), 20261130)
    model.generation_config.eos_token_id = id_of("<|im_end|>")
    save_in_bfloat16(model, folder)
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
        "<|im_start|>assistant\n{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(template)
    sizes = dict(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    processor = SmolVLMImageProcessorPil(resample=1, **sizes, **HALF)
    settings = {"image_processor_type": "SmolVLMImageProcessor", "do_image_splitting": True, "do_pad": True}
    settings |= {"resample": 1, **sizes, **HALF}
    of_family = {"image_processor": settings, "image_seq_len": 4, "processor_class": "SmolVLMProcessor"}
    write_json(folder / "processor_config.json", of_family)
    # It writes the same text around tiles, and needs no processor of videos.
    whole = Idefics3Processor(processor, AutoTokenizer.from_pretrained(folder), image_seq_len=4)
    for name, data in kept.items():
        (folder / name).write_bytes(data)
    drawn = pictures(folder, ["img0_75x50.png", "img1_40x66.png"])[:1]
    prompt = f"<|im_start|>User:<image>{QUESTION}<end_of_utterance>\nAssistant:"
    given = whole(text=[prompt], images=[drawn], return_tensors="pt")
    given = {name: given[name] for name in ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask")}
    assert given["pixel_values"].shape == (1, 5, 3, 16, 16) and given["pixel_attention_mask"].all()
    passed, new, _ = answer(model, given)
    with torch.no_grad():
        states = model.model.vision_model(given["pixel_values"][0]).last_hidden_state
        features = model.model.connector(states)
    given["pixel_attention_mask"] = given["pixel_attention_mask"].to(torch.uint8)
    reference = {f"prompt.{name}": tensor for name, tensor in given.items() if name != "attention_mask"}
    reference |= {"hook_vision": states, "hook_connector": features}
    reference |= {"prompt.first_logits": passed.logits[:, -1], "prompt.generated_ids": new}
    save(folder / "reference.safetensors", reference)
    write_json(folder / "reference.json", {"prompts": {"prompt.": prompt}})
    print("smolvlm", given["input_ids"].shape, new.tolist())


# The names say the sizes: 2 x 3, 2 x 2 and 3 x 1 tiles of 12 pixels.
IMAGES = {"prompt.": "img0_43x17.png", "image1.": "img1_20x20.png", "image2.": "img2_9x26.png"}


def onevision():
    folder = OUT / "llava_onevision"
    shutil.rmtree(folder, ignore_errors=True)
    tokens = qwen_tokenizer(folder, ["<image>", "<video>"])
    image_id = tokens.token_to_id("<image>")
    side, pinpoints = 12, [[12 * rows, 12 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    text = TEXT | {"model_type": "qwen2", "vocab_size": padded(tokens.get_vocab_size()), "max_position_embeddings": 512}
    vision = TOWER | {
        "model_type": "siglip_vision_model",
        "image_size": side,
        "patch_size": 4,
        "vision_use_head": False,
    }
    config = LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=image_id,
        video_token_index=image_id + 1,
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        tie_word_embeddings=False,
    )
    model = randomise(LlavaOnevisionForConditionalGeneration(config), 3)
    model.generation_config.pad_token_id = tokens.token_to_id("<|endoftext|>")
    save_in_bfloat16(model, folder)
    sizes = dict(size={"height": side, "width": side}, image_grid_pinpoints=pinpoints)
    processor = LlavaOnevisionImageProcessorPil(resample=3, do_pad=True, **sizes, **HALF)
    settings = {"image_processor_type": "LlavaOnevisionImageProcessor", "resample": 3, "do_pad": True, **sizes, **HALF}
    of_family = {"image_processor": settings, "num_image_tokens": 9, "processor_class": "LlavaOnevisionProcessor"}
    of_family |= {
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_select_strategy": "full",
        "image_token": "<image>",
    }
    write_json(folder / "processor_config.json", of_family)
    template = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{% for content in message['content'] | "
        "selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}{% for content in message['content'] | "
        "selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(template)
    prompt = f"<|im_start|>user <image>\n{QUESTION}<|im_end|><|im_start|>assistant\n"
    reference = {}
    for prefix, image in zip(IMAGES, pictures(folder, IMAGES.values())):
        seen = processor(image, return_tensors="pt")
        pixels, sizes = seen["pixel_values"], torch.as_tensor(seen["image_sizes"])
        with torch.no_grad():
            packed = model.model.get_image_features(pixels, sizes).pooler_output[0]
            states = model.model.vision_tower(pixels[0], output_hidden_states=True).hidden_states[-1]
            projected = model.model.multi_modal_projector(states)
        ids = [i for one in tokens.encode(prompt).ids for i in ([one] * len(packed) if one == image_id else [one])]
        ids = torch.tensor([ids])
        given = dict(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, image_sizes=sizes)
        passed, new, steps = answer(model, given)
        found = {"input_ids": ids, "pixel_values": pixels, "image_sizes": sizes, "tile_features_projected": projected}
        found |= {"last_hidden_state": passed.hidden_states[-1][:, -16:], "first_logits": passed.logits[:, -1]}
        found |= {"generated_ids": new, "step_logits": steps}
        reference |= {prefix + name: tensor for name, tensor in found.items()}
        print("llava_onevision", prefix, list(pixels.shape), len(packed), new.tolist())
    save(folder / "reference.safetensors", reference)
    write_json(folder / "reference.json", {"prompts": dict.fromkeys(IMAGES, prompt)})


smolvlm()
onevision()
