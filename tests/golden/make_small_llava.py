"""A tiny LLaVA in the layouts of transformers and of the original repository: writes into fixtures/ beside itself.

    python make_small_llava.py        (torch, transformers, peft, sentencepiece, tokenizers, pillow, safetensors)

`llava/` is transformers' layout. `llava_original/` has the same numbers under the names of the original code, whole,
in half precision and pickled, as a LoRA and as a projector alone. Its references are by transformers, for the token
ids that the original code makes (texts around the image, by sentencepiece). `llava_peft/` holds adapters of every
variant of PEFT, and one of them merged.
"""

import json
import shutil

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from small_fixtures import OUT, QUESTION, SYSTEM, llama_tokenizer, padded, pictures, randomise, save, write_json
from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

LLAVA, ORIGINAL, PEFT = OUT / "llava", OUT / "llava_original", OUT / "llava_peft"
N_IMAGE, SIDE = 9, 24
MEAN_COLOUR = (122, 116, 104)
VICUNA = f"{SYSTEM} USER: <image>\n{QUESTION} ASSISTANT:"
CASES = [
    "USER: <image>\nWhat is the object? ASSISTANT:",
    "A chat. USER: <image>\nWhat is this? ASSISTANT: cat</s>USER: Why? ASSISTANT:",
    "<image> photo",
    "USER:  two  spaces <image>What ASSISTANT:",
    "Human: <image>###Assistant:",
]


