#!/usr/bin/env bash
# One clear line for everything that cannot work, and no file left half-written.
#   bad_input_test.sh WINDOWKV-BINARY SOURCE-DIR
. "$(dirname "${BASH_SOURCE[0]}")/helpers.sh"

mkdir bin
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
refuses "--threads" run -m "$model" -p x -t=-2
refuses "--chunk" run -m "$model" -p x --chunk 0
refuses "--predict" run -m "$model" -p x -n=-7
refuses "unknown KV cache type" run -m "$model" -p x --kv-type q5_0
refuses "unknown KV cache type" run -m "$model" -p x -ctv f32
refuses "--batch" bench -m "$model" --batch 0
refuses "--vs" bench -m "$model" --vs some
refuses "--vs" bench -m "$model" --equal-memory
printf '#!/bin/sh\necho first >&2\necho no such model >&2\nexit 3\n' >bin/llama-bench
chmod +x bin/llama-bench
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
"$windowkv" run -m "$model" --tokens long.json -n 0 --kv-budget 30% --observe 60000 >out 2>err
grep -q "needs .* is free" err || fail "a prompt larger than memory: $(cat err)"
if [[ -w /dev/full ]]; then
  run -n 4 >/dev/full 2>err && fail "a full disk goes unnoticed"
  grep -q "cannot write to standard output" err || fail "a full disk: $(cat err)"
  run -n 4 -q --trace /dev/full >/dev/null 2>err && fail "a trace on a full disk goes unnoticed"
fi
"$windowkv" run -m "$model" --tokens <(python3 -c "print([5] * 9000)") -n 1 -q 2>err >/dev/null
grep -q "trained for 8192" err || fail "no warning past the trained context"

finish
