#!/usr/bin/env bash
# The table "which arm forgets what" for the miniature: every arm of which_arm_forgets_what.toml with three seeds, ranked by what
# it forgets at equal gain. Leaves sweep.md, sweep.html, the charts and all runs in DIR; the same command resumes.
#
#     tests/bench/which_arm_forgets_what.sh [DIR, default reports/arms] [ARM... , default all]
#
# EMT names another program than the release build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out="${1:-reports/arms}"
shift || true
mkdir -p "$out"
# The top of the file, and the tables of the arms that are asked for.
awk -v wanted=" $* " '
    /^\[arms\./ { name = $0; gsub(/^\[arms\."?|"?\]$/, "", name); keeps = wanted ~ /^ *$/ || index(wanted, " " name " ") }
    !name || keeps
' tests/bench/which_arm_forgets_what.toml > "$out/arms.toml"
if [ -z "${EMT:-}" ]; then
    cargo build --release --locked
    EMT="${CARGO_TARGET_DIR:-target}/release/emt"
fi
exec "$EMT" sweep "$out/arms.toml" --out "$out"
