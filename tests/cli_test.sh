#!/usr/bin/env bash
# The command as a user meets it: answers, files it leaves, and one clear line for everything that cannot work.
#   cli_test.sh WINDOWKV-BINARY SOURCE-DIR
set -uo pipefail
windowkv=$1
source=$2
model=$source/models/minilong-6m-q8_0.gguf
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

question="Question: What is the secret ingredient of the red soup?"
run() { "$windowkv" run -m "$model" -f "$source/demo/document.txt" -p "$question" "$@"; }

# Answers
answer=$(run --kv full 2>table) || fail "full cache"
[[ $answer == mint ]] || fail "full cache answers \"$answer\""
for word in prompt kept "KV cache" prefill "first token" decode; do
  grep -q "^$word" table || fail "the table has no line \"$word\""
done
[[ $(run --kv windowkv --kv-budget 100% 2>/dev/null) == mint ]] || fail "budget 100 %"
[[ $(run --kv windowkv -q 2>&1 >/dev/null) == "" ]] || fail "--quiet is not quiet"
[[ $(run --kv full -q <<<"" --stop "in") == m ]] || fail "--stop"
[[ $({ cat "$source/demo/document.txt"; printf '\n\n%s' "$question"; } | "$windowkv" run -m "$model" -f - --kv full -q) == mint ]] ||
  fail "prompt from standard input"
[[ $(run --temp 0.8 --seed 7 -n 20 -q) == "$(run --temp 0.8 --seed 7 -n 20 -q)" ]] || fail "a seed gives two answers"

# Trace and JSON
run --kv-budget 12% --trace trace.json --json -q >run.json || fail "--trace --json"
python3 - <<'P' || fail "the trace"
import json
t = json.load(open("trace.json"))
j = json.load(open("run.json"))
assert t["tokens"] == j["tokens"] and t["generated"] == j["generated"] and t["text"] == j["text"]
n = t["prompt_tokens"]
assert n == len(t["tokens"]) and t["policy"] == "windowkv" and t["task"] == "localization" and t["preset"] == "default"
c = t["config"]
assert set(c) == {"omega", "alpha", "p", "gamma", "lambda", "pyramid", "budget"} and c["budget"] == n * 12 // 100
row = 2 * 2 * t["model"]["kv_heads"] * t["model"]["head_size"]
total = 0
for g in t["groups"]:
    kept = [i for a, b in g["kept"] for i in range(a, b)]
    assert kept == sorted(set(kept)) and kept[-c["alpha"]:] == list(range(n - c["alpha"], n))
    windows = [i for w in g["windows"] for i in range(w * c["omega"], min(n - c["alpha"], (w + 1) * c["omega"]))]
    assert windows + list(range(n - c["alpha"], n)) == kept
    total += len(kept) * (g["last_layer"] - g["first_layer"] + 1)
assert t["kv"]["bytes"] == total * row <= 0.12 * t["kv"]["bytes_full"]
assert t["kv"]["bytes_full"] == n * row * t["model"]["layers"]
assert set(t["timing_ms"]) == {"load", "prefill", "selection", "first_token", "decode"}
json.dump(t["tokens"], open("ids.json", "w"))
P
[[ $("$windowkv" run -m "$model" --tokens ids.json --kv full -q) == mint ]] || fail "--tokens"
grep -q "KV cache .*3.0 KiB a token" <<<"$("$windowkv" inspect -m "$model")" || fail "inspect"
grep -q $'\x1b\\[1m' <<<"$("$windowkv" inspect -m "$model" -f "$source/demo/document.txt" -p "$question" --color always)" ||
  fail "inspect -f"
"$windowkv" inspect -m "$model" -f "$source/demo/document.txt" -p "$question" 2>err | head -1 >/dev/null
[[ ! -s err ]] || fail "a closed pipe: $(cat err)"
"$windowkv" bench -m "$model" -l 200 -n 4 -r 1 --json bench.json >/dev/null && python3 -m json.tool bench.json >/dev/null ||
  fail "bench"

