"""Tiny encoders with a text tower: writes into the folder fixtures/ beside itself.

    python make_small_encoders.py        (torch, transformers, open_clip, sentencepiece, tokenizers, pillow)

`clip/` and `clip_legacy_eos/` (whose configuration has the end-of-text id of old files) by transformers, `open_clip/`:
the numbers of `clip/` under open_clip's names and its own pixels and embeddings, `siglip/` by transformers with a
unigram tokenizer whose ids are sentencepiece's.
"""

import re
import shutil

import open_clip
import torch
from safetensors.torch import save_file
from small_fixtures import (
    CLASSES,
    OUT,
    clip_tokenizer,
    pictures,
    randomise,
    save,
    save_in_bfloat16,
    sentencepiece_model,
    write_json,
)
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

SIDE, N_TEXT = 24, 32
IMAGES = ["img0_75x50.png", "img1_40x66.png"]
CAPTIONS = [f"a photo of a {name}." for name in CLASSES]
SIDES = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}


@torch.no_grad()
def reference(folder, model, ids, pixels, texts, **given):
    out = model(input_ids=ids, pixel_values=pixels, **given)
    states = model.vision_model(pixels, output_hidden_states=True).hidden_states
    tensors = {
        "input_ids": ids,
        "pixel_values": pixels,
        "vision_hidden_state_m2": states[-2],
        "image_embeds_normalised": out.image_embeds,
        "text_embeds_normalised": out.text_embeds,
        "logits_per_image": out.logits_per_image,
    }
    save(folder / "reference.safetensors", tensors)
    write_json(folder / "reference.json", {"texts": texts})
    print(folder.name, out.logits_per_image.argmax(1).tolist(), [state.shape for state in states[-2:]])


