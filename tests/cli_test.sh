#!/usr/bin/env bash
# The command as a user meets it: answers, traces, what it says of them and of the task.
#   cli_test.sh WINDOWKV-BINARY SOURCE-DIR
. "$(dirname "${BASH_SOURCE[0]}")/helpers.sh"

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

# Trace and JSON; of the published rule, whose windows are the same for all heads
run --preset paper --kv-budget 12% --recall off --trace trace.json --json -q >run.json || fail "--trace --json"
python3 - <<'P' || fail "the trace"
import json
t = json.load(open("trace.json"))
j = json.load(open("run.json"))
assert j["generated_tokens"] == len(t["generated"]) and t["text"] == j["text"] and t["config"] == j["config"]
n = t["prompt_tokens"]
assert n == len(t["tokens"]) and t["policy"] == "windowkv" and t["task"] == "localization" and t["preset"] == "paper"
assert t["task_decision"]["source"] == "classifier" and 0.6 <= t["task_decision"]["probability"] <= 1
c = t["config"]
assert set(c) == {"omega", "alpha", "p", "gamma", "lambda", "pyramid", "windows", "heads", "decide", "rows", "recent", "sinks", "spread", "spread_weight", "budget"} and c["budget"] == n * 12 // 100
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
run --kv-budget 12% --recall off --trace free.json -q >/dev/null || fail "--trace of the default"
python3 - <<'P' || fail "the trace of free windows"
import json
t = json.load(open("free.json"))
n, m, c = t["prompt_tokens"], t["model"], t["config"]
assert t["preset"] == "default" and c["budget"] == n * 12 // 100
layers, total = [], 0
for g in t["groups"]:
    assert g["windows"] == [] and len(g["kept_by_head"]) == m["kv_heads"]
    heads = [[i for a, b in runs for i in range(a, b)] for runs in g["kept_by_head"]]
    for head in heads:
        assert head == sorted(set(head)) and head[-1] == n - 1 and len(head) == len(heads[0])
    assert [i for a, b in g["kept"] for i in range(a, b)] == sorted(set(sum(heads, [])))
    layers += range(g["first_layer"], g["last_layer"] + 1)
    total += len(heads[0]) * (g["last_layer"] - g["first_layer"] + 1)
assert layers == list(range(m["layers"]))
assert (c["budget"] - 1) * m["layers"] <= total <= c["budget"] * m["layers"]
assert t["kv"]["bytes"] == total * 2 * 2 * m["kv_heads"] * m["head_size"]
P
# Chosen again: rows are read in the store, in its type.
run --kv-budget 12% --recall 1 --trace again.json >/dev/null 2>again || fail "--recall 1"
grep -q "^KV cache .* read of .* in the store; peak .* beside it" again || fail "the table does not say what is read in the store"
grep -q "^recall " again || fail "the table does not say how often was chosen"
python3 - <<'P' || fail "the trace of recall"
import json
t, free = json.load(open("again.json")), json.load(open("free.json"))
assert t["reads_store"] and t["recall"] == 1 and not free["reads_store"]
assert t["groups"] == free["groups"]
assert t["kv"]["bytes"] * 2 * 32 == free["kv"]["bytes"] * 34
P
[[ $("$windowkv" run -m "$model" --tokens ids.json --kv full -q) == mint ]] || fail "--tokens"
grep -q "KV cache .*3.0 KiB per token" <<<"$("$windowkv" inspect -m "$model")" || fail "inspect"
kept_text() { "$windowkv" inspect -m "$model" -f "$source/demo/document.txt" -p "$question" --kv-budget 12% --calibration none "$@"; }
kept_text --color always >shaded || fail "inspect -f"
grep -q $'\x1b\[48;5;24;38;5;231m 1-10 % ' shaded && grep -q $'\x1b\[48;5;208;38;5;16m[^ ]' shaded && grep -q $'\x1b\[2m' shaded ||
  fail "inspect's shades"
grep -qE '^tokens kept +[0-9]+ in layers 0-5 \(of [0-9]+ prompt tokens\)$' shaded || fail "inspect's equal layers: $(grep "^tokens" shaded)"
kept_text >plain
grep -q $'\x1b' plain && fail "inspect colours a file"
python3 - "$source/demo/document.txt" <<'P' || fail "inspect's plain text"
import re, sys
lines = [l for l in open("plain").read().split("averaged over the line.")[1].splitlines() if l.strip()]
assert all(re.match(r" *(<1|\d+) %  |       ", l) for l in lines), lines
words = " ".join(l[7:] for l in lines).split()
missing = [w for w in open(sys.argv[1]).read().split() if w not in words]
assert not missing, missing
shares = [int(m[1]) for m in (re.match(r" *(\d+) %", l) for l in lines) if m]
assert max(shares) > 60 and min(shares) < 20 and len(shares) > 10, shares
P
for env in NO_COLOR=1 TERM=dumb TERM=xterm; do # on a terminal
  env -u NO_COLOR TERM=xterm $env script -qec "'$windowkv' inspect -m '$model' -f '$source/demo/document.txt' -p x --kv-budget 12%" /dev/null </dev/null >typed 2>&1
  if grep -q $'\x1b\[2m' typed; then [[ $env == TERM=xterm ]]; else [[ $env != TERM=xterm ]]; fi || fail "inspect's colours with $env"
