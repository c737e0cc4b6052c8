#!/usr/bin/env bash
# windowkv beside llama.cpp's tools on the same files, in turn (docs/performance.md has the figures).
#   scripts/bench.sh BUILD-DIR [FLAGS OF windowkv bench...]
# MiniLong and the shape of Qwen2.5-0.5B with random weights, which is made in BUILD-DIR/models on first use.
set -euo pipefail
build=$1
shift
source=$(cd "$(dirname "$0")/.." && pwd)
random=$build/models/qwen2.5-0.5b-q8_0.gguf
if [[ ! -f $random ]]; then
  mkdir -p "$build/models"
  "$build/tools/windowkv-random-model" --shape qwen2.5-0.5b --type q8_0 -o "$random"
fi
for model in "$source/models/minilong-6m-q8_0.gguf" "$random"; do
  echo "$(basename "$model" .gguf)"
  "$build/windowkv" bench -m "$model" -l 1024,4096,8192 -b 12%,full -r 5 --vs llama "$@"
  echo
done
