#!/usr/bin/env bash
# The kernels' tests under valgrind, which sees reads of what nobody wrote and of what was not allocated, and under
# AddressSanitizer, which sees the latter in AVX-512 too. Says aloud what it skips; fails where either finds anything.
#
#     tests/kernels_sanitized.sh [DIR]     DIR keeps the build of the nightly toolchain; by default a temporary folder is used
#
# It needs valgrind and rustup's nightly toolchain, and some 20 minutes of two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

n_run=0
has() { grep -qw "$1" /proc/cpuinfo; }

# Tests go through every set of the processor, which is that of valgrind's emulation; the forced one is the proof that it
# has AVX2. The library's tests use the system's allocator, which both tools watch; mimalloc is the program's alone.
if ! command -v valgrind >/dev/null; then
    echo "skipped: no valgrind"
elif [[ "$(uname -m)" != x86_64 ]]; then
    echo "skipped: valgrind is run on x86-64 only"
else
    set=avx2
    has avx2 && has fma && has f16c || { echo "skipped: this processor lacks AVX2"; set=scalar; }
    echo "skipped: AVX-512 under valgrind, which does not know it"
    tests="$(cargo test --locked --lib --no-run --message-format=json |
        grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d '"' -f 4)"
    # It is fifty times slower: a few random cases each.
    PROPTEST_CASES=3 EMT_KERNELS="$set" RAYON_NUM_THREADS=2 valgrind --quiet --error-exitcode=99 --leak-check=no --fair-sched=yes \
        "$tests" --test-threads 1 model::kernels::
    echo "valgrind, scalar to $set: nothing was found"
    n_run=$((n_run + 1))
fi

if ! rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    echo "skipped: no nightly toolchain, which AddressSanitizer needs; hint: rustup toolchain install nightly"
else
    if [[ -n "${1:-}" ]]; then
        mkdir -p "$1"
        target="$(cd "$1" && pwd)"
    else
        target="$(mktemp -d)"
        trap 'rm -rf "$target"' EXIT
    fi
    host="$(rustc +nightly -vV | sed -n 's/^host: //p')"
    for name in avx2 avx512f avx512_bf16; do
        has "$name" || echo "skipped: this processor lacks $name, and so do AddressSanitizer's tests"
    done
    # With a target of its own, macros and build scripts are left as they are. Building takes longer than the tests: nothing is
    # optimised.
    CARGO_TARGET_DIR="$target" CARGO_PROFILE_DEV_OPT_LEVEL=0 RUSTFLAGS="-Zsanitizer=address" cargo +nightly \
        --config 'profile.dev.package."*".opt-level=0' test --locked --target "$host" --lib model::kernels::
    echo "AddressSanitizer: nothing was found"
    n_run=$((n_run + 1))
fi

echo "$n_run of 2 tools were run"
