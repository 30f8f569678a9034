"""Scores after transformers' logits processors (5.24), for `src/model/logits_processors.rs`: settings as a generation_config.json
has them, a prompt, an answer's beginning, logits, and what `generate(do_sample=False)` makes of them for a row alone.

    python tests/golden/make_logits_processors.py > tests/golden/logits_processors.json
"""
import json, random, types, warnings
import torch
from transformers import GenerationConfig
from transformers.generation.utils import GenerationMixin

warnings.filterwarnings("ignore")
VOCABULARY, IMAGE, EOS = 12, 11, [2, 7]
PROMPT = [1, 5, IMAGE, IMAGE, IMAGE, 3, 5, 4]
random.seed(3)


def number(x):
    return float("%.8g" % x) if abs(x) != float("inf") and x == x else "inf" if x > 0 else "-inf" if x < 0 else "nan"


def case(settings, prompt, new, max_new_tokens=6, logits=None):
    config = GenerationConfig(**json.loads(json.dumps(settings)))
    config.max_new_tokens = max_new_tokens
    config._eos_token_tensor = torch.tensor(EOS)
    model = types.SimpleNamespace(config=types.SimpleNamespace(is_encoder_decoder=False), _merge_criteria_processor_list=lambda own, given: own)
    prompt_ids = torch.tensor([prompt], dtype=torch.long).reshape(1, len(prompt))
    has_default = config.min_length is None
    if config.min_length is None: config.min_length = 0
    GenerationMixin._prepare_generated_length(model, config, True, has_default, "input_ids", len(prompt), prompt_ids)
    if len(prompt) == 0:  # embeddings alone: what is handed over has three dimensions
        encoder_ids = torch.zeros(1, 9, 4)
    else:
        encoder_ids = prompt_ids
    processors = GenerationMixin._get_logits_processor(
        model, config, input_ids_seq_length=len(prompt), encoder_input_ids=encoder_ids, device="cpu", model_kwargs={})
    if logits is None: logits = [round(random.uniform(-4, 4), 3) for _ in range(VOCABULARY)]
    given = torch.tensor([logits], dtype=torch.float32)
    ids = torch.cat([prompt_ids, torch.tensor([new], dtype=torch.long).reshape(1, len(new))], dim=1)
    scores = processors(ids, given.clone())
    argmax = int(scores.argmax(-1))
    return {"settings": settings, "prompt": prompt, "new": new, "max_new_tokens": max_new_tokens, "eos": EOS,
            "logits": [number(x) for x in given[0].tolist()], "scores": [number(x) for x in scores[0].tolist()], "argmax": argmax}


cases = []
for settings in [
    {}, {"repetition_penalty": 1.05}, {"repetition_penalty": 1.3}, {"repetition_penalty": 0.7}, {"encoder_repetition_penalty": 1.4},
    {"encoder_repetition_penalty": 0.8, "repetition_penalty": 1.2}, {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 20}, {"encoder_no_repeat_ngram_size": 1}, {"encoder_no_repeat_ngram_size": 2},
    {"min_length": 10}, {"min_length": 3}, {"min_new_tokens": 2}, {"min_new_tokens": 1, "min_length": 30},
    {"suppress_tokens": [3, 5, 90]}, {"begin_suppress_tokens": [0, 8, 9]}, {"bad_words_ids": [[3], [5, 4], [2], [8, 9, 10]]},
    {"sequence_bias": [[[3], 2.5], [[8], -3.0], [[5, 4], 9.0], [[8, 9], -7.5], [[4, 8, 9], 1.25]]},
    {"forced_bos_token_id": 6}, {"forced_eos_token_id": 2}, {"forced_eos_token_id": [2, 7]}, {"remove_invalid_values": True},
    {"exponential_decay_length_penalty": [1, 1.5]}, {"exponential_decay_length_penalty": [0, 1.1], "suppress_tokens": [2]},
    {"exponential_decay_length_penalty": [0, 2.0], "min_new_tokens": 3}, {"renormalize_logits": True},
    {"repetition_penalty": 1.1, "no_repeat_ngram_size": 2, "renormalize_logits": True, "suppress_tokens": [0], "bad_words_ids": [[1]]},
    {"begin_suppress_tokens": [0, 8], "forced_bos_token_id": 6},
]:
    for new in [[], [8], [8, 9], [4, 8, 9, 5, 3]]:
        cases.append(case(settings, PROMPT, new))
    for new in [[], [8], [8, 9]]:
        cases.append(case(settings, [], new))
inf, nan = float("inf"), float("nan")
broken = [1.0, nan, -2.0, inf, -inf, 0.5, 3.0, -1.0, 2.0, 0.0, 0.1, 0.2]
cases.append(case({"remove_invalid_values": True}, PROMPT, [8], logits=broken))
cases.append(case({"suppress_tokens": list(range(VOCABULARY))}, PROMPT, [8]))
print(json.dumps({"made_by": "tests/golden/make_logits_processors.py, transformers 5.24", "cases": cases}, separators=(",", ":")).replace('{"settings"', '\n{"settings"'))