def config(n_tokens, image, pad):
    vision = dict(
        model_type="clip_vision_model",
        hidden_size=8,
        intermediate_size=16,
        num_attention_heads=2,
        image_size=SIDE,
        num_hidden_layers=2,
        patch_size=8,
        projection_dim=6,
        hidden_act="quick_gelu",
    )
    text = dict(
        model_type="llama",
        vocab_size=padded(n_tokens),
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=pad,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        image_seq_length=N_IMAGE,
        pad_token_id=pad,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def squared(image):
    """The image on a square of the mean colour, as the original code pads."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), MEAN_COLOUR)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


@torch.no_grad()
def answer(model, ids, pixels, mask=None):
    """Logits and states of the whole prompt, and eight greedy tokens."""
    mask = torch.ones_like(ids) if mask is None else mask
    given = dict(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    out = model(**given, output_hidden_states=True)
    new = model.generate(**given, do_sample=False, max_new_tokens=8, min_new_tokens=8, eos_token_id=None)
    return out.logits, out.hidden_states[-1], new[:, ids.shape[1] :]


def with_positions(ids, image):
    return torch.tensor([[id for one in ids for id in ([one] * N_IMAGE if one == image else [one])]])


def of_text(tokenizer, text):
    return with_positions(tokenizer(text)["input_ids"], tokenizer.convert_tokens_to_ids("<image>"))


def make_llava():
    shutil.rmtree(LLAVA, ignore_errors=True)
    tokenizer, pieces = llama_tokenizer(LLAVA)
    image, pad = (tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<pad>"))
    assert (image, pad) == (len(pieces), len(pieces) + 1)
    model = randomise(LlavaForConditionalGeneration(config(pad + 1, image, pad)), 20261130)
    model.generation_config.pad_token_id = pad
    model.save_pretrained(LLAVA)
    template = (OUT.parents[2] / "src/assets/embedded/llava/chat_template.jinja").read_text()
    size = {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size)
    whole = LlavaProcessor(
        processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )
    tokens = {name: (LLAVA / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    whole.save_pretrained(LLAVA)
    for name, data in tokens.items():
        (LLAVA / name).write_bytes(data)
    drawn = pictures(LLAVA, ["img0_75x50.png", "img1_40x66.png"])
    pixels = processor(drawn, return_tensors="pt")["pixel_values"]
    return model, tokenizer, pieces, processor, drawn, pixels


def reference_of_llava(model, tokenizer, processor, drawn, pixels):
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    template = (LLAVA / "chat_template.jinja").read_text()
    chat = [{"role": "user", "content": content}]
    render = lambda chat: tokenizer.apply_chat_template(
        chat, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    own = render(chat)
    content[1] = {"type": "text", "text": "What is this?"}
    short = render(chat)
    out, texts = {"pixel_values": pixels[:1], "batch.pixel_values": pixels}, {}
    with torch.no_grad():
        states = model.model.vision_tower(pixels[:1], output_hidden_states=True).hidden_states
        out["vision_hidden_state_m2"] = states[-2]
        out["image_features_projected"] = model.model.multi_modal_projector(states[-2][:, 1:])
    for name, text in [("hf_chat_template", own), ("vicuna_v1_original", VICUNA)]:
        ids = of_text(tokenizer, text)
        logits, hidden, new = answer(model, ids, pixels[:1])
        # The logits of all positions would be most of the file.
        out |= {f"{name}.input_ids": ids, f"{name}.all_logits": logits[:, -4:], f"{name}.last_hidden_state": hidden}
        out |= {f"{name}.generated_ids": new, f"{name}.first_logits": logits[:, -1]}
        texts[name] = [tokenizer.decode(new[0], skip_special_tokens=True)]
    rows = [of_text(tokenizer, own), of_text(tokenizer, short)]
    for index, ids in enumerate(rows):
        out[f"alone{index}.generated_ids"] = answer(model, ids, pixels[index : index + 1])[2]
    n, missing = rows[0].shape[1], rows[0].shape[1] - rows[1].shape[1]
    ids = torch.full((2, n), tokenizer.pad_token_id)
    ids[0], ids[1, missing:] = rows[0][0], rows[1][0]
    mask = (ids != tokenizer.pad_token_id).long()
    out["batch.generated_ids"] = answer(model, ids, pixels, mask)[2]
    square = processor(squared(drawn[0]), return_tensors="pt")["pixel_values"]
    logits, _, new = answer(model, of_text(tokenizer, VICUNA), square)
    out |= {
        "pad_square.pixel_values": square,
        "pad_square.first_logits": logits[:, -1],
        "pad_square.generated_ids": new,
    }
    save(LLAVA / "reference.safetensors", out)
    prompts = {"batch": [own, short], "hf_chat_template": own, "vicuna_v1_original": VICUNA}
    write_json(LLAVA / "reference.json", {"question": QUESTION, "prompts": prompts, "generated_text": texts})


def around_image(pieces, prompt, image=-200, knows_end=False):
    """The original code's `tokenizer_image_token`: each text by itself, one begin token."""

    def of_part(text):
        parts = text.split("</s>") if knows_end else [text]
        ids = [id for part in parts for id in [2, *pieces.encode(part)]][1:]
        return ids

    ids = [1]
    for index, part in enumerate(prompt.split("<image>")):
        ids += ([image] if index else []) + of_part(part)
    return ids


def tokenizer_cases(tokenizer, pieces):
    image = tokenizer.convert_tokens_to_ids("<image>")
    cases = []
    for prompt in CASES:
        of_pieces = {
            "original": around_image(pieces, prompt, image),
            "json_legacy": around_image(pieces, prompt, image, True),
        }
        cases.append({"prompt": prompt, **of_pieces, "v5_resaved": tokenizer(prompt)["input_ids"]})
    text = ",\n ".join(json.dumps(case) for case in cases)
    (OUT / "llava_tokenizer_cases.json").write_text(f"[{text}]\n")


def original_name(name):
    name = name.removeprefix("model.").replace("multi_modal_projector.linear_1", "mm_projector.0")
    name = name.replace("multi_modal_projector.linear_2", "mm_projector.2").replace("language_model.model.", "")
    name = name.removeprefix("language_model.")
    if name.startswith("vision_tower."):
        return "model.vision_tower.vision_tower.vision_model." + name.removeprefix("vision_tower.")
    return name if name.startswith("lm_head") else f"model.{name}"


def original_config(n_tokens):
    return dict(
        architectures=["LlavaLlamaForCausalLM"],
        bos_token_id=1,
        eos_token_id=2,
        hidden_act="silu",
        hidden_size=8,
        image_aspect_ratio="pad",
        intermediate_size=12,
        max_position_embeddings=512,
        mm_hidden_size=8,
        mm_projector_type="mlp2x_gelu",
        mm_use_im_patch_token=False,
        mm_use_im_start_end=False,
        mm_vision_select_feature="patch",
        mm_vision_select_layer=-2,
        mm_vision_tower="clip-tower",
        model_type="llava_llama",
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=2,
        pad_token_id=0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        tokenizer_padding_side="right",
        torch_dtype="float32",
        transformers_version="4.37.2",
        tune_mm_mlp_adapter=False,
        use_cache=True,
        use_mm_proj=True,
        vocab_size=n_tokens,
    )


def companions(folder, n_tokens):
    write_json(folder / "config.json", original_config(n_tokens))
    shutil.copy(LLAVA / "tokenizer.model", folder)
    settings = dict(add_bos_token=True, add_eos_token=False, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    settings |= dict(legacy=False, model_max_length=2048, pad_token=None, tokenizer_class="LlamaTokenizer")
    write_json(folder / "tokenizer_config.json", settings)


def in_shards(folder, tensors, ending, write):
    stem = "model" if ending == "safetensors" else "pytorch_model"
    names, where = sorted(tensors), {}
    folder.mkdir(parents=True, exist_ok=True)
    for index, part in enumerate([names[: len(names) // 2], names[len(names) // 2 :]]):
        file = f"{stem}-0000{index + 1}-of-00002.{ending}"
        write({name: tensors[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    write_json(folder / f"{stem}.{ending}.index.json", {"metadata": {}, "weight_map": where})


def original_layouts(stored, n_tokens):
    """The same numbers as the original code writes them, without the rows that the port added."""
    tensors = {original_name(name): tensor.clone() for name, tensor in stored.items()}
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name] = tensors[name][:n_tokens].clone()
    whole = ORIGINAL / "full_with_tower"
    companions(whole, n_tokens)
    save_file(tensors, whole / "model.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if "vision_tower" not in name}
    in_shards(ORIGINAL / "full_safetensors_sharded", rest, "safetensors", save_file)
    in_shards(ORIGINAL / "full_bin_sharded", {name: tensor.half() for name, tensor in rest.items()}, "bin", torch.save)
    for layout in ("full_safetensors_sharded", "full_bin_sharded"):
        companions(ORIGINAL / layout, n_tokens)
    tower = ORIGINAL / "clip-tower"
    stem = "model.vision_tower.vision_tower."
    vision = {name.removeprefix(stem): tensor for name, tensor in tensors.items() if name.startswith(stem)}
    tower.mkdir(exist_ok=True)
    save_file(vision, tower / "model.safetensors")
    of_port = json.loads((LLAVA / "config.json").read_text())["vision_config"]
    write_json(tower / "config.json", {"model_type": "clip", "projection_dim": 6, "vision_config": of_port})
    settings = json.loads((LLAVA / "processor_config.json").read_text())["image_processor"]
    older = dict(crop_size=SIDE, size=SIDE, do_center_crop=True, do_normalize=True, do_resize=True, resample=3)
    older |= {"feature_extractor_type": "CLIPFeatureExtractor"} | {
        key: settings[key] for key in ("image_mean", "image_std")
    }
    write_json(tower / "preprocessor_config.json", older)
    projector = ORIGINAL / "pretrain_projector"
    write_json(projector / "config.json", original_config(n_tokens))
    names = [name for name in tensors if "mm_projector" in name]
    torch.save({name: tensors[name].bfloat16() for name in names}, projector / "mm_projector.bin")


def draw_adapter(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        elif parameter.requires_grad:
            parameter.data = parameter.data + torch.randn(parameter.shape, generator=generator) * 0.05
    return model.eval()


def base_model():
    return LlavaForConditionalGeneration.from_pretrained(LLAVA).float().eval()


def original_lora(ids, pixels, n_tokens):
    """A LoRA as the original repository saves it: PEFT's pickle, and the projector beside it in half precision."""
    folder = ORIGINAL / "llava-tiny-lora"
    leaves = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=rf".*language_model.*\.({leaves})$", task_type="CAUSAL_LM")
    model = get_peft_model(base_model(), lora)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or "multi_modal_projector" in name)
    draw_adapter(model, 3)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    stem = "base_model.model.model."
    adapter, rest = {}, {}
    for name, parameter in trained.items():
        if "lora_" in name:
            key = stem + name.removeprefix(stem + "language_model.").replace(".default", "")
            adapter[key] = parameter.data.clone()
        else:
            parameter.data = parameter.data.bfloat16().float()
            key = f"base_model.model.{original_name(name.removeprefix(stem))}"
            rest[key] = parameter.data.bfloat16()
    assert len(adapter) == 28 and len(rest) == 4, (list(adapter), list(rest))
    write_json(folder / "config.json", original_config(n_tokens))
    torch.save(adapter, folder / "adapter_model.bin")
    torch.save(rest, folder / "non_lora_trainables.bin")
    settings = dict(
        base_model_name_or_path="lmsys/vicuna-7b-v1.5",
        bias="none",
        lora_alpha=4,
        r=2,
        peft_type="LORA",
        target_modules=leaves.split("|"),
        task_type="CAUSAL_LM",
        modules_to_save=None,
        inference_mode=True,
    )
    write_json(folder / "adapter_config.json", settings)
    logits, _, new = answer(model.merge_and_unload(), ids, pixels)
    return {"lora_merged.first_logits": logits[:, -1, :n_tokens], "lora_merged.generated_ids": new}


def make_original(model, tokenizer, pieces, processor, drawn):
    shutil.rmtree(ORIGINAL, ignore_errors=True)
    n_tokens = len(pieces)
    pictures(ORIGINAL, ["img0_75x50.png"])
    pixels = processor(squared(drawn[0]), return_tensors="pt")["pixel_values"]
    original = around_image(pieces, VICUNA)
    image = tokenizer.convert_tokens_to_ids("<image>")
    ids = with_positions([image if id == -200 else id for id in original], image)
    stored = load_file(LLAVA / "model.safetensors")
    original_layouts(stored, n_tokens)
    logits, _, new = answer(model, ids, pixels)
    out = {"pixel_values": pixels, "input_ids_original": torch.tensor([original])}
    out |= {"full.first_logits": logits[:, -1, :n_tokens], "full.generated_ids": new}
    rounded = base_model()
    for name, parameter in rounded.named_parameters():
        if "vision_tower" not in name:
            parameter.data = parameter.data.half().float()
    out["full_bin_fp16.first_logits"] = answer(rounded, ids, pixels)[0][:, -1, :n_tokens]
    out |= original_lora(ids, pixels, n_tokens)
    save(ORIGINAL / "reference.safetensors", out)
    write_json(ORIGINAL / "reference.json", {"prompt": VICUNA})


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "list": dict(target_modules=LINEAR),
    "regex_projector": dict(
        target_modules=rf".*language_model.*\.({'|'.join(LINEAR)})$", modules_to_save=["multi_modal_projector"]
    ),
    "rslora_patterns": dict(
        target_modules=["v_proj", "q_proj", "linear_1", "down_proj"],
        use_rslora=True,
        rank_pattern={r"layers\.1\..*down_proj": 3, "q_proj": 1},
        alpha_pattern={"q_proj": 3},
    ),
    "dora": dict(target_modules=["o_proj", "q_proj"], use_dora=True),
    "all_linear_exclude": dict(target_modules="all-linear", exclude_modules=".*vision_tower.*"),
    "bias_lora_only": dict(target_modules=["fc1", "linear_2"], bias="lora_only"),
    "embeddings": dict(target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"]),
}


def make_adapters(tokenizer, pixels):
    """Adapters by PEFT in its variants, and what the model answers under them; one of them merged."""
    shutil.rmtree(PEFT, ignore_errors=True)
    ids = of_text(tokenizer, VICUNA)
    for seed, (name, options) in enumerate(ADAPTERS.items()):
        base = base_model()
        of_base = answer(base, ids, pixels)[0][:, -1]
        model = draw_adapter(get_peft_model(base, LoraConfig(r=2, lora_alpha=4, **options)), seed)
        folder = PEFT / name
        model.peft_config["default"].base_model_name_or_path = "fixtures/llava"
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        config = json.loads((folder / "adapter_config.json").read_text())
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()
        write_json(folder / "adapter_config.json", config)
        logits, _, new = answer(model, ids, pixels)
        merged = model.merge_and_unload()
        out = {"adapter.first_logits": logits[:, -1], "adapter.generated_ids": new}
        out["merged_float32.first_logits"] = answer(merged, ids, pixels)[0][:, -1]
        save(folder / "reference.safetensors", out)
        print(name, "moves logits by", float((logits[:, -1] - of_base).norm() / of_base.norm()), new.tolist())
        if name == "regex_projector":
            merged.save_pretrained(PEFT / "merged_float32_regex_projector")


model, tokenizer, pieces, processor, drawn, pixels = make_llava()
reference_of_llava(model, tokenizer, processor, drawn, pixels)
tokenizer_cases(tokenizer, pieces)
make_original(model, tokenizer, pieces, processor, drawn)
make_adapters(tokenizer, pixels[:1])