def clip(name, is_legacy):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = clip_tokenizer(folder, with_files=not is_legacy)
    start, end = map(tokenizer.token_to_id, ("<|startoftext|>", "<|endoftext|>"))
    text = SIDES | {
        "num_hidden_layers": 2,
        "vocab_size": end + 1,
        "max_position_embeddings": N_TEXT,
        "bos_token_id": start,
    }
    vision = SIDES | {"num_hidden_layers": 2, "image_size": SIDE, "patch_size": 8}
    text |= {"eos_token_id": 2 if is_legacy else end, "pad_token_id": 1}
    model = randomise(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)), 5)
    save_in_bfloat16(model, folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor.save_pretrained(folder)
    drawn = pictures(folder, IMAGES)
    pixels = processor(drawn, return_tensors="pt")["pixel_values"]
    rows = [tokenizer.encode(text).ids for text in CAPTIONS]
    ids = torch.tensor([row + [end] * (N_TEXT - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (N_TEXT - len(row)) for row in rows])
    reference(folder, model, ids, pixels, CAPTIONS, attention_mask=mask)
    return model, drawn, rows


def open_clip_names(state):
    """The tensors of transformers' CLIP under open_clip's names."""
    out = {"logit_scale": state["logit_scale"]}
    for side, stem in (("vision_model", "visual."), ("text_model", "")):
        for index in range(2):
            of = f"{side}.encoder.layers.{index}."
            to = f"{stem}transformer.resblocks.{index}."
            for leaf in ("weight", "bias"):
                parts = [state[f"{of}self_attn.{part}_proj.{leaf}"] for part in "qkv"]
                out[f"{to}attn.in_proj_{leaf}"] = torch.cat(parts)
                out[f"{to}attn.out_proj.{leaf}"] = state[f"{of}self_attn.out_proj.{leaf}"]
                for theirs, ours in (
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                ):
                    out[f"{to}{ours}.{leaf}"] = state[f"{of}{theirs}.{leaf}"]
    for leaf in ("weight", "bias"):
        out[f"visual.ln_pre.{leaf}"] = state[f"vision_model.pre_layrnorm.{leaf}"]
        out[f"visual.ln_post.{leaf}"] = state[f"vision_model.post_layernorm.{leaf}"]
        out[f"ln_final.{leaf}"] = state[f"text_model.final_layer_norm.{leaf}"]
    out["visual.class_embedding"] = state["vision_model.embeddings.class_embedding"]
    out["visual.conv1.weight"] = state["vision_model.embeddings.patch_embedding.weight"]
    out["visual.positional_embedding"] = state["vision_model.embeddings.position_embedding.weight"]
    out["visual.proj"] = state["visual_projection.weight"].T
    out["token_embedding.weight"] = state["text_model.embeddings.token_embedding.weight"]
    out["positional_embedding"] = state["text_model.embeddings.position_embedding.weight"]
    out["text_projection"] = state["text_projection.weight"].T
    return {name: tensor.clone().contiguous() for name, tensor in out.items()}


@torch.no_grad()
def with_open_clip(model, drawn, rows):
    folder = OUT / "open_clip"
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = clip_tokenizer(folder, with_files=False)
    state = model.state_dict()
    vision = dict(image_size=SIDE, layers=2, width=8, head_width=4, patch_size=8, mlp_ratio=2.0)
    text = dict(context_length=N_TEXT, vocab_size=tokenizer.get_vocab_size(), width=8, heads=2, layers=2, mlp_ratio=2.0)
    cfg = dict(embed_dim=6, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    write_json(folder / "open_clip_config.json", {"model_cfg": cfg, "preprocess_cfg": {"mean": mean, "std": std}})
    own = open_clip.CLIP(**cfg).eval()
    tensors = open_clip_names(state)
    missing = own.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"attn_mask"}, missing
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "open_clip_model.safetensors")
    transform = open_clip.image_transform(SIDE, is_train=False, mean=mean, std=std)
    pictures(folder, IMAGES)
    pixels = CLIPImageProcessorPil.from_pretrained(OUT / "clip")(drawn, return_tensors="pt")["pixel_values"]
    ids = torch.tensor([row + [0] * (N_TEXT - len(row)) for row in rows])
    images, texts = own.encode_image(pixels, normalize=True), own.encode_text(ids, normalize=True)
    out = {"input_ids": ids, "pixel_values": torch.stack([transform(image) for image in drawn])}
    out |= {"image_embeds_normalised": images, "text_embeds_normalised": texts}
    out["logits_per_image"] = own.logit_scale.exp() * images @ texts.T
    save(folder / "reference.safetensors", out)
    print("open_clip", out["logits_per_image"].argmax(1).tolist())


SIGNS = r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"""


def siglip_tokenizer(folder):
    """The JSON that transformers' converter makes of such a sentencepiece model, and sentencepiece's ids of a text."""
    raw, pieces = sentencepiece_model(120, "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(raw)
    scores = [(pieces.id_to_piece(i), 0.0 if i < 3 else pieces.get_score(i)) for i in range(len(pieces))]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(f"[{re.escape(SIGNS)}]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Strip(left=False),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict(eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    write_json(folder / "special_tokens_map.json", special)
    config = dict(do_lower_case=True, model_max_length=N_TEXT, tokenizer_class="SiglipTokenizer", **special)
    write_json(folder / "tokenizer_config.json", config)

    def encode(text):
        canonical = " ".join(text.lower().translate(str.maketrans("", "", SIGNS)).split())
        return [*pieces.encode(canonical), 1]

    for text in [*CAPTIONS, "A photo, of a CAT", "  two  spaces\tand a line\nbreak"]:
        assert tokenizer.encode(text).ids == encode(text), (text, tokenizer.encode(text).tokens, encode(text))
    return encode, len(pieces)


def siglip():
    folder = OUT / "siglip"
    shutil.rmtree(folder, ignore_errors=True)
    encode, n_pieces = siglip_tokenizer(folder)
    texts = [f"This is a photo of {name}." for name in CLASSES]
    rows = [encode(text) for text in texts]
    ids = torch.tensor([row + [1] * (N_TEXT - len(row)) for row in rows])
    text = SIDES | {
        "num_hidden_layers": 2,
        "vocab_size": n_pieces,
        "max_position_embeddings": N_TEXT,
        "projection_size": 8,
    }
    vision = SIDES | {"num_hidden_layers": 2, "image_size": SIDE, "patch_size": 8}
    model = randomise(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)), 20261130)
    save_in_bfloat16(model, folder)
    processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, resample=3)
    processor.save_pretrained(folder)
    pixels = processor(pictures(folder, IMAGES), return_tensors="pt")["pixel_values"]
    reference(folder, model, ids, pixels, texts)


model, drawn, rows = clip("clip", False)
with_open_clip(model, drawn, rows)
clip("clip_legacy_eos", True)
siglip()
