#!/usr/bin/env bash
# Proves that the program compiles and links with `--features cuda`, without a GPU and without an installed CUDA: the toolkit is
# made of PyPI packages, the driver is a stub. Nothing is run on a GPU, and the program that comes out cannot run without a driver.
#
#     tests/cuda_build.sh [DIR]     DIR keeps toolkit and build for the next time (4 GB); by default a temporary folder is used
#
# It needs python3 with pip and venv, a C++ compiler, and 11 minutes of one core's time.
# CUDA_COMPUTE_CAP: the GPU's compute capability (default 80: A100; 86, 89 and 90 take the same code). CARGO: default `cargo`.
#
#     FEATURES=flash-attn tests/cuda_build.sh [DIR]     the same with flash attention and the test of it
#
# That needs git, GitHub and about an hour of one core's time (CUDAFORGE_THREADS=N compiles N of its 53 files at once).
# CUTLASS: a git repository with the history of NVIDIA's CUTLASS, where GitHub cannot be reached.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo="${CARGO:-cargo}"
features="${FEATURES:-cuda}"
case "$features" in
# The program that comes out is not run: nothing is optimised, nor are candle's kernels, which is done in a third of the time.
cuda) checked=() NVCC_APPEND_FLAGS="-Xcicc -O0 -Xptxas -O0" ;;
# Not optimised, the templates of these kernels take gigabytes; so what the program never asks of them is left out.
flash-attn)
    checked=(--tests) NVCC_APPEND_FLAGS="-DFLASHATTENTION_DISABLE_DROPOUT -DFLASHATTENTION_DISABLE_ALIBI"
    NVCC_APPEND_FLAGS+=" -DFLASHATTENTION_DISABLE_SOFTCAP -DFLASHATTENTION_DISABLE_LOCAL"
    ;;
*) echo "error: FEATURES is cuda or flash-attn" >&2; exit 2 ;;
esac
export NVCC_APPEND_FLAGS

if [[ -n "${1:-}" ]]; then
    mkdir -p "$1"
    work="$(cd "$1" && pwd)"
else
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
fi

# The compiler's parts must be of one minor version: mixed ones do not fit.
packages=(
    nvidia-cuda-nvcc==13.2.* nvidia-nvvm==13.2.* nvidia-cuda-crt==13.2.* nvidia-cuda-runtime==13.2.* nvidia-cuda-nvrtc==13.2.*
    nvidia-cuda-cccl==13.2.* nvidia-cublas==13.* nvidia-curand==10.*
)
if [[ ! -f "$work/toolkit-is-whole" ]]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-cache-dir "${packages[@]}"
    touch "$work/toolkit-is-whole"
fi
toolkit="$(echo "$work"/venv/lib/python3*/site-packages/nvidia/cu13)"
[[ -x "$toolkit/bin/nvcc" ]] || { echo "error: the packages left no \`$toolkit/bin/nvcc\`" >&2; exit 2; }

# The packages hold versioned names only; the linker asks for the bare ones.
for name in cublas cublasLt curand nvrtc cudart; do
    versioned="$(find "$toolkit/lib" -maxdepth 1 -name "lib$name.so.*" | sort | head -n 1)"
    [[ -n "$versioned" ]] || { echo "error: \`$toolkit/lib\` has no lib$name.so.*" >&2; exit 2; }
    ln -sf "$(basename "$versioned")" "$toolkit/lib/lib$name.so"
done

# The driver's library comes with the driver. To link, its names are enough: those that cudarc declares.
cudarc="$("$cargo" metadata --format-version 1 --locked --features cuda |
    grep -o '"manifest_path":"[^"]*/cudarc-[^"/]*/Cargo.toml"' | head -n 1 | cut -d '"' -f 4)"
declarations="$(dirname "$cudarc")/src/driver/sys/mod.rs"
functions="$(grep -oE '\bfn cu[A-Z][A-Za-z0-9_]*' "$declarations" | sort -u || true)"
[[ -n "$functions" ]] || { echo "error: \`$declarations\` declares no function of the driver" >&2; exit 2; }
# 100: no device.
awk '{ print "int " $2 "(void) { return 100; }" }' <<<"$functions" >"$work/cuda.c"
cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$toolkit/lib/libcuda.so" "$work/cuda.c"

export CUDA_HOME="$toolkit" CUDA_PATH="$toolkit" CUDA_ROOT="$toolkit" CUDA_TOOLKIT_ROOT_DIR="$toolkit"
export PATH="$toolkit/bin:$PATH" LIBRARY_PATH="$toolkit/lib" CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"
export CARGO_TARGET_DIR="$work/target"
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0
plain=(--config 'profile.dev.package."*".opt-level=0')
nvcc --version | tail -n 2

# The crate of flash attention clones CUTLASS, unless the commit that it wants is there.
export CUDAFORGE_HOME="$work/cudaforge"
if [[ "$features" == flash-attn && -n "${CUTLASS:-}" ]]; then
    crate="$("$cargo" metadata --format-version 1 --locked --features flash-attn |
        grep -o '"manifest_path":"[^"]*/candle-flash-attn-[^"/]*/Cargo.toml"' | head -n 1 | cut -d '"' -f 4)"
    commit="$(grep -oE 'CUTLASS_COMMIT: &str = "[0-9a-f]{40}' "$(dirname "$crate")/build.rs" | grep -oE '[0-9a-f]{40}$')"
    checkout="$CUDAFORGE_HOME/git/checkouts/cutlass-${commit:0:16}"
    if [[ ! -d "$checkout/include" ]]; then
        rm -rf "$checkout"
        git clone --quiet --shared --no-checkout "$CUTLASS" "$checkout"
        git -C "$checkout" sparse-checkout set include tools/util/include
        git -C "$checkout" checkout --quiet "$commit"
    fi
fi

"$cargo" check "${plain[@]}" --locked --features "$features" "${checked[@]}"
echo "cargo check --features $features${checked:+ ${checked[*]}}: passed"
"$cargo" build "${plain[@]}" --locked --features "$features"
needed="$(readelf -d "$work/target/debug/emt" | grep -o 'lib\(cuda\|cublas\|curand\|cudart\)\.so[.0-9]*' | sort -u | tr '\n' ' ')"
[[ "$needed" == *libcuda.so.1* ]] || { echo "error: the program does not need the driver: $needed" >&2; exit 1; }
echo "cargo build --features $features: passed; the program needs $needed(nothing was run on a GPU)"
