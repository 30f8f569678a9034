#!/usr/bin/env bash
# How long `cargo build --release` takes from cold, beside an empty program that depends on candle-core, candle-nn and
# candle-transformers with the same features, versions and profile; which crates take more than 5% of it; and the program's size.
# Fails where processor time is more than 2.5 times the empty program's, or the program has 40 MB or more.
#
#     tests/bench/build_time.sh [JOBS, default all cores]
#
# Both are built in one run in temporary folders (4 GB), sources fetched before. Processor time is what to compare on a machine
# that does other things as well. CARGO: default `cargo`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root="$PWD"
cargo="${CARGO:-cargo}"
jobs="${1:-$(nproc)}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/empty/src"
echo 'fn main() {}' >"$work/empty/src/main.rs"
version="$(sed -n 's/^candle-core = { version = "\([0-9.]*\)".*/\1/p' Cargo.toml)"
{
    printf '[package]\nname = "empty"\nversion = "0.1.0"\nedition = "2024"\n\n[dependencies]\n'
    for name in core nn transformers; do
        printf 'candle-%s = { version = "=%s", default-features = false }\n' "$name" "$version"
    done
    # A switch of candle's own products, and so one of its features.
    sed -n '/^gemm = /p' Cargo.toml
    echo
    sed -n '/^\[profile\.release\]/,/^$/p' Cargo.toml
} >"$work/empty/Cargo.toml"
# So that both compile the same versions; what is not needed falls out of it.
cp Cargo.lock "$work/empty/Cargo.lock"
"$cargo" fetch --quiet --manifest-path "$work/empty/Cargo.toml"
"$cargo" fetch --quiet --locked

build() { # build NAME FOLDER: prints wall, user and system seconds
    local TIMEFORMAT='%R %U %S'
    cd "$2"
    { time CARGO_TARGET_DIR="$work/target-$1" "$cargo" build --release --timings --locked --jobs "$jobs" >"$work/$1.log" 2>&1; } 2>&1
}

empty="$(build empty "$work/empty")" || { cat "$work/empty.log" >&2; exit 2; }
emt="$(build emt "$root")" || { cat "$work/emt.log" >&2; exit 2; }

"$cargo" --version
python3 - "$work" "$jobs" "$empty" "$emt" <<'PYTHON'
import json, os, re, sys
from collections import defaultdict

work, jobs, empty, emt = sys.argv[1:]

def seconds(text):
    wall, user, system = map(float, text.split()[-3:])
    return wall, user + system

def units(name):
    page = open(f"{work}/target-{name}/cargo-timings/cargo-timing.html").read()
    data = json.loads(re.search(r"UNIT_DATA = (\[.*?\]);\n", page, re.S).group(1))
    total = defaultdict(float)
    for unit in data:
        total[f"{unit['name']} {unit['version']}"] += unit["duration"]
    return total

(empty_wall, empty_processor), (wall, processor) = seconds(empty), seconds(emt)
print(f"{jobs} jobs, both from cold, in one run")
print(f"{'':14}{'wall s':>10}{'processor s':>13}")
print(f"{'empty':14}{empty_wall:10.1f}{empty_processor:13.1f}")
print(f"{'emt':14}{wall:10.1f}{processor:13.1f}")
ratio = processor / empty_processor
print(f"{'ratio':14}{wall / empty_wall:10.2f}{ratio:13.2f}  (at most 2.5)")

total, empty_total = units("emt"), units("empty")
all_seconds = sum(total.values())
print(f"\nseconds of all {len(total)} crates: {all_seconds:.1f}; of the {len(total.keys() & empty_total.keys())} that the empty "
      f"program compiles, too: {sum(seconds for name, seconds in total.items() if name in empty_total):.1f}")
print("crates above 5% (of 2% and more: * also in the empty program)")
for name, seconds_of in sorted(total.items(), key=lambda item: -item[1]):
    share = seconds_of / all_seconds
    if share < 0.02:
        break
    print(f"{'>5%' if share > 0.05 else '':4}{100 * share:5.1f}%{seconds_of:8.1f} s  {name}{' *' if name in empty_total else ''}")

size = os.path.getsize(f"{work}/target-emt/release/emt")
print(f"\nthe program: {size:,} bytes (below 40,000,000)")
sys.exit(ratio > 2.5 or size >= 40_000_000)
PYTHON
