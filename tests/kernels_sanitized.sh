#!/usr/bin/env bash
# The kernels' tests under valgrind, which sees reads of what nobody wrote and of what was not allocated, and under
# AddressSanitizer, which sees the latter in AVX-512 too. Says aloud what it skips; fails where either finds anything.
#
#     tests/kernels_sanitized.sh [DIR]     DIR keeps what is built for the next time; by default a temporary folder is used
#
# It needs valgrind and rustup's nightly toolchain, and some minutes. The kernels are compiled alone, as a crate of their own
# with the few dependencies that they have, in the versions of Cargo.lock; so the system's allocator serves, which both watch.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [[ -n "${1:-}" ]]; then
    mkdir -p "$1"
    work="$(cd "$1" && pwd)"
else
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work/src"
{
    printf '[package]\nname = "kernels"\nversion = "0.1.0"\nedition = "2024"\n\n[dependencies]\n'
    # What tests need, too, stands among the others: nothing but tests is built.
    grep -E '^(half|rayon|sysinfo|thiserror|libm|fastrand|proptest) = ' "$root/Cargo.toml"
    # The tests' own code a little, as in the program; what they call is in there, too, once it is inlined.
    printf '\n[profile.dev]\nopt-level = 1\ndebug = "line-tables-only"\n'
} >"$work/Cargo.toml"
printf '#![allow(dead_code)]\n#[path = "%s"]\nmod kernels;\n' "$root/src/model/kernels/mod.rs" >"$work/src/lib.rs"
cp "$root/Cargo.lock" "$work/Cargo.lock"
cd "$work"

n_run=0
has() { grep -qw "$1" /proc/cpuinfo; }

# Tests go through every set of the processor, which under valgrind is that of its emulation. That the forced one can be
# forced is the proof that it is among them.
if ! command -v valgrind >/dev/null; then
    echo "skipped: no valgrind"
elif [[ "$(uname -m)" != x86_64 ]]; then
    echo "skipped: valgrind is run on x86-64 only"
else
    set=avx2
    has avx2 && has fma && has f16c || { echo "skipped: this processor lacks AVX2"; set=scalar; }
    echo "skipped: AVX-512 under valgrind, which does not know it"
    tests="$(CARGO_TARGET_DIR="$work/target" cargo test --lib --no-run --message-format=json |
        grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d '"' -f 4)"
    # It is fifty times slower: a few random cases each.
    PROPTEST_CASES=3 EMT_KERNELS="$set" RAYON_NUM_THREADS=2 valgrind --quiet --error-exitcode=99 --leak-check=no \
        --fair-sched=yes "$tests" --test-threads 1
    echo "valgrind, kernels up to $set: nothing was found"
    n_run=$((n_run + 1))
fi

if ! rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    echo "skipped: no nightly toolchain, which AddressSanitizer needs; hint: rustup toolchain install nightly"
else
    for name in avx2 avx512f avx512_bf16; do
        has "$name" || echo "skipped: this processor lacks $name, and so do AddressSanitizer's tests"
    done
    # With a target of its own, macros and build scripts are left as they are.
    host="$(rustc +nightly -vV | sed -n 's/^host: //p')"
    CARGO_TARGET_DIR="$work/target-nightly" RUSTFLAGS="-Zsanitizer=address" cargo +nightly test --target "$host" --lib
    echo "AddressSanitizer, every set of the processor: nothing was found"
    n_run=$((n_run + 1))
fi

echo "$n_run of 2 tools were run"
