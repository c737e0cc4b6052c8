#!/usr/bin/env bash
# Runs the engine's tests on ggml's Vulkan backend over llvmpipe, Mesa's software driver.
#   scripts/vulkan-tests.sh BUILD
# A GPU of this machine is tested with the variable WINDOWKV_TEST_DEVICE=Vulkan0 and the programs below instead.
set -uo pipefail
cd "$(dirname "$0")/.."
build=$1

# The software driver alone, which ggml takes only where it is asked for.
export VK_LOADER_DRIVERS_SELECT='*lvp*' GGML_VK_VISIBLE_DEVICES=0 WINDOWKV_TEST_DEVICE=Vulkan0
# llvmpipe multiplies wrongly with vectors of 256 bits and now and then with several threads (ggml's matrix products of
# sizes that are no multiples of a tile; Mesa 26.1, ggml 0.27), and 16-bit products round too much for the tests' bounds.
export LP_NATIVE_VECTOR_WIDTH=128 LP_NUM_THREADS=1 GGML_VK_DISABLE_F16=1

if ! "$build/windowkv" inspect -m models/minilong-6m-f16.gguf --device Vulkan0 >/dev/null; then
  echo "vulkan-tests: ggml finds no Vulkan device" >&2
  exit 1
fi

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export build logs
# Prompts of thousands of tokens take minutes each there. Where experts are chosen, the reference's rounding of activations, on the
# CPU, lets other experts win now and then.
export GTEST_FILTER='-LongPrompt.*:*/qwen35moe_q4_K'
run() {
  if "$build/tests/$1_test" >"$logs/$1" 2>&1; then
    echo "$1: $(grep -c '^\[       OK' "$logs/$1") tests passed"
  else
    cat "$logs/$1"
    echo "$1: failed"
    return 1
  fi
}
export -f run
# The longest first, two at once.
xargs -n 1 <scripts/device-tests.txt |
  xargs -P 2 -I{} bash -c 'run {}' || exit 1
