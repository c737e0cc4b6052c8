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

# Measurements
"$windowkv" bench -m "$model" -l 200 -n 4 -r 1 --batch 1,3 -ctk q8_0 --json bench.json >table || fail "bench"
python3 - <<'P' || fail "bench --json"
import json
b = json.load(open("bench.json"))
assert b["kv_type"] == {"k": "q8_0", "v": "f16"}
for r in b["results"]:
    assert [d["sequences"] for d in r["decode"]] == [1, 3] and all(len(d["tokens_per_second"]) == 1 for d in r["decode"])
    m = r["memory"]
    parts = [m[k] for k in ("program", "weights", "kv", "prompt", "compute")]
    # Sanitizers hold freed memory back, so only the sum's upper end can be checked here.
    assert min(parts) > 0 and sum(parts) < 1.25 * m["peak_rss"]
P
grep -q "measured RSS" table || fail "bench explains no memory"
[[ $(run --kv full --kv-type q8_0 -q) == mint ]] || fail "--kv-type q8_0"

# llama.cpp's tools, played by scripts that print what theirs do: what is asked of them, and what comes of it.
mkdir bin
cat >bin/llama-bench <<'P'
#!/bin/sh
echo "llama-bench $*" >>asked
echo '[{"avg_ts": 1000.0}]'
P
cat >bin/llama-batched-bench <<'P'
#!/bin/sh
echo "llama-batched-bench $*" >>asked
echo '{"t_pp": 0.2, "speed_tg": 500.0}'
P
chmod +x bin/*
beside() { PATH=$PWD/bin:$PATH "$windowkv" bench -m "$model" -b 12% --vs llama -t 1 "$@"; }
beside -l 200 -n 4 -r 2 --batch 1,3 --json vs.json >table || fail "bench --vs"
grep -q "vs llama.cpp" table || fail "bench --vs prints no table"
python3 - <<'P' || fail "bench --vs --json"
import json
one, three = json.load(open("vs.json"))["results"][0]["llama"]
assert one["llama_sequences"] == 1 and three["llama_sequences"] == 3
assert one["llama_prefill_ms"] == [200.0] * 2 and three["llama_tokens_per_second"] == [500.0] * 2
assert three["llama_kv_bytes"] == 3 * 256 * 2 * 2 * 2 * 64 * 6
asked = open("asked").read().splitlines()
assert len(asked) == 6 and all("-t 1" in line and "-dev none" in line for line in asked)
assert sum("-npp 200 -ntg 4 -npl 3" in line for line in asked) == 2 and sum("-d 200" in line for line in asked) == 2
P
beside -l 1000 -n 8 -r 1 --batch 20 --equal-memory >table || fail "bench --equal-memory"
grep -qE "^1000 +12% +20 +2 " table || fail "sequences of equal memory: $(tail -1 table)"

# Evaluations
suite=$source/data/minilong-suite
one="--datasets minilong_needles --limit 1"
compare() { "$windowkv" compare -m "$model" --data "$suite" $one --policies windowkv,snapkv "$@"; }
compare --out c.jsonl --json c.json --markdown c.md >table || fail "compare"
grep -q "^snapkv 12%" table && python3 -m json.tool c.json >/dev/null && [[ $(wc -l <c.jsonl) -eq 3 ]] || fail "compare's files"
compare --out c.jsonl >again 2>/dev/null && cmp -s table again && [[ $(wc -l <c.jsonl) -eq 3 ]] || fail "compare does not go on"
compare --policies windowkv,snapkv,tova --out c.jsonl >again 2>/dev/null && [[ $(wc -l <c.jsonl) -eq 4 ]] &&
  grep -q "^tova 12%" again || fail "compare runs a policy more, and no other"
# Fidelity alone, on rows of several files and kinds; the second run takes the full cache's answers from the file.
"$windowkv" ruler -m "$model" --haystack "$source/data/haystack" -l 600 --tasks niah_single_2 --samples 1 \
  --generate-only ruler-rows.jsonl || fail "ruler --generate-only"
follow() {
  "$windowkv" compare -m "$model" --data ruler-rows.jsonl --data "$suite/needles.jsonl" "$suite/bios.jsonl" --limit 1 \
    --policies snapkv --budgets 12% --follow --reference full.jsonl "$@"
}
follow --json cf.json --markdown cf.md >table && follow >again && cmp -s table again || fail "compare --follow"
python3 - <<'P' || fail "compare --follow's files"
import json
datasets = {"niah_single_2", "minilong_needles", "minilong_bios"}
full, snapkv = json.load(open("cf.json"))["contenders"]
assert set(full["kl_by_dataset"]) == set(snapkv["kl_by_dataset"]) == datasets
assert "overall" in full and "overall" not in snapkv and full["mean_kl"] == 0 and full["same_answer"] == 1
assert snapkv["intervals"]["mean_kl"]["low"] <= snapkv["mean_kl"] and 0 <= snapkv["same_answer"] <= 1
rows = [json.loads(line) for line in open("full.jsonl")]
assert {r["dataset"] for r in rows} == datasets and all(r["prompt"] and r["answer"] and r["model"] for r in rows)
assert len(open("cf.md").readline().split("|")) == 2 + 2 + 3 + 7
P
compare --niah-lengths 300 --niah-depths 2 --niah-haystack "$source/data/haystack" --niah-needle-set minilong \
  --niah-predict 16 --json cn.json --markdown cn.md --out c.jsonl >table || fail "compare with needles"
python3 - <<'P' || fail "compare's needles"
import json
r = json.load(open("cn.json"))
assert r["samples"] == 3 and len(r["niah"]["contenders"]) == 3
for c, n in zip(r["contenders"], r["niah"]["contenders"]):
    assert c["policy"] == n["policy"] and abs(c["datasets"]["niah"]["mean"] - n["rouge1"]["mean"]) < 1e-9
P
[[ $(grep -c "^snapkv 12%" table) -eq 2 && $(grep -c "^| snapkv" cn.md) -eq 2 && $(wc -l <c.jsonl) -eq 10 ]] ||
  fail "compare's files with needles"
"$windowkv" longbench -m "$model" --data "$suite" $one --kv full --json l.json >/dev/null && python3 -m json.tool l.json >/dev/null ||
  fail "longbench"
mkdir longbench
echo '{"_id": "1", "dataset": "trec", "context": "a", "input": "b", "answers": ["c"], "all_classes": ["c"], "length": 5000}' \
  >longbench/trec_e.jsonl
"$windowkv" longbench -m "$model" --data longbench --e --kv full >table && grep -q "4-8k" table || fail "longbench --e"
{ head -1 "$suite/needles.jsonl"; echo '{"_id": 1'; } >broken.jsonl
"$windowkv" longbench -m "$model" --data broken.jsonl --kv full >/dev/null 2>err
[[ $? -eq 3 ]] && grep -q "broken.jsonl:2" err || fail "a broken row: $(cat err)"
"$windowkv" niah -m "$model" --haystack "$source/data/haystack" --lengths 300 --depths 2 --json n.json >/dev/null || fail "niah"
if python3 -c "import matplotlib" 2>/dev/null; then
  for results in n c cf; do
    "$source/scripts/plot.py" $results.json -o $results.svg && grep -q "<svg" $results.svg || fail "plot.py of $results.json"
  done
fi
# The text that comes with windowkv is found from anywhere, through a link too.
ln -s "$(realpath "$windowkv")" wkv
./wkv niah -m "$model" --lengths 300 --depths 1 --policies full -n 1 >/dev/null || fail "the default haystack"
WINDOWKV_DATA=$source/data ./wkv niah -m "$model" --lengths 300 --depths 1 --policies full -n 1 >/dev/null || fail "WINDOWKV_DATA"
WINDOWKV_DATA=/nonexistent refuses "no haystack at /nonexistent/haystack" niah -m "$model" --lengths 300
cp wkv alone && windowkv=./alone refuses "share/windowkv/haystack or $PWD/data/haystack; give text" niah -m "$model" --lengths 300
rm alone

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

ruler() { "$windowkv" ruler -m "$model" --haystack "$source/data/haystack" "$@"; }
two="-l 700,1k --tasks niah_single_1,niah_single_2 --samples 2 --policies full,snapkv"
ruler $two --out r.jsonl --json r.json --markdown r.md >table || fail "ruler"
[[ $(grep -c "^| .*tokens | full | snapkv 12% |$" r.md) -eq 2 && $(grep -c "^|--|--:|--:|$" r.md) -eq 3 ]] || fail "ruler's Markdown: $(cat r.md)"
grep -q "^niah_single_2 " table && grep -q "^1024 " table && [[ $(wc -l <r.jsonl) -eq 16 ]] || fail "ruler's table"
python3 - <<'P' || fail "ruler's files"
import json
rows = [json.loads(line) for line in open("r.jsonl")]
summary = json.load(open("r.json"))
for row in rows:
    found = sum(o.lower() in row["pred"].lower() for o in row["outputs"]) / len(row["outputs"])
    assert row["score"] == 100 * found and row["prompt_tokens"] + 128 <= row["length"]
assert len(summary["scores"]) == 8 and len(summary["averages"]) == 4
for s in summary["scores"]:
    name = lambda r: r["policy"] if r["budget"] is None else r["policy"] + " " + r["budget"]
    mine = [r["score"] for r in rows if (name(r), r["length"], r["task"]) == (s["policy"], s["length"], s["task"])]
    assert len(mine) == s["samples"] == 2 and sum(mine) / 2 == s["score"]
P
sort r.jsonl | cut -d, -f1 >keys
head -c $(($(head -5 r.jsonl | wc -c) + 30)) r.jsonl >cut.jsonl # killed in the middle of a line
ruler $two --out cut.jsonl >again || fail "ruler does not go on"
cmp -s table again && sort cut.jsonl | cut -d, -f1 | cmp -s keys || fail "ruler goes on otherwise"
# A task is part of what an answer depends on: rows of another --task are not taken up.
for task in given aggregation auto; do
  ruler -l 700 --tasks niah_single_1 --samples 1 --policies windowkv,snapkv --task $task --out t.jsonl >/dev/null || fail "ruler --task $task"
  "$windowkv" niah -m "$model" --haystack "$source/data/haystack" --lengths 300 --depths 1 --policies windowkv --task $task \
    --out tn.jsonl >/dev/null || fail "niah --task $task"
  "$windowkv" compare -m "$model" --data "$source/data/minilong-suite" --datasets minilong_needles --limit 1 --policies windowkv \
    --task $task --out tc.jsonl >/dev/null || fail "compare --task $task"
done
python3 - <<'P' || fail "tasks in the rows"
import json
read = lambda name: [json.loads(line) for line in open(name)]
decided = lambda rows: [(r["task_decision"]["task"], r["task_decision"]["source"]) for r in rows]
ruler, niah = read("t.jsonl"), read("tn.jsonl")
assert [r["task_decision"] for r in ruler if r["policy"] == "snapkv"] == [None] * 3
for rows in ([r for r in ruler if r["policy"] == "windowkv"], niah):
    assert decided(rows)[:2] == [("localization", "given"), ("aggregation", "given")] and len(rows) == 3, rows
    assert decided(rows)[2][1] in ("classifier", "neutral") and 0.5 <= rows[2]["task_decision"]["probability"] <= 1, rows
assert [r["task"] for r in read("tc.jsonl") if r["policy"] != "full"][:2] == ["localization", "aggregation"]
assert len(read("tc.jsonl")) == 6
P
ruler -l 600 --samples 1 --generate-only samples.jsonl 2>err
[[ $? -eq 3 ]] && grep -q "cwe at 600 tokens: too short" err && grep -q "qa_1 needs" err || fail "ruler's short lengths: $(cat err)"
python3 - <<'P' || fail "ruler --generate-only"
import json
rows = [json.loads(line) for line in open("samples.jsonl")]
assert len(rows) == 9 and {r["task"] for r in rows} >= {"niah_multiquery", "fwe"}, len(rows)
assert all(r["length"] < r["length_w_model_temp"] <= 600 and r["outputs"] for r in rows)
P

# Calibration: measured into a file that is found beside the model, by its fingerprint.
mkdir -p here && cp "$model" here/m.gguf
head -2 "$suite/needles.jsonl" >needles.jsonl
"$windowkv" calibrate -m here/m.gguf --data needles.jsonl -n 4 -o here/m.calibration.json >table 2>err || fail "calibrate: $(cat err)"
[[ $(wc -l <table) -eq 7 ]] && grep -q "KL at 4x *share" table || fail "calibrate's table: $(cat table)"
python3 - <<'P' || fail "the calibration"
import json
c = json.load(open("here/m.calibration.json"))
assert c["model"] == "MiniLong" and c["prompts"] == 2 and c["budget_percent"] == 12
assert c["fingerprint"] == "020c36caa8f91ffb"
assert len(c["layer_shares"]) == 6 and abs(sum(c["layer_shares"]) - 6) < 1e-9 and min(c["layer_shares"]) > 0
P
[[ $(ls here) == "m.calibration.json m.gguf" || $(ls here) == $'m.calibration.json\nm.gguf' ]] || fail "calibrate leaves $(ls here)"
used() { "$windowkv" run -m here/m.gguf -f "$source/demo/document.txt" -n 1 --kv-budget 12% "$@" 2>&1 >/dev/null; }
kept() { used "$@" | grep "^kept"; }
even=$(kept --calibration none)
grep -q "layers 0-5" <<<"$even" || fail "--calibration none: $even"
[[ $(kept) != "$even" ]] || fail "the calibration beside the model is not used"
[[ $(kept) == "$(kept --calibration here/m.calibration.json)" ]] || fail "--calibration FILE"
grep -q "calibration here/m.calibration.json" <<<"$(used)" || fail "run does not say which calibration it uses"
mv here/m.calibration.json right.json
# Without one beside it, the one that comes with windowkv.
built_in=$(kept --calibration "$source/models/minilong-6m.calibration.json")
[[ $(kept) == "$built_in" ]] || fail "the calibration that is built in is not used"
grep -q "calibration built in" <<<"$(used)" || fail "run does not say that the calibration is built in"
grep -q "calibration none" <<<"$(used --calibration none)" || fail "run does not say that there is no calibration"
grep -q "^calibration *built in" <<<"$("$windowkv" inspect -m here/m.gguf)" || fail "inspect does not name the calibration"
sed 's/020c36caa8f91ffb/0123456789abcdef/' right.json >here/other.calibration.json
[[ $(kept) == "$built_in" ]] || fail "another model's calibration is used"
refuses "made for another model" run -m here/m.gguf -p x --calibration here/other.calibration.json
echo '{"model": "MiniLong"' >here/other.calibration.json
grep -q "warning: here/other.calibration.json: not a calibration" <<<"$(used)" || fail "a broken calibration is not named"
[[ $(kept) == "$built_in" ]] || fail "a broken calibration blocks the command"
rm here/other.calibration.json
refuses "not a calibration" run -m here/m.gguf -p x --calibration needles.jsonl
echo '{"model": "MiniLong", "fingerprint": "020c36caa8f91ffb", "layer_shares": [0, 1, 1, 1, 1, 2]}' >zero.json
refuses "numbers from" run -m here/m.gguf -p x --calibration zero.json
refuses "missing.json" run -m here/m.gguf -p x --calibration missing.json
refuses "missing" calibrate -m here/m.gguf --data missing
refuses "missing" calibrate -m here/m.gguf -f missing
refuses "missing" calibrate -m here/m.gguf --prompts missing
refuses "cannot write" calibrate -m here/m.gguf --data needles.jsonl -o /nonexistent/c.json
refuses "--percent" calibrate -m here/m.gguf --data needles.jsonl --percent 0
refuses "--predict" calibrate -m here/m.gguf --data needles.jsonl -n 1
refuses "--limit" calibrate -m here/m.gguf --data needles.jsonl --limit 0
: >empty.jsonl
refuses "no usable sample" calibrate -m here/m.gguf --data empty.jsonl -o here/none.calibration.json
refuses "no prompt" calibrate -m here/m.gguf --prompts empty.jsonl -o here/none.calibration.json
# Prompts without labels, and plain text.
printf 'Who wrote this?\n{"prompt": "What is a violin?"}\n' >prompts.jsonl
echo '{"question": "x"}' >no-prompt.jsonl
refuses "line 1" calibrate -m here/m.gguf --prompts no-prompt.jsonl
"$windowkv" calibrate -m here/m.gguf -n 4 --prompts prompts.jsonl -f "$source/demo/document.txt" --length 300 --limit 2 -o here/t.calibration.json >/dev/null 2>err || fail "calibrate from text: $(cat err)"
python3 -c 'import json; assert json.load(open("here/t.calibration.json"))["prompts"] == 4' || fail "calibrate's prompts"
rm here/t.calibration.json
# Stopped, it keeps what is measured and goes on from there.
"$windowkv" calibrate -m here/m.gguf --data "$suite" -o here/cut.calibration.json >out 2>err &
pid=$!
for _ in $(seq 100); do [[ -s here/cut.calibration.progress.jsonl ]] && break; sleep 0.1; done
kill -INT $pid
wait $pid
code=$?
[[ $code -eq 130 && ! -s out ]] && grep -q "run the same command again to continue from here/cut.calibration.progress.jsonl" err || fail "Ctrl-C of calibrate: $code, $(cat err)"
[[ ! -e here/cut.calibration.json && -s here/cut.calibration.progress.jsonl ]] || fail "calibrate leaves after Ctrl-C: $(ls here)"
rm here/cut.*

# Which layers know: at 100 % a rule holds all of the mass; heads and JSON say the same as the table.
retrieval() { "$windowkv" inspect -m "$model" --retrieval "$@"; }
retrieval -f "$source/demo/document.txt" -p "$question" --kv full --heads-detail --json r.json >table || fail "inspect --retrieval"
[[ $(grep -cE "^[0-5] +(all|[0-3]) .* 100.0 %" table) -eq 30 ]] || fail "the full cache loses mass: $(cat table)"
grep -q "keep at least half of the mass in every layer" table || fail "what the retrieval table says"
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

# What is stopped shows what it has, says how to go on, and leaves no file behind.
python3 -c "
import json
for i in range(400):
  print(json.dumps({'_id': str(i), 'dataset': 'own', 'prompt': 'word ' * 800, 'metric': 'exact', 'task': 'localization', 'answers': ['x'], 'max_new_tokens': 1}))" >many.jsonl
# stopped SIGNAL CODE RESULTS ARGUMENTS...: once the results file has two lines
stopped() {
  local signal=$1 expected=$2 results=$3 pid code
  shift 3
  "$windowkv" "$@" >out 2>err &
  pid=$!
  for _ in $(seq 600); do [[ -s $results && $(wc -l <"$results") -ge 2 ]] && break; sleep 0.05; done
  kill -"$signal" $pid
  wait $pid
  code=$?
  [[ $code -eq $expected ]] || fail "SIG$signal: exit code $code of: $*"
  [[ $(grep -c "interrupted" err) -eq 1 ]] && grep -q "continue from $results" err || fail "SIG$signal: $(cat err)"
  [[ -z $(find . -name '*.part') && ! -e stopped.json ]] || fail "SIG$signal leaves files: $(ls -A)"
}
stopped INT 130 sl.jsonl longbench -m "$model" --data many.jsonl --kv full --out sl.jsonl --json stopped.json
grep -qE "^own +localization +[0-9]+ " out && grep -qE "the table shows the [0-9]+ of 400 samples" err || fail "longbench, stopped: $(cat out err)"
stopped TERM 143 sc.jsonl compare -m "$model" --data many.jsonl --policies snapkv --out sc.jsonl --json stopped.json
grep -q "^snapkv 12%" out && grep -qE "the table shows the [0-9]+ of 400 samples" err || fail "compare, stopped: $(cat out err)"
stopped HUP 129 sn.jsonl niah -m "$model" -l 1500 --samples 40 --depths 5 --out sn.jsonl --json stopped.json
grep -q "^windowkv 12%" out || fail "niah, stopped: $(cat out)"
stopped INT 130 sr.jsonl ruler -m "$model" -l 2k --tasks niah_single_1 --samples 50 --out sr.jsonl --json stopped.json
grep -q "^niah_single_1 " out || fail "ruler, stopped: $(cat out)"
"$windowkv" bench -m "$model" -l 200,4k -n 1 -r 500 --json stopped.json >out 2>err &
pid=$!
sleep 8 # on a busy machine too, long enough for the first measurement
kill -INT $pid
wait $pid
[[ $? -eq 130 ]] && grep -q "^200 " out && grep -qE "the [0-9]+ of 2000 measurements .*; stopped.json was not written" err || fail "bench, stopped: $(cat out err)"
[[ ! -e stopped.json ]] || fail "bench, stopped, leaves a file"

# Results into pipes and devices; reports through links.
"$windowkv" longbench -m "$model" --data needles.jsonl --kv full --out /dev/stdout 2>err | cat >out
[[ $(grep -c '^{"key"' out) -eq 2 ]] && grep -q "^overall" out || fail "--out /dev/stdout: $(cat err)"
mkfifo fifo
timeout 60 cat fifo >from &
timeout 60 "$windowkv" longbench -m "$model" --data needles.jsonl --kv full --out fifo >/dev/null || fail "--out FIFO"
wait
[[ $(wc -l <from) -eq 2 ]] || fail "--out FIFO writes $(wc -l <from) lines"
[[ ! -w /dev/full ]] || refuses "No space left" longbench -m "$model" --data needles.jsonl --kv full --out /dev/full
[[ ! -w /dev/full ]] || refuses "No space left" compare -m "$model" --data needles.jsonl --policies snapkv --out /dev/full
echo old >real.json
ln -s real.json link.json
run -n 1 -q --trace link.json >/dev/null && [[ -L link.json ]] && python3 -m json.tool real.json >/dev/null || fail "--trace through a link"

# Progress in a file: whole lines, and few.
"$windowkv" longbench -m "$model" --data many.jsonl --kv full --limit 100 >/dev/null 2>err || fail "longbench: $(cat err)"
[[ $(wc -l <err) -le 11 ]] && ! grep -q $'[\r\x1b]' err || fail "progress floods a file: $(cat err)"

# Bad input
echo text >text.gguf
head -c 100000 "$model" >cut.gguf
: >empty.gguf
: >empty.txt
printf 'caf\xe9' >latin1.txt
echo '{"a": 1' >broken.json
echo '[1, "x"]' >words.json
echo '[{"case": {"n": 8, "layers": 1, "heads": 1, "kv_heads": 1, "dim": 0}, "answer": {}}]' >flat-case.json
echo '[]' >none.json
echo '[999999]' >outside.json
refuses "missing.gguf: cannot open: No such file" run -m missing.gguf -p x
refuses "not a GGUF" run -m text.gguf -p x
refuses "not a GGUF" run -m empty.gguf -p x
refuses "not a file" run -m . -p x
mkfifo pipe.gguf
refuses "not a file" run -m pipe.gguf -p x
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
refuses "omit -p" run -m "$model" --tokens none.json -p x
refuses "unknown policy" run -m "$model" -p x --kv some
for budget in 0 0% 101% -5 x 12%% 1e99; do refuses "budget" run -m "$model" -p x --kv-budget=$budget; done
refuses "unknown task" run -m "$model" -p x --task guess
refuses "unknown preset" run -m "$model" -p x --preset guess
refuses "unknown pyramid" run -m "$model" -p x --pyramid guess
refuses "unknown window placement" run -m "$model" -p x --windows guess
refuses "unknown combination of heads" run -m "$model" -p x --heads guess
refuses "unknown deciding layer" run -m "$model" -p x --decide guess
refuses "unknown combination of queries" run -m "$model" -p x --rows guess
refuses "needs free windows" run -m "$model" -p x --windows grid --heads kv
for flag in window observe group lambda recent sinks spread spread-weight; do
  for value in x 1.5 99999999999; do refuses "$flag \"$value\"" run -m "$model" -p x --$flag $value; done
done
refuses "recent tokens is -1" run -m "$model" -p x --recent=-1
refuses "sinks is 70000" run -m "$model" -p x --sinks 70000
refuses "window size" run -m "$model" -p x --window 0
refuses "observation window" run -m "$model" -p x --observe=-3
refuses "group size" run -m "$model" -p x --group 0
refuses "temperature" run -m "$model" -p x --temp=-1
refuses "top-p" run -m "$model" -p x --top-p 2
refuses "--threads" run -m "$model" -p x -t=-1
refuses "--chunk" run -m "$model" -p x --chunk 0
refuses "--predict" run -m "$model" -p x -n=-7
refuses "unknown KV cache type" run -m "$model" -p x --kv-type q5_0
refuses "unknown KV cache type" run -m "$model" -p x -ctv f32
refuses "--batch" bench -m "$model" --batch 0
refuses "--vs" bench -m "$model" --vs some
refuses "--vs" bench -m "$model" --equal-memory
printf '#!/bin/sh\necho first >&2\necho no such model >&2\nexit 3\n' >bin/llama-bench
PATH=$PWD/bin:$PATH refuses "llama-bench failed: no such model" bench -m "$model" -l 50 -n 1 -r 1 --vs llama
printf '#!/bin/sh\necho text\n' >bin/llama-bench
PATH=$PWD/bin:$PATH refuses "printed no JSON" bench -m "$model" -l 50 -n 1 -r 1 --vs llama
refuses "a server serves one client" bench -m "$model" --vs llama --rpc 127.0.0.1:1
PATH=/nonexistent "$windowkv" bench -m "$model" --vs llama 2>err && fail "llama-bench that is not there"
grep -q "llama-bench is not on PATH" err || fail "llama-bench that is not there: $(cat err)"
refuses "no device" run -m "$model" -p x --device tpu9
refuses "cannot write" run -m "$model" -p x --trace /nonexistent/trace.json
refuses "cannot write" bench -m "$model" --json /nonexistent/bench.json
refuses "--model is required" run -p x
refuses "see windowkv --help" frobnicate
# Saved prefixes: one of a model that is not there, and what can be wrong with it
prefix=$source/tests/fuzz/corpus/prefix/file
"$windowkv" prefix show "$prefix" >shown 2>err && grep -q "^tokens  *1$" shown && grep -q "^checksums  *match$" shown && [[ ! -s err ]] ||
  fail "prefix show: $(cat shown err)"
"$windowkv" prefix show "$prefix" -m "$model" >shown && grep -q "^fits  *no: .*made with another model" shown || fail "prefix show -m: $(cat shown)"
"$windowkv" prefix show "$prefix" -m "$model" --json | python3 -c '
import json, sys
p = json.load(sys.stdin)
assert p["tokens"] == 1 and p["first_ids"] == p["last_ids"] == [1] and p["types"] == {"k": "q8_0", "v": "f16"}
assert p["bytes"] == 4224 and p["checksums_match"] and p["fits"] is False and "another model" in p["why_not"]' || fail "prefix show --json"
refuses "nothing.prefix: cannot open" prefix show nothing.prefix
refuses "not a saved prefix" prefix show "$model"
head -c 4200 "$prefix" >cut.prefix
refuses "cut.prefix: truncated: 4200 of 4224 bytes" prefix show cut.prefix
change() { cp "$prefix" "$1" && printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null; }
change data.prefix 4170 x
refuses "data.prefix: damaged: the checksum of V of layer 0 does not match" prefix show data.prefix
change newer.prefix 12 '\x03'
refuses "newer.prefix: saved by a newer version (3; this program reads 2)" prefix show newer.prefix
change order.prefix 8 '\x01\x02\x03\x04'
refuses "order.prefix: written on a machine of other byte order" prefix show order.prefix -m "$model" --json
refuses "no-such.gguf" prefix show "$prefix" -m no-such.gguf
refuses "dim of a case is 0" oracle-check flat-case.json
refuses "selection cases" oracle-check broken.json
refuses "unknown policy" compare -m "$model" --data "$suite" --policies some
refuses "unknown key" compare -m "$model" --data "$suite" --policies windowkv:size=3
refuses "unknown combination of heads" compare -m "$model" --data "$suite" --policies windowkv:heads=most
refuses 'recent "x"' compare -m "$model" --data "$suite" --policies windowkv:recent=x
refuses "needs free windows" compare -m "$model" --data "$suite" --policies windowkv:preset=paper:heads=kv
refuses "missing" compare -m "$model" --data missing
refuses "budget" compare -m "$model" --data "$suite" --budgets 0%
refuses "cannot write" compare -m "$model" --data "$suite" --markdown /nonexistent/c.md
refuses "nothing to compare;" compare -m "$model"
hay="--niah-haystack $source/data/haystack"
refuses "would cut the needles" compare -m "$model" --niah-lengths 1k $hay --max-length 500
refuses "unknown needle set" compare -m "$model" --niah-lengths 1k $hay --niah-needle-set some
refuses "run with --e" longbench -m "$model" --data longbench
refuses "no prompt" inspect -m "$model" --retrieval
refuses "omit -p" inspect -m "$model" --retrieval --data "$suite" -p x
refuses "missing" inspect -m "$model" --retrieval --data missing
refuses "cannot be measured" inspect -m "$model" --retrieval -p x
refuses "requires --retrieval" inspect -m "$model" -p x --json r2.json
refuses "cannot write" inspect -m "$model" --retrieval -p x --json /nonexistent/r.json
refuses "missing" longbench -m "$model" --data missing
refuses "missing" niah -m "$model" --haystack missing
refuses "depths" niah -m "$model" --haystack "$suite" --depths x
for case in "unknown task|--tasks niah" "qa_1 needs|--tasks qa_1" "cwe at 256 tokens: too short|--tasks cwe -l 256" \
  "unknown policy|--policies some" "lengths|-l x" "not JSON|--squad broken.json" "missing|--hotpotqa missing" \
  "cannot write|--json /nonexistent/r.json" "excludes|--generate-only r.part --out s.part"; do
  refuses "${case%%|*}" ruler -m "$model" --haystack "$source/data/haystack" ${case#*|}
done
python3 -c "print([i % 4000 for i in range(300000)])" >long.json
"$windowkv" run -m "$model" --tokens long.json -n 0 --chunk 60000 --no-blas >out 2>err
grep -q "needs .* is free" err || fail "a prompt larger than memory: $(cat err)"
if [[ -w /dev/full ]]; then
  run -n 4 >/dev/full 2>err && fail "a full disk goes unnoticed"
  grep -q "cannot write to standard output" err || fail "a full disk: $(cat err)"
  run -n 4 -q --trace /dev/full >/dev/null 2>err && fail "a trace on a full disk goes unnoticed"
fi
"$windowkv" run -m "$model" --tokens <(python3 -c "print([5] * 9000)") -n 1 -q 2>err >/dev/null
grep -q "trained for 8192" err || fail "no warning past the trained context"

[[ $failures -eq 0 ]] && echo "all cases hold"
exit $((failures > 0))