# Evaluations
suite=$source/data/minilong-suite
one="--datasets minilong_needles --limit 1"
compare() { "$windowkv" compare -m "$model" --data "$suite" $one --policies windowkv,snapkv "$@"; }
compare --out c.jsonl --json c.json --html c.html --markdown c.md >table || fail "compare"
grep -q "^snapkv 12%" table && python3 -m json.tool c.json >/dev/null && [[ $(wc -l <c.jsonl) -eq 1 ]] || fail "compare's files"
compare --out c.jsonl >again 2>/dev/null && cmp -s table again && [[ $(wc -l <c.jsonl) -eq 1 ]] || fail "compare does not go on"
"$windowkv" longbench -m "$model" --data "$suite" $one --kv full --json l.json >/dev/null && python3 -m json.tool l.json >/dev/null ||
  fail "longbench"
{ head -1 "$suite/needles.jsonl"; echo '{"_id": 1'; } >broken.jsonl
"$windowkv" longbench -m "$model" --data broken.jsonl --kv full >/dev/null 2>err
[[ $? -eq 3 ]] && grep -q "broken.jsonl:2" err || fail "a broken row: $(cat err)"
"$windowkv" niah -m "$model" --haystack "$source/data/haystack" --lengths 300 --depths 2 --html n.html >/dev/null &&
  grep -q "<svg" n.html || fail "niah"

# Which layers know: at 100 % a rule holds all of the mass; heads and JSON say the same as the table.
retrieval() { "$windowkv" inspect -m "$model" --retrieval "$@"; }
retrieval -f "$source/demo/document.txt" -p "$question" --kv full --heads-detail --json r.json >table || fail "inspect --retrieval"
[[ $(grep -cE "^[0-5] +(all|[0-3]) .* 100.0 %" table) -eq 30 ]] || fail "the full cache loses mass: $(cat table)"
grep -q "keeps half of the mass or more in every layer" table || fail "what the retrieval table says"
python3 - <<'P' || fail "inspect --retrieval --json"
import json
r = json.load(open("r.json"))
assert r["prompts"] == 1 and len(r["layers"]) == 6 and set(r["rules"]) == {"current", "leader", "snapkv", "paper"}
for layer in r["layers"]:
    heads = layer["heads"]
    assert len(heads) == 4 and abs(layer["mass"] - sum(h["mass"] for h in heads) / 4) < 1e-9
    for name in r["rules"]:
        whole = sum(h["kept"][name] * h["mass"] for h in heads) / sum(h["mass"] for h in heads)
        assert abs(layer["kept"][name] - whole) < 1e-6 and 0 <= whole <= 1 + 1e-9
    assert layer["kept"]["current"] == 1
P
retrieval --data "$suite" --datasets minilong_needles,minilong_bios --limit 1 >table && grep -q "^2 prompts" table ||
  fail "inspect --retrieval --data"

# Ctrl-C while it generates: the table, and 130.
"$windowkv" run -m "$model" -p "Once upon a time" --no-chat --ignore-eos -n 100000 >out 2>err &
pid=$!
for _ in $(seq 100); do [[ -s out ]] && break; sleep 0.05; done
kill -INT $pid
wait $pid
code=$?
[[ $code -eq 130 ]] || fail "Ctrl-C exits $code"
grep -q "^decode" err || fail "Ctrl-C prints no table"

