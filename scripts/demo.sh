#!/usr/bin/env bash
# Reads one long document with a question about it three times: with the full KV cache, with windowkv at 12 %, and with
# the rule as it was published at 12 %.
#   scripts/demo.sh WINDOWKV-BINARY
set -euo pipefail
windowkv=$1
cd "$(dirname "$0")/.."
model=models/minilong-6m-q8_0.gguf
question="What is the secret ingredient of the red soup?"

ask() {
  printf '\n\033[1m%s\033[0m\n' "$1"
  shift
  echo "\$ windowkv run -m $model -f demo/document.txt -p \"Question: $question\" -n 32 $*"
  printf 'answer:     '
  "$windowkv" run -m "$model" -f demo/document.txt -p "Question: $question" -n 32 "$@" 2>&1
}

echo "The document: a page of Sherlock Holmes. In the middle of it stands: $(grep -o 'The secret ingredient[^.]*\.' demo/document.txt)"
ask "1. Everything kept" --kv full
ask "2. windowkv, 12 % kept" --kv-budget 12%
ask "3. The rule as published (arXiv 2503.17922), 12 % kept" --kv-budget 12% --preset paper

cat <<'T'

What to make of it: the default (2) keeps runs of text that begin where the end of the prompt looks, for each KV head and
each layer, and gives most room to the layers that were measured to need it. The published rule (3) lets the first layer
of a group choose for the whole group and gives the upper groups little room; in a small model of 6 layers the lower
layers do not yet know what is asked, so it loses most such needles. docs/selection.md has the figures; `windowkv inspect`
with the same flags shows which text was kept.
T
