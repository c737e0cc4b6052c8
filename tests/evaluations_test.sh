#!/usr/bin/env bash
# Measurements and evaluations as a user meets them: tables, files, being stopped and going on.
#   evaluations_test.sh WINDOWKV-BINARY SOURCE-DIR
. "$(dirname "${BASH_SOURCE[0]}")/helpers.sh"

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
refuses "run with --e" longbench -m "$model" --data longbench
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
ln -s "$windowkv" wkv
./wkv niah -m "$model" --lengths 300 --depths 1 --policies full -n 1 >/dev/null || fail "the default haystack"
WINDOWKV_DATA=$source/data ./wkv niah -m "$model" --lengths 300 --depths 1 --policies full -n 1 >/dev/null || fail "WINDOWKV_DATA"
WINDOWKV_DATA=/nonexistent refuses "no haystack at /nonexistent/haystack" niah -m "$model" --lengths 300
cp wkv alone && windowkv=./alone refuses "share/windowkv/haystack or $PWD/data/haystack; give text" niah -m "$model" --lengths 300
rm alone

# RULER
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

# Progress in a file: whole lines, and few.
"$windowkv" longbench -m "$model" --data many.jsonl --kv full --limit 100 >/dev/null 2>err || fail "longbench: $(cat err)"
[[ $(wc -l <err) -le 11 ]] && ! grep -q $'[\r\x1b]' err || fail "progress floods a file: $(cat err)"

finish