# Bad input
echo text >text.gguf
head -c 100000 "$model" >cut.gguf
: >empty.gguf
: >empty.txt
printf 'caf\xe9' >latin1.txt
echo '{"a": 1' >broken.json
echo '[1, "x"]' >words.json
echo '[]' >none.json
echo '[999999]' >outside.json
refuses "cannot open the model" run -m missing.gguf -p x
refuses "not a GGUF" run -m text.gguf -p x
refuses "not a GGUF" run -m empty.gguf -p x
refuses "not a file" run -m . -p x
refuses "damaged or truncated" run -m cut.gguf -p x
refuses "no prompt" run -m "$model"
refuses "the prompt is empty" run -m "$model" -f empty.txt
refuses "cannot read" run -m "$model" -f missing.txt
refuses "is a folder" run -m "$model" -f .
refuses "not UTF-8 text (byte 3)" run -m "$model" -f latin1.txt
refuses "not UTF-8" run -m "$model" -p $'\xff'
refuses "JSON list of token ids" run -m "$model" --tokens broken.json
refuses "JSON list of token ids" run -m "$model" --tokens words.json
refuses "the prompt is empty" run -m "$model" --tokens none.json
refuses "outside the vocabulary" run -m "$model" --tokens outside.json
refuses "leave out -p" run -m "$model" --tokens none.json -p x
refuses "unknown policy" run -m "$model" -p x --kv some
for budget in 0 0% 101% -5 x 12%% 1e99; do refuses "budget" run -m "$model" -p x --kv-budget=$budget; done
refuses "unknown task" run -m "$model" -p x --task guess
refuses "unknown preset" run -m "$model" -p x --preset guess
refuses "unknown pyramid" run -m "$model" -p x --pyramid guess
refuses "window size" run -m "$model" -p x --window 0
refuses "observation window" run -m "$model" -p x --observe=-3
refuses "group size" run -m "$model" -p x --group 0
refuses "temperature" run -m "$model" -p x --temp=-1
refuses "top-p" run -m "$model" -p x --top-p 2
refuses "--threads" run -m "$model" -p x -t=-1
refuses "--chunk" run -m "$model" -p x --chunk 0
refuses "--predict" run -m "$model" -p x -n=-7
refuses "no device" run -m "$model" -p x --device tpu9
refuses "cannot write" run -m "$model" -p x --trace /nonexistent/trace.json
refuses "cannot write" bench -m "$model" --json /nonexistent/bench.json
refuses "--model is required" run -p x
refuses "see windowkv --help" frobnicate
refuses "selection cases" oracle-check broken.json
refuses "unknown policy" compare -m "$model" --data "$suite" --policies some
refuses "unknown key" compare -m "$model" --data "$suite" --policies windowkv:size=3
refuses "missing" compare -m "$model" --data missing
refuses "budget" compare -m "$model" --data "$suite" --budgets 0%
refuses "cannot write" compare -m "$model" --data "$suite" --html /nonexistent/c.html
refuses "no prompt" inspect -m "$model" --retrieval
refuses "leave out -p" inspect -m "$model" --retrieval --data "$suite" -p x
refuses "missing" inspect -m "$model" --retrieval --data missing
refuses "cannot be measured" inspect -m "$model" --retrieval -p x
refuses "requires --retrieval" inspect -m "$model" -p x --json r2.json
refuses "cannot write" inspect -m "$model" --retrieval -p x --json /nonexistent/r.json
refuses "missing" longbench -m "$model" --data missing
refuses "missing" niah -m "$model" --haystack missing
refuses "depths" niah -m "$model" --haystack "$suite" --depths x
python3 -c "print([i % 4000 for i in range(300000)])" >long.json
"$windowkv" run -m "$model" --tokens long.json -n 0 --chunk 60000 >out 2>err
grep -q "needs .* are free" err || fail "a prompt larger than memory: $(cat err)"
if [[ -w /dev/full ]]; then
  run -n 4 >/dev/full 2>err && fail "a full disk goes unnoticed"
  grep -q "cannot write to standard output" err || fail "a full disk: $(cat err)"
  run -n 4 -q --trace /dev/full >/dev/null 2>err && fail "a trace on a full disk goes unnoticed"
fi
"$windowkv" run -m "$model" --tokens <(python3 -c "print([5] * 9000)") -n 1 -q 2>err >/dev/null
grep -q "trained for 8192" err || fail "no warning past the trained context"

[[ $failures -eq 0 ]] && echo "all cases hold"
exit $((failures > 0))
