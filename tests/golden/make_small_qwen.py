"""Tiny models of Qwen's families with images: writes into the folder fixtures/ beside itself.

    python make_small_qwen.py        (torch, transformers, tokenizers, numpy, pillow, safetensors)

Each answers about three images of unlike shapes. The reference holds what transformers computes on the way.
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
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2VLImageProcessorPil

IMAGES = {"prompt.": "img0_170x113.png", "image1.": "img1_64x64.png", "image2.": "img2_61x150.png"}
PATCH = 4
# As in the files of the hub, shortened to what a question with images needs.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|>"
    f"<|vision_end|>{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
VISION = {"patch_size": PATCH, "temporal_patch_size": 2, "spatial_merge_size": 2, "num_heads": 2}
FAMILIES = {
    "qwen2_vl": dict(
        vision=dict(depth=3, embed_dim=8, hidden_size=16, mlp_ratio=2, hidden_act="quick_gelu"),
        text=dict(rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}),
        mean="clip",
    ),
    "qwen2_5_vl": dict(
        vision=dict(
            depth=4,
            hidden_size=8,
            intermediate_size=12,
            out_hidden_size=16,
            window_size=16,
            fullatt_block_indexes=[1, 3],
        ),
        text=dict(rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}),
        mean="clip",
    ),
    "qwen3_vl": dict(
        vision=dict(
            depth=4,
            hidden_size=8,
            intermediate_size=12,
            out_hidden_size=16,
            num_position_embeddings=36,
            deepstack_visual_indexes=[0, 1, 2],
        ),
        # As many layers as depths of the tower are added to.
        text=dict(
            num_hidden_layers=3,
            head_dim=8,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        ),
        mean="half",
    ),
}
COLOURS = {
    "clip": dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711]),
    "half": dict(image_mean=[0.5] * 3, image_std=[0.5] * 3),
}


def config_of(family, tokenizer):
    options, id_of = FAMILIES[family], tokenizer.token_to_id
    tied = family == "qwen3_vl"
    text = TEXT | options["text"] | {"vocab_size": padded(tokenizer.get_vocab_size()), "max_position_embeddings": 1024}
    text |= {"model_type": f"{family}_text", "tie_word_embeddings": tied}
    return AutoConfig.for_model(
        family,
        text_config=text,
        vision_config=VISION | options["vision"],
        image_token_id=id_of("<|image_pad|>"),
        video_token_id=id_of("<|video_pad|>"),
        vision_start_token_id=id_of("<|vision_start|>"),
        vision_end_token_id=id_of("<|vision_end|>"),
        tie_word_embeddings=tied,
    )


@torch.no_grad()
def case(model, processor, tokenizer, image, with_steps):
    seen = processor(image, return_tensors="pt")
    grid, token = seen["image_grid_thw"], tokenizer.token_to_id("<|image_pad|>")
    n_positions = int(grid.prod()) // 4
    ids = torch.tensor(
        [[i for one in tokenizer.encode(PROMPT).ids for i in ([one] * n_positions if one == token else [one])]]
    )
    types = (ids == token).int()
    given = dict(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, **seen)
    features = model.model.get_image_features(seen["pixel_values"], grid)
    out = {"pixel_values": seen["pixel_values"], "image_grid_thw": grid, "input_ids": ids}
    out["image_features_merged"] = torch.cat(list(features.pooler_output))[None]
    for depth, added in enumerate(getattr(features, "deepstack_features", None) or []):
        out[f"deepstack{depth}"] = torch.cat(list(added))[None]
    positions = model.model.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=grid)[0]
    assert positions.max() < 256
    out["position_ids"] = positions.to(torch.uint8)
    passed = model(**given, output_hidden_states=True)
    out |= {"last_hidden_state": passed.hidden_states[-1][:, -16:], "first_logits": passed.logits[:, -1]}
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
    out["generated_ids"] = new.sequences[:, ids.shape[1] :]
    if with_steps:
        out["step_logits"] = torch.stack(new.logits, 1)
    return out


def make(family, seed):
    folder = OUT / family
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = qwen_tokenizer(folder)
    model = AutoModelForImageTextToText.from_config(config_of(family, tokenizer))
    model = randomise(model, seed)
    model.tie_weights()
    model.generation_config.pad_token_id = tokenizer.token_to_id("<|endoftext|>")
    # An id that the tokenizer lacks ends nothing.
    model.generation_config.eos_token_id = 151645
    save_in_bfloat16(model, folder)
    colours = COLOURS[FAMILIES[family]["mean"]]
    size = {"shortest_edge": PATCH * PATCH * 4, "longest_edge": 8 * PATCH * PATCH * 4}
    processor = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=2, temporal_patch_size=2, size=size, **colours)
    settings = processor.to_dict() | {"image_processor_type": "Qwen2VLImageProcessor"}
    keep = (
        "image_processor_type",
        "image_mean",
        "image_std",
        "merge_size",
        "patch_size",
        "temporal_patch_size",
        "size",
        "resample",
    )
    settings = {key: settings[key] for key in keep}
    settings["size"] = dict(size)
    write_json(folder / "processor_config.json", {"image_processor": settings})
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    reference = {}
    for prefix, image in zip(IMAGES, pictures(folder, IMAGES.values())):
        found = case(model, processor, tokenizer, image, prefix == "prompt.")
        reference |= {prefix + name: tensor for name, tensor in found.items()}
        print(
            family,
            prefix,
            found["image_grid_thw"].tolist(),
            found["generated_ids"].tolist(),
            found["first_logits"].std().item(),
        )
    save(folder / "reference.safetensors", reference)
    write_json(folder / "reference.json", {"prompts": dict.fromkeys(IMAGES, PROMPT)})


for seed, family in enumerate(FAMILIES):
    make(family, seed)