done
kept_text --preset paper --detail >detail
[[ $(grep -cE "^layers? [0-9-]+: [0-9]+ tokens$" detail) -ge 2 ]] || fail "inspect --detail: $(grep layer detail)"
kept_text --layers 2 >one && [[ $(grep -cE "^layers? .*: [0-9]+ tokens in each KV head$" one) -eq 1 ]] && grep -q "^layer 2: " one || fail "inspect --layers"
kept_text --layers 0,2-3 >three && [[ $(grep -cE "^layer [023]: " three) -eq 3 ]] || fail "inspect --layers with a range"
grep -q "prompts of up to 1024 tokens are kept whole" <<<"$("$windowkv" inspect -m "$model" -p x)" || fail "inspect of a short prompt"
refuses "such as 2-5; the model has layers 0-5" inspect -m "$model" -p x --layers 3-6
refuses "give one with -p" inspect -m "$model" --layers 3
"$windowkv" inspect -m "$model" --lengths 8k,16k >table && grep -q "^8192 " table && grep -q "^16384\* " table &&
  grep -q "^\* longer than the model's trained context of 8192 tokens" table || fail "inspect marks no lengths: $(cat table)"
"$windowkv" inspect -m "$model" -f "$source/demo/document.txt" -p "$question" 2>err | head -1 >/dev/null
[[ ! -s err ]] || fail "a closed pipe: $(cat err)"

# The task: told from the text, given, or neutral
run -n 1 2>chosen >/dev/null
grep -q "^policy .*localization (classifier, p = " chosen || fail "the table does not say who chose the task: $(cat chosen)"
task_of() { "$windowkv" run -m "$model" "$@" -n 1 --json -q | python3 -c '
import json, sys; t = json.load(sys.stdin); print(t["task"], t["task_decision"]["source"])'; }
[[ $(task_of -f "$source/demo/document.txt" -p "Summarize the text above in one paragraph.") == "aggregation classifier" ]] ||
  fail "--task auto on a summary"
[[ $(task_of -f "$source/demo/document.txt" -p "$question" --task aggregation) == "aggregation given" ]] || fail "--task aggregation"
[[ $(task_of -p "$question" --task-threshold 1) == "localization neutral" ]] || fail "--task-threshold"
[[ $(task_of --tokens ids.json) == "localization classifier" ]] || fail "--task auto on ids"
classify() { "$windowkv" classify "$@"; }
[[ $(classify -f "$source/demo/document.txt" -p "$question") == "localization (classifier, p = "* ]] || fail "classify"
[[ $(echo "Summarize." | classify -f - --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["task"])') == aggregation ]] ||
  fail "classify --json"
[[ $(classify -p "$question" --why 3 | wc -l) -eq 4 ]] || fail "classify --why"
[[ $(classify --jsonl "$source/data/minilong-suite/needles.jsonl" | grep -c '"task":"localization"') -ge 50 ]] || fail "classify --jsonl"
classify --bench 1 >/dev/null || fail "classify --bench"
python3 - "$source" <<'P' || fail "unpacking the prompts"
import lzma, sys
rows = {}
for split in ("train", "valid", "test"):
    rows[split] = lzma.open(f"{sys.argv[1]}/data/task-prompts/{split}.jsonl.xz").read().decode().splitlines(True)
open("test.jsonl", "w").writelines(rows["test"])
open("small.jsonl", "w").writelines(rows["train"][::40])
P
classify --eval test.jsonl --json | python3 -c '
import json, sys; s = json.load(sys.stdin)["all"]; assert s["rows"] == 834 and s["accuracy"] >= 0.92, s' || fail "accuracy on unseen phrasings"
echo "{\"text\": 1}" >rows.jsonl
echo "{\"text\": \"a\", \"label\": \"aggregation\"}" >one.jsonl
train() { classify --train small.jsonl --valid test.jsonl --out "$1"; }
train a.task >/dev/null && train b.task >/dev/null && cmp -s a.task b.task || fail "training does not repeat itself"
classify -p "$question" --classifier a.task >/dev/null || fail "--classifier"
refuses "nothing to classify" classify
refuses "cannot read" classify --classifier missing.task -p x
refuses "not a task classifier" classify --classifier "$source/README.md" -p x
refuses "--out" classify --train small.jsonl
refuses "cannot write" classify --train small.jsonl --out /nonexistent/x.task
refuses "rows.jsonl:1: " classify --eval rows.jsonl
refuses "both tasks" classify --train one.jsonl --out x.task
refuses "BERT family" run -m "$model" -p x --classifier "$model"
refuses "needs --classifier" run -m "$model" -p x --classifier-labels localization,aggregation
refuses "--task-threshold" run -m "$model" -p x --task-threshold 0.2

# Ctrl-C while it generates: the table, and 130.
"$windowkv" run -m "$model" -p "Once upon a time" --no-chat --ignore-eos -n 100000 >out 2>err &
pid=$!
for _ in $(seq 100); do [[ -s out ]] && break; sleep 0.05; done
kill -INT $pid
wait $pid
code=$?
[[ $code -eq 130 ]] || fail "Ctrl-C exits $code"
grep -q "^decode" err || fail "Ctrl-C prints no table"

# A report through a link
echo old >real.json
ln -s real.json link.json
run -n 1 -q --trace link.json >/dev/null && [[ -L link.json ]] && python3 -m json.tool real.json >/dev/null || fail "--trace through a link"

finish
