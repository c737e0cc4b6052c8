# What the shell tests share; sourced with WINDOWKV-BINARY SOURCE-DIR.
set -uo pipefail
windowkv=$(realpath "$1")
source=$2
model=$source/models/minilong-6m-q8_0.gguf
suite=$source/data/minilong-suite
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# refuses WHAT-THE-LINE-SAYS ARGUMENTS...: exit code not 0 and not a crash, nothing on stdout, one line on stderr.
refuses() {
  local expected=$1 code
  shift
  timeout 60 "$windowkv" "$@" >out 2>err </dev/null
  code=$?
  [[ $code -ne 0 && $code -lt 124 ]] || fail "exit code $code of: $*"
  [[ ! -s out ]] || fail "standard output of: $*"
  [[ $(wc -l <err) -eq 1 ]] || fail "$(wc -l <err) lines of error of: $* ($(head -3 err))"
  grep -qF -- "$expected" err || fail "no \"$expected\" in: $(cat err)"
  rm -f out err
  [[ -z $(find . -name '*part*') ]] || fail "a file is left half-written by: $*"
}

# Asks about the demo's document; the answer is "mint".
question="Question: What is the secret ingredient of the red soup?"
run() { "$windowkv" run -m "$model" -f "$source/demo/document.txt" -p "$question" "$@"; }

# The end of a test.
finish() {
  [[ $failures -eq 0 ]] && echo "all cases hold"
  exit $((failures > 0))
}
