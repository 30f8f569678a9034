#!/usr/bin/env bash
# Drives the language-model judge against a server that is not ours: aimock, from npm, on loopback.
#
#   EMT_SHARED=<folder with models/ and data/> tests/judge_third_party.sh
#
# First the client alone (a test that is ignored without a server), then `emt eval --judge llm`, with 20% of
# all calls answered by 429. Needs npm with network access, and cargo; EMT names another emt binary.
# Without EMT_SHARED only the first part runs.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly KEY=test-key-0123456789
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

npm install --silent --no-fund --no-audit --prefix "$work" @copilotkit/aimock@1.43.0

# Fixtures are tried in order and match a part of the prompt. The paper's prompt ends with
# `Label: cat; Prediction: cat.`, so the last full stop keeps `cat` apart from `cat and dog`.
cat >"$work/client.json" <<'JSON'
{"fixtures": [
  {"match": {"userMessage": "Prediction: a tabby cat."}, "response": {"content": "Yes."}},
  {"match": {"userMessage": "Prediction: a brown dog."}, "response": {"content": "No."}},
  {"match": {"userMessage": "Prediction: a waffle."}, "response": {"content": "Yes, but no."}},
  {"match": {"userMessage": "Prediction: ratelimit."},
   "response": {"error": {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit_exceeded"}, "status": 429}}
]}
JSON
node -e '
  const names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
  const right = names.map(name => ({match: {userMessage: `Label: ${name}; Prediction: ${name}.`}, response: {content: "Yes."}}));
  const wrong = {match: {userMessage: "; Prediction: "}, response: {content: "No."}};
  process.stdout.write(JSON.stringify({fixtures: [...right, wrong]}));
' >"$work/eval.json"

# Starts aimock with the fixtures of $1 and the options that follow; sets $url.
start_server() {
  local fixtures=$1 port
  shift
  stop_server
  port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })')
  url=http://127.0.0.1:$port
  AIMOCK_API_KEYS=$KEY "$work/node_modules/.bin/llmock" --port "$port" --fixtures "$fixtures" --strict \
    --journal-max 0 --log-level silent "$@" &
  server_pid=$!
  for _ in $(seq 100); do
    if node -e "fetch('$url/health').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"; then return; fi
    sleep 0.1
  done
  echo "aimock did not start" >&2
  exit 1
}

start_server "$work/client.json"
EMT_TEST_JUDGE_URL=$url EMT_TEST_JUDGE_KEY=$KEY cargo test --test it -- --ignored --exact \
  judge::a_third_partys_server_judges_and_its_rate_limit_is_overcome

if [[ -z ${EMT_SHARED:-} ]]; then
  echo "skipped emt eval: EMT_SHARED is not set" >&2
  exit 0
fi

start_server "$work/eval.json" --chaos-ratelimit 0.2
if [[ -z ${EMT:-} ]]; then
  cargo build --release
  EMT=target/release/emt
fi
EMT_JUDGE_API_KEY=$KEY "$EMT" eval --model "$EMT_SHARED/models/tiny-llava" --encoder none --data "$EMT_SHARED/data" \
  --datasets cifar10 --limit 200 --judge llm --judge-url "$url" --judge-model judge-1 --judge-prompt emt \
  --judge-preset paper --retry-base 0.05 --out "$work/run"

# Every pair of label and answer was answered once, every trial has the verdict that the fixtures give, and
# the key is nowhere in the run.
URL=$url API_KEY=$KEY RUN=$work/run node -e '
  const fs = require("fs"), assert = require("assert");
  const trials = fs.readFileSync(`${process.env.RUN}/trials.jsonl`, "utf8").trim().split("\n").map(line => JSON.parse(line));
  const model = trials.filter(trial => trial.subject === "model");
  assert.strictEqual(model.length, 200);
  for (const trial of model) {
    const expected = trial.answer.trim() === trial.label ? "correct" : "incorrect";
    assert.strictEqual(trial.outcome, expected, JSON.stringify(trial));
  }
  const asked = model.filter(trial => trial.answer.trim() !== "");
  const pairs = new Set(asked.map(trial => JSON.stringify([trial.label, trial.answer.normalize("NFKC").trim().split(/\s+/).join(" ")])));
  const headers = {authorization: `Bearer ${process.env.API_KEY}`};
  const count = async status => (await (await fetch(`${process.env.URL}/__aimock/journal?path=/v1/chat/completions&status=${status}`, {headers})).json()).length;
  (async () => {
    const answered = await count(200), refused = await count(429);
    // And the one fixed question before the run.
    assert.strictEqual(answered, pairs.size + 1);
    assert(refused > 0, "no call was refused: the retries were not tested");
    for (const name of fs.readdirSync(process.env.RUN)) {
      assert(!fs.readFileSync(`${process.env.RUN}/${name}`).includes(process.env.API_KEY), `the key is in ${name}`);
    }
    console.log(`${model.length} trials, ${pairs.size} pairs, ${answered} replies, ${refused} refusals: ok`);
  })();
'
