#!/usr/bin/env bash
# Asks a small chat model (SmolLM2-135M-Instruct) a short question, a question about a story of several pages, and for a
# summary of it, each with the full KV cache and with a compressed one. Where the model cannot be downloaded, MiniLong,
# which comes with windowkv, answers the question about a page.
#   scripts/demo.sh WINDOWKV-BINARY
set -euo pipefail
windowkv=$1
cd "$(dirname "$0")/.."
table=$(mktemp)
trap 'rm -f "$table"' EXIT

title() { printf '\n\033[1m%s\033[0m\n' "$1"; }

# ask FLAGS...: the command, the answer, and the figures of the closing table in one line.
ask() {
  local word
  printf '\n$ windowkv run -m %s' "${model##*/}"
  for word in "$@"; do [[ $word == *' '* ]] && printf ' "%s"' "$word" || printf ' %s' "$word"; done
  printf '\n'
  "$windowkv" run -m "$model" "$@" 2>"$table" || { cat "$table" >&2; exit 1; }
  awk '$1 == "prompt"  { prompt = $2 }
       $1 == "KV"      { kept = $3 " " $4; full = $7 " " $8 }
       $1 == "prefill" { prefill = $4 }
       $1 == "decode"  { decode = $4 }
       END { printf "[%d-token prompt; KV cache: %s of %s; prefill: %s tokens/s, decode: %s tokens/s]\n",
                    prompt, kept, full, prefill, decode }' "$table"
}

minilong() {
  model=models/minilong-6m-q8_0.gguf
  local question="Question: What is the secret ingredient of the red soup?"
  title "A question about a page of Sherlock Holmes, with one sentence about a red soup added"
  ask -f demo/document.txt -p "$question" -n 32 --kv full
  ask -f demo/document.txt -p "$question" -n 32 --kv-budget 12%
}

smollm2() {
  title "1. A short question. By default, prompts of up to 1,024 tokens are kept whole, so the answer is the same."
  ask -p "What is the boiling point of water in degrees Celsius?" -n 40 --kv full
  ask -p "What is the boiling point of water in degrees Celsius?" -n 40

  title "2. A question about a long document: the start of a Sherlock Holmes story, with one sentence about a red soup added"
  local question="Question: What is the secret ingredient of the red soup?"
  ask -f demo/story.txt -p "$question" -n 32 --kv full
  ask -f demo/story.txt -p "$question" -n 32 --kv-budget 12%

  title "3. A summary of the same document"
  ask -f demo/story.txt -p "Summarize this story in two sentences." -n 64 --kv full
  ask -f demo/story.txt -p "Summarize this story in two sentences." -n 64 --kv-budget 12%
}

if model=$(scripts/fetch-model.sh); then
  smollm2
  cat <<'T'

What to look for: the fact that stands in one place should still be found where each token reads an eighth of the cache; the
rest lies in the prefix store, from which the answer chooses again. A summary draws on the whole text, so it changes more; this
model is very small, and its summaries are loose even with the full cache. To try a model of your own, or one from Hugging Face:

  build/release/windowkv run -m MODEL.gguf -f DOCUMENT.txt -p "Question: ..."
  build/release/windowkv run -hf USER/REPO -f DOCUMENT.txt -p "Question: ..."
  build/release/windowkv chat -m MODEL.gguf -f DOCUMENT.txt
T
else
  echo "demo: using MiniLong, the small model in models/, instead of SmolLM2" >&2
  minilong
fi
