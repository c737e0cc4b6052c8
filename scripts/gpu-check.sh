#!/usr/bin/env bash
# On a machine with a GPU: the engine's tests on it, and speeds beside llama.cpp's on the same card. Under ten minutes.
#   scripts/gpu-check.sh BUILD [DEVICE]   DEVICE: CUDA0, Vulkan0 ... as `windowkv --list-devices` names it; default: the first GPU
# GPU_CHECK_TESTS: programs of BUILD/tests to run, "" for none. GPU_CHECK_MODELS: GGUF files to measure; default: random weights
# in the shapes of Qwen2.5-1.5B and Llama-3-8B (Q4_K), made in BUILD. GPU_CHECK_LENGTHS: prompts to measure. GPU_CHECK_ROUNDS: rounds of
# each measurement, medians of which are shown.
set -uo pipefail
build=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
windowkv=$build/windowkv
device=${2:-$("$windowkv" --list-devices | awk '$1 != "CPU" && $1 != "device" {print $1; exit}')}
if [[ -z $device ]]; then
  echo "gpu-check: ggml finds no GPU; does its backend lie beside libggml, and does the driver work?" >&2
  exit 1
fi
rounds=${GPU_CHECK_ROUNDS:-3}
lengths=${GPU_CHECK_LENGTHS:-4096,16384,32000}
kept=$(tr , '\n' <<<"$lengths" | awk '{printf "%s%d", (NR > 1 ? "," : ""), $1 * 0.12}')
failed=0

tests=${GPU_CHECK_TESTS-$(<scripts/device-tests.txt)}
for topic in $tests; do
  log=$build/gpu-check-$topic.log
  if WINDOWKV_TEST_DEVICE=$device "$build/tests/${topic}_test" >"$log" 2>&1; then
    echo "$topic: $(grep -c '^\[       OK' "$log") tests passed on $device"
  else
    failed=1
    grep '^\[  FAILED' "$log" | sort -u
    echo "$topic: failed on $device ($log)"
  fi
done

models=${GPU_CHECK_MODELS:-}
if [[ -z $models ]]; then
  for shape in qwen2.5-1.5b llama3-8b; do
    file=$build/random-$shape-q4_K.gguf
    [[ -e $file ]] || "$build/tools/windowkv-random-model" --shape "$shape" --type q4_K -o "$file" >&2 || exit 1
    models+=" $file"
  done
fi
for model in $models; do
  echo
  echo "$(basename "$model"), $device"
  "$windowkv" bench -m "$model" --device "$device" -l "$lengths" -b full,12% -n 64 -r "$rounds" --vs llama || failed=1
  # What reading as many rows as 12 % of those prompts costs llama.cpp: the mark for our 12 %.
  llama-bench -m "$model" -ngl 99 -dev "$device" -fa on -p 0 -n 64 -d "$kept" -r "$rounds" -o md || failed=1
done
exit $failed
