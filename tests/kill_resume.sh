#!/usr/bin/env bash
# Kills `emt eval` with SIGKILL at N random moments (default 50), resumes it each time, and compares the results with those of
# a run that was never killed. Usage: cargo build --release && tests/kill_resume.sh [N]
#
# EMT_SHARED: the folder with models and data (default ../shared). EMT_KILL_LIMIT: images a dataset (default 100).
# EMT_BIN: the program (default target/release/emt). EMT_KILL_SEED: the moments (default the time of day).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

n_kills="${1:-50}"
shared="${EMT_SHARED:-$(cd .. && pwd)/shared}"
emt="${EMT_BIN:-$PWD/target/release/emt}"
limit="${EMT_KILL_LIMIT:-100}"
RANDOM="${EMT_KILL_SEED:-$(date +%s)}"

[[ -x "$emt" ]] || { echo "error: \`$emt\` is missing; hint: cargo build --release" >&2; exit 2; }
[[ -d "$shared/models/tiny-llava" ]] || { echo "error: \`$shared/models/tiny-llava\` is missing; hint: set EMT_SHARED" >&2; exit 2; }

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

start() { # start OUT: becomes the program
    exec "$emt" eval --model "$shared/models/tiny-llava" --encoder "$shared/models/tiny-clip" --data "$shared/data" \
        --datasets "mnist,cifar10,cifar100,$shared/data/imagenet20/val" --limit "$limit" --judge rules --quiet \
        --out "$1" >"$work/stdout" 2>"$work/stderr"
}

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

fail() {
    echo "error: $1" >&2
    cat "$work/stderr" >&2
    exit 1
}

compare() { # The folders' names are equal, and neither file holds a time: equal means equal to the byte.
    for name in summary.json trials.jsonl; do
        cmp "$work/whole/run/$name" "$work/broken/run/$name" || fail "\`$name\` differs after $n_killed kills"
    done
    n_compared=$((n_compared + 1))
}

mkdir -p "$work/whole" "$work/broken"
began="$(milliseconds)"
(start "$work/whole/run") || fail "the uninterrupted run failed"
duration=$(($(milliseconds) - began))
echo "uninterrupted: $(wc -l <"$work/whole/run/trials.jsonl") trials in $duration ms"

n_killed=0 n_compared=0
while [[ "$n_killed" -lt "$n_kills" ]]; do
    (start "$work/broken/run") &
    child=$!
    # Any moment between the start and the end of a whole run.
    delay=$(((RANDOM * 32768 + RANDOM) % (duration + 1)))
    sleep "$(printf '%d.%03d' $((delay / 1000)) $((delay % 1000)))"
    kill -KILL "$child" 2>/dev/null || true
    code=0
    wait "$child" 2>/dev/null || code=$?
    case "$code" in
        137)
            n_killed=$((n_killed + 1))
            echo "kill $n_killed of $n_kills after $delay ms: $(wc -l 2>/dev/null <"$work/broken/run/trials.jsonl" || echo 0) lines"
            ;;
        0)  # It reached its end before: compare, and begin anew.
            compare
            rm -rf "$work/broken/run"
            ;;
        *) fail "a resumed run ended with exit code $code" ;;
    esac
done
(start "$work/broken/run") || fail "the last resumed run failed"
compare
echo "passed: $n_killed kills, $n_compared resumed runs equal the uninterrupted one"
