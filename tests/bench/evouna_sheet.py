#!/usr/bin/env python3
"""Makes a calibration sheet of EVOUNA's answers and human verdicts, for `emt judge calibrate`.

    python3 tests/bench/evouna_sheet.py NQ.json > evouna.jsonl
    emt judge calibrate --labels evouna.jsonl --out evouna.json

EVOUNA (Wang et al., NeurIPS 2023, arXiv 2305.12421; Apache-2.0): 3,610 questions of Natural Questions, the answers of
five systems to each, and for each answer whether a person holds it right. Between slashes stand several golden answers,
here the label and its aliases. Questions that are marked as improper are left out, as in the paper. The group is the
system.
"""
import json
import sys

SYSTEMS = ["fid", "gpt35", "chatgpt", "gpt4", "newbing"]

for item in json.load(open(sys.argv[1])):
    names = [name.strip() for name in (item["golden_answer"] or "").split("/") if name.strip()]
    if item["improper"] or not names:
        continue
    for system in SYSTEMS:
        answer, mark = item[f"answer_{system}"], item[f"judge_{system}"]
        if answer is None or mark is None:
            continue
        row = {"question": item["question"], "label": names[0], "aliases": names[1:], "answer": answer}
        print(json.dumps({**row, "correct": mark, "group": system}, ensure_ascii=False))
