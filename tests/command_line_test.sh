#!/usr/bin/env bash
# The command line as a person types it: nothing is silently misread, and llama.cpp's names mean what they do there.
#   command_line_test.sh WINDOWKV-BINARY SOURCE-DIR
. "$(dirname "${BASH_SOURCE[0]}")/helpers.sh"

# misused WHAT-THE-LINE-SAYS ARGUMENTS...: a usage error, of one line.
misused() {
  local expected=$1
  shift
  timeout 60 "$windowkv" "$@" >out 2>err </dev/null
  [[ $? -eq 2 && ! -s out && $(wc -l <err) -eq 1 ]] || fail "no usage error of: $* ($(head -3 out err))"
  grep -qF -- "$expected" err || fail "no \"$expected\" in: $(cat err)"
}
run() { timeout 120 "$windowkv" run -m "$model" "$@" </dev/null; }
# same ARGUMENTS... : what the command says with them (the answer) is what it says without.
plain=$(run -p "Once upon a time" --no-chat -n 8 -q 2>err) && [[ -n $plain && ! -s err ]] || fail "a plain answer: $(cat err)"
same() {
  [[ $(run -p "Once upon a time" --no-chat -n 8 -q "$@" 2>err) == "$plain" ]] || fail "another answer with: $* ($(cat err))"
}
silent() { same "$@" && [[ ! -s err ]] || fail "says with $*: $(cat err)"; }
noted() {
  local expected=$1
  shift
  same "$@"
  grep -qF -- "$expected" err && [[ $(wc -l <err) -eq 1 ]] || fail "no \"$expected\" with $*: $(cat err)"
}

# Commands
misused 'unknown command "frobnicate" (see windowkv --help)' frobnicate
misused "did you mean longbench?" longbensh
misused "--model is required" serve
misused "did you mean serve?" server -m "$model" --port 8080
misused "--port" serve -m "$model" --port 99999
misused "one model, under fixed paths" serve -m "$model" --api-prefix /x
misused "did you mean run or chat?" generate -m "$model"
misused 'the command comes first, as in: windowkv run -m x -p "a b"' -m x -p "a b"
misused "windowkv run -m model.gguf -p x" model.gguf -p x
"$windowkv" >out 2>err
[[ $? -eq 2 && ! -s out ]] && grep -q "^  run " err || fail "no command: $(cat out err)"
"$windowkv" --version | grep -q "^windowkv [0-9]" || fail "--version"
"$windowkv" --help | grep -q "^  longbench " || fail "--help"
"$windowkv" help run | grep -q "^Usage: windowkv run" || fail "help run"

# Help pages: the short one names what is needed first, the long one everything.
short=$("$windowkv" run --help) && long=$("$windowkv" run --help-all) || fail "run --help"
for flag in --model --prompt --file --system --kv --kv-budget --predict --temp --json; do
  grep -q -- "$flag\b" <<<"$short" || fail "no $flag in the short help"
done
grep -q "windowkv run -m model.gguf -f book.txt" <<<"$short" || fail "no example in the short help"
[[ $(wc -l <<<"$short") -le 72 && $(wc -L <<<"$long") -le 100 && $(grep -c -- "--top-k" <<<"$short") -eq 0 ]] || fail "the short help is long"
grep -q -- "--top-k" <<<"$long" && grep -q -- "--lambda" <<<"$long" || fail "the long help is short"
for command in inspect bench calibrate classify compare longbench niah prefix ruler turns chat rpc-server; do
  "$windowkv" $command --help >page && grep -q "^Usage: windowkv $command" page || fail "$command --help"
done
"$windowkv" run -m "$model" -p x -h >page && [[ $(cat page) == "$short" ]] || fail "-h among other flags"

# Flags and values, as typed
misused "unknown flag --frob (see windowkv run --help)" run --frob
misused "unknown flag --budget; did you mean --kv-budget? (see windowkv run --help)" run --budget 5
misused "did you mean --model?" run -model x
misused "unknown flag -n5; did you mean -n 5?" run -n5
misused "did you mean -ngl 99?" run -ngl99
misused "did you mean -f file or --file?" run -ffile
misused "unknown flag -vq" run -vq
misused "-p needs a value, but the flag -n follows; if that is the value: -p=-n" run -p -n 4
misused "--stop needs a value" run --stop
misused 'unexpected "world"; text with spaces needs quotes' run -m "$model" -p hello world
misused "give the model with -m x.gguf" run x.gguf -p hi
misused "did you mean -n or --predict?" run -m "$model" -p x --max-tokens 4
misused "did you mean -f or --file?" run -m "$model" --input x
misused "--model: the path is empty" run -m "" -p x
misused "--file: the path is empty" run -m "$model" -f "" -p x
misused "--json: the path is empty" bench -m "$model" --json ""
misused "--quiet takes no value" run --quiet=no
# No flag with a fraction takes what is no number: the help page has X for their values.
for command in run inspect bench calibrate chat classify compare longbench niah ruler turns; do
  for flag in $("$windowkv" $command --help-all | grep -oE -- "--[a-z0-9-]+ X( |$)" | cut -d" " -f1) --tensor-split; do
    grep -q -- "$flag " <<<"$("$windowkv" $command --help-all)" || continue
    misused "nan is no finite number" $command "$flag=nan"
  done
done
for case in "run --kv-budget nan%" "run --lambda nan" "niah --depths nan,50"; do
  "$windowkv" $case -m "$model" >out 2>err </dev/null && fail "accepted: $case"
done
misused "--percent: nan is no finite number" calibrate -m "$model" --percent nan
misused "--task-threshold: nan is no finite number" run -m "$model" -p x --task-threshold nan
# A value that a later one replaces is told, the same one twice is not.
noted "-t was given twice; the last one counts" -t 3 -t 1
noted "-t was given 3 times; the last one counts" -t 3 -t 4 -t 1
noted "-t and --threads set the same; the last one counts" -t 3 --threads 1
noted "-ngl and --device set the same; the last one counts" -ngl 0 --device auto
silent -t 1 -t 1 --stop xyz --stop zyx
# Values that another mode of the command has no use for.
for flag in "--system x" "--system-prompt-file x" "--chat-template chatml" "--chat-template-file x"; do
  echo "[1, 2]" >two-ids.json
  "$windowkv" run -m "$model" --tokens two-ids.json $flag >out 2>err </dev/null && fail "--tokens with $flag"
  grep -q -- "--tokens is the whole prompt; omit --system and --chat-template" err || fail "--tokens with $flag: $(cat err)"
done
misused "--niah-depths requires --niah-lengths" compare -m "$model" --data x --niah-depths 3
misused "--niah-samples requires --niah-lengths" compare -m "$model" --data x --niah-samples 3
misused "--valid requires --train" classify --valid x
for case in "--jsonl x -p y" "--eval x -f y" "--train x --jsonl y" "--bench 3 -p x"; do
  "$windowkv" classify $case >out 2>err </dev/null && fail "classify $case"
  grep -q "give one of these" err || fail "classify $case: $(cat err)"
done
unused() {
  "$windowkv" inspect -m "$model" "${@:2}" >out 2>err </dev/null || fail "inspect ${*:2}: $(cat err)"
  grep -qF -- "$1" err && [[ $(wc -l <err) -eq 1 ]] || fail "no \"$1\" of inspect ${*:2}: $(cat err)"
}
unused "--lengths, --budgets are not used: with a prompt" -p x --lengths 1k --budgets 12%
unused "--kv, --kv-budget are not used: sizes are of windowkv" --lengths 1k --kv snapkv --kv-budget 12%
"$windowkv" run -m "$model" -p x --task given >out 2>err </dev/null && fail "run --task given"
grep -q "samples that bring their task" err || fail "run --task given: $(cat err)"
# Numbers and lists as people write them
grep -q "budget 12%:1024" <<<"$(run -f "$source/demo/document.txt" -n 1 --kv-budget 12%:1k 2>&1)" || fail "a floor of 1k"
grep -q "budget 1024" <<<"$(run -f "$source/demo/document.txt" -n 1 --kv-budget 1k 2>&1)" || fail "a budget of 1k"
"$windowkv" inspect -m "$model" --lengths "8k, 8k,4k" --budgets "12%, 12%, full" </dev/null >table || fail "lists with blanks"
[[ $(grep -cE "^(4096|8192) " table) -eq 4 ]] && grep -qE "^8192 +full .* 100.0 %" table || fail "inspect's lists: $(cat table)"
"$windowkv" inspect -m "$model" --budgets 12%,foo >out 2>err </dev/null && fail "a budget of foo"
[[ ! -s out ]] && grep -q 'budget "foo"' err || fail "a budget of foo: $(cat out err)"
misused "0 leaves nothing to run" compare -m "$model" --data x --limit 0
misused "0 leaves nothing to run" longbench -m "$model" --data x --limit 0
run -p x --temp 1e30 >out 2>err && fail "--temp 1e30"
grep -q "temperature is 1e+30; it must be 0 to 100" err || fail "--temp 1e30: $(cat err)"
run -p "  " >out 2>err && fail "a prompt of blanks"
grep -q "nothing but blanks" err || fail "a prompt of blanks: $(cat err)"
misused "--predict" run -m "$model" -p x -n ten
misused "--model is required (see windowkv run --help)" run -p x
misused "ACTION is required (see windowkv prefix --help)" prefix
misused "shwo not in {show}" prefix shwo book.prefix
misused "FILE is required" prefix show
misused "unknown flag --modle; did you mean --model?" prefix show book.prefix --modle x
silent --stop "[LORD]" --stop=-x --stop "{}" --stop "[a,b]"
[[ $(run -p "- item" -n 1 -q 2>&1) ]] || fail "a prompt that begins with -"
run -p=-n -n 1 --json -q >json 2>err || fail "-p=-n: $(cat err)"
mkdir "[a]" a
row='{"_id":"1","dataset":"own","prompt":"Q\nA:","metric":"exact","task":"localization","answers":["x"],"max_new_tokens":1}'
echo "$row" >"[a]/one.jsonl"
{ echo "$row"; echo "$row" | sed 's/"1"/"2"/'; } >a/two.jsonl
"$windowkv" longbench -m "$model" --data "[a]" --kv full </dev/null | grep -q "overall .* 1 " || fail "a folder with brackets"
"$windowkv" classify --eval a/two.jsonl "[a]/one.jsonl" </dev/null 2>err
grep -q 'a/two.jsonl:1' err || fail "two files after one flag: $(cat err)"

# llama.cpp's flags: its names for ours, those without an effect here, those that do not work
silent -fa
silent -fa on -ngl 99 -b 512 -ub 512 -t 1 -st --jinja --no-display-prompt --log-disable --color off --no-warmup --mmap
silent -ngl all -sm layer --flash-attn auto -lv 1 -fit off --simple-io --no-escape --no-mmap
silent -ngl 0
silent -dev cpu --device cpu -ctk f16 -ctv f16 --n-predict 8 --temperature 0 -s -1
for value in on auto 1 true enabled; do silent -fa $value; done
for value in off 0 false disabled; do noted "the device decides which attention kernel runs" -fa $value; done
misused 'it takes on, off or auto, not "x"' run -m "$model" -p x -fa=x
silent -c 4096
noted "prefill and decode both use the threads of -t" -tb 2
noted "the device decides which attention kernel runs" -fa off
noted "one prompt" -cnv
noted "Jinja" --no-jinja
[[ $(run -p "Once upon a time" -no-cnv -n 8 -q) == "$plain" ]] || fail "-no-cnv"
first=${plain%% *}
[[ $(run -p "Once upon a time" --no-chat -n 8 -q -r "${plain: -3}") != "$plain" ]] || fail "-r stops nothing of \"$first\""
for case in "-ngl 12|--device CUDA0,cpu" "-i|answers one prompt" "--lora x|llama-export-lora" \
  "--rope-freq-base 1|as the model file says" "-mli|answers one prompt" "--in-prefix x|--no-chat" "--mirostat 2|--top-k" \
  "-md x|speculative" "-sm row|--tensor-split" "-mg 1|--device CUDA0" "--keep 4|--sinks" "-nkvo|--device cpu" "--log-file x|2>FILE"; do
  misused "${case#*|}" run -m "$model" -p x ${case%%|*}
done
misused "unknown flag -fa" classify -fa # runs no model

# What is written is no file that is read, nor another that is written.
cp "$model" copy.gguf && ln -s copy.gguf link.gguf && echo '{}' >rows.jsonl
misused "--out would overwrite copy.gguf, the file given with --model" calibrate -m copy.gguf -o copy.gguf
misused "--trace would overwrite copy.gguf, the file given with --model" run -m copy.gguf -p x --trace link.gguf
misused "would overwrite rows.jsonl, the file given with --data" longbench -m "$model" --data rows.jsonl --json ./rows.jsonl
misused "the file given with --json" compare -m "$model" --data rows.jsonl --out new --json ./new
cmp -s "$model" copy.gguf && [[ ! -e new ]] || fail "a file was overwritten"
misused "--save-prefix would overwrite copy.gguf" run -m copy.gguf -p x --save-prefix copy.gguf
"$windowkv" run -m "$model" --trace rows.jsonl <rows.jsonl 2>err
[[ $? -eq 2 ]] && grep -q "rows.jsonl, which is standard input" err || fail "standard input is overwritten: $(cat err)"
# Nor one that lies in a folder that is read, whatever leads there.
mkdir -p dd/below hs
cp "$source/data/minilong-suite/bios.jsonl" dd/ && cp rows.jsonl dd/below/ && cp rows.jsonl outside.jsonl
ln -s "$PWD/outside.jsonl" dd/link.jsonl && echo text >hs/a.txt && ln -s dd dd-link
cp -r dd kept-dd
for case in "longbench --data dd --limit 1 --json dd/bios.jsonl" "longbench --data dd-link --json ./dd/bios.jsonl" \
  "longbench --data dd --out dd/bios.jsonl" "longbench --data dd --json dd/below/rows.jsonl" "longbench --data dd --json outside.jsonl" \
  "compare --data dd --json dd/bios.jsonl" "compare --data dd --markdown dd/bios.jsonl" "compare --data dd --reference dd/bios.jsonl" \
  "calibrate --data dd -o dd/bios.jsonl" "inspect --retrieval --data dd --json dd/bios.jsonl"; do
  misused "a file in the folder given with --data" $case -m "$model"
done
misused "a file in the folder given with --haystack" niah -m "$model" --haystack hs --json hs/a.txt
misused "a file in the folder given with --haystack" ruler -m "$model" --haystack hs --generate-only hs/a.txt
diff -r dd kept-dd && cmp -s rows.jsonl outside.jsonl || fail "a file in a folder was overwritten"
# Results may lie there: they are continued, and are no data.
mkdir res && head -1 "$source/data/minilong-suite/bios.jsonl" >res/bios.jsonl
for turn in 1 2; do
  "$windowkv" longbench -m "$model" --data res --out res/results.jsonl </dev/null >table$turn 2>err || fail "results among the data: $(cat err)"
  grep -q skipped err && fail "results are read as data: $(cat err)"
  "$windowkv" compare -m "$model" --data res --follow --policies snapkv --reference res/full.jsonl </dev/null >out 2>err ||
    fail "answers among the data: $(cat err)"
done
cmp -s table1 table2 && [[ $(wc -l <res/results.jsonl) -eq 1 ]] || fail "results among the data: $(cat table2)"
printf 'notes without an end of line' >notes.txt
"$windowkv" longbench -m "$model" --data res --out notes.txt </dev/null >out 2>err && fail "notes as results"
[[ $(cat notes.txt) == "notes without an end of line" ]] || fail "notes are cut off"

# Context, system message and chat templates
run -p "Once upon a time" --no-chat -c 3 >out 2>err
[[ $? -eq 1 && ! -s out ]] && grep -q "does not fit in the 3 of -c 3" err || fail "-c 3: $(cat err)"
run -p "Once upon a time" --no-chat --ignore-eos -n -1 -c 20 --json -q >json && python3 - <<'P' || fail "-c 20"
import json
j = json.load(open("json"))
assert list(j)[0] == "text" and j["prompt_tokens"] + j["generated_tokens"] == 20 and j["stop_reason"] == "length"
assert not {"tokens", "groups", "generated"} & set(j) and {"model", "policy", "kv", "timing_ms"} <= set(j)
P
ids() { run "$@" -n 0 -q --trace ids.json >/dev/null 2>err || cat err; python3 -c 'import json; print(json.load(open("ids.json"))["tokens"])'; }
chatml='{% for m in messages %}{{ "<|im_start|>" + m.role + "\n" + m.content + "<|im_end|>\n" }}{% endfor %}{{ "<|im_start|>assistant\n" }}'
echo -n "$chatml" >chatml.jinja
echo -n "Be brief." >brief.txt
built_in=$(ids -p Hello -sys "Be brief." --chat-template chatml)
[[ ${#built_in} -gt 20 && $built_in == "$(ids -p Hello --system-prompt "Be brief." --chat-template "$chatml")" &&
  $built_in == "$(ids -p Hello -sysf brief.txt --chat-template-file chatml.jinja)" ]] || fail "chat templates differ"
[[ $(ids -p Hello --chat-template llama3) != "$(ids -p Hello --chat-template chatml)" ]] || fail "--chat-template llama3"
run -p x --chat-template chatnl >out 2>err && fail "an unknown chat template"
grep -q "neither a Jinja chat template nor one of the built-in ones: .*chatml" err || fail "an unknown chat template: $(cat err)"
[[ $(ids -e --no-chat -p 'a\nb\x41\\') == "$(ids --no-chat -p $'a\nbA\\')" ]] || fail "-e"
[[ $(ids --no-chat -p 'a\nb' --no-escape) != "$(ids --no-chat -p $'a\nb')" ]] || fail "escapes without -e"
run -p 'a\nb' -n 1 -q 2>&1 >/dev/null | grep -q "with -e" || fail "no word about an escape"

# Grammars: the answer follows them; a bad one is known before any work.
[[ $(run -p "Is it?" -n 8 -q --grammar 'root ::= "yes" | "no"') =~ ^(yes|no)$ ]] || fail "--grammar"
echo 'root ::= [0-9] [0-9] "-" [a-c]+ "."' >dates.gbnf
for seed in 1 2 3; do
  [[ $(run -p "Give the date." -n 40 -q --temp 2 -s $seed --grammar-file dates.gbnf) =~ ^[0-9][0-9]-[a-c]+\.?$ ]] ||
    fail "--grammar-file with seed $seed"
done
run -p "Is it?" -n 40 -q -j '{"type": "object", "required": ["yes"], "properties": {"yes": {"type": "boolean"}}}' |
  python3 -c 'import json, sys; assert json.load(sys.stdin)["yes"] in (True, False)' || fail "--json-schema"
echo '{"enum": ["yes", "no"]}' >schema.json
run -p "Is it?" -n 8 -q -jf schema.json | grep -q '"yes"\|"no"' || fail "--json-schema-file"
for schema in '{"type": "object"' '{"type": "spoon"}'; do
  "$windowkv" run -m missing.gguf -p x -j "$schema" >out 2>err </dev/null
  [[ $? -eq 1 && $(wc -l <err) -eq 1 ]] && grep -q "^windowkv: --json-schema: " err || fail "a bad schema: $(cat err)"
done
"$windowkv" run -m missing.gguf -p x --grammar 'root ::= (' >out 2>err </dev/null
[[ $? -eq 1 && $(wc -l <err) -eq 1 ]] && grep -q "the grammar cannot be read: expecting ')'" err || fail "a bad grammar: $(cat err)"
"$windowkv" run -m missing.gguf -p x --grammar 'rout ::= "a"' >out 2>err </dev/null
[[ $(wc -l <err) -eq 1 ]] && grep -q "root" err || fail "a grammar without root: $(cat err)"

# Budgets that are not used, or keep next to nothing
run -p "Once upon a time" -n 1 -q --kv full --kv-budget 5% 2>&1 >/dev/null | grep -q "budget 5% is not used" || fail "a budget of the full cache"
run -p "Once upon a time" -n 1 -q --kv snapkv --window 7 2>&1 >/dev/null | grep -q -- "--window is a setting of --kv windowkv" || fail "a setting that another policy lacks"
run -f "$source/demo/document.txt" -n 1 -q --kv-budget 20 2>&1 >/dev/null | grep -q "keeps 20 of the prompt's" || fail "a budget of 20"
[[ -z $(run -f "$source/demo/document.txt" -n 1 -q --kv-budget 100 2>&1 >/dev/null) ]] || fail "a budget of 100"

# What is piped in
question="Question: What is the secret ingredient of the red soup?"
ask() { timeout 60 "$windowkv" run -m "$model" --kv full -q "$@"; }
plain=$(ask -p "Once upon a time" --no-chat -n 8 </dev/null)
[[ $(ask -p "$question" <"$source/demo/document.txt" 2>err) == mint ]] && grep -q "note: the prompt is standard input" err || fail "< document: $(cat err)"
[[ $(cat "$source/demo/document.txt" | ask -p "$question" 2>/dev/null) == mint ]] || fail "a piped document"
[[ $({ cat "$source/demo/document.txt"; printf '\n\n%s' "$question"; } | ask 2>err) == mint && ! -s err ]] || fail "a piped prompt: $(cat err)"
[[ $({ sleep 1; cat "$source/demo/document.txt"; } | ask -p "$question" 2>/dev/null) == mint ]] || fail "a slow pipe"
printf 'Once upon a time\nThe second line\n' >lines
[[ $(while read -r line; do ask -p "$line" --no-chat -n 8 2>>err; done <lines | head -1) == "$plain" ]] || fail "a loop over lines is eaten"
[[ $(while read -r line; do ask -p "$line" -n 2 2>/dev/null; done <lines | wc -l) -ge 2 ]] || fail "a loop over lines ends early"
[[ $(ask -p "Once upon a time" --no-chat -n 8 <&- 2>&1) == "$plain" ]] || fail "standard input closed"
[[ $(: | ask -p "Once upon a time" --no-chat -n 8 2>/dev/null) == "$plain" ]] || fail "an empty pipe"
# A text file's last line break is its editor's, and so is a byte order mark.
printf '\xef\xbb\xbfOnce upon a time\r\n' >marked.txt
same_from() { [[ $(ask --no-chat -n 8 "${@:2}" <"$1" 2>/dev/null) == "$plain" ]] || fail "another answer from $*"; }
same_from marked.txt
same_from /dev/null -f marked.txt
[[ $(printf 'Once upon' | "$windowkv" inspect -m "$model" -p "a time" 2>err) == *"Once upon"* ]] || fail "inspect of a pipe: $(cat err)"
# -f wins over a pipe; classify and inspect take one as run does.
[[ $(echo "something else" | ask -f marked.txt --no-chat -n 8 2>/dev/null) == "$plain" ]] || fail "-f and a pipe"
[[ $(echo "Summarize the text." | "$windowkv" classify 2>err) == aggregation* ]] || fail "classify of a pipe: $(cat err)"
[[ $(echo "The text." | "$windowkv" classify -p "Summarize the text." 2>err) == aggregation* ]] && grep -q "followed by -p" err ||
  fail "classify of a pipe and -p: $(cat err)"
echo "Once upon" | "$windowkv" inspect -m "$model" >out 2>err && grep -q "Once upon" out && grep -q "the prompt is standard input (9 bytes)" err ||
  fail "inspect of a pipe alone: $(cat err)"
echo "Once upon" | "$windowkv" inspect -m "$model" --lengths 1k >out 2>err && grep -q "^1024 " out && [[ ! -s err ]] || fail "inspect --lengths with a pipe"
# Text that is none, in the same words everywhere; lines are told by number.
printf 'caf\xe9' >latin1.txt
printf '{"text": "caf\xe9"}\n' >latin1.jsonl
echo '{"text": 1}' >number.jsonl
for case in "run -m $model -f latin1.txt" "classify -f latin1.txt"; do
  "$windowkv" $case >out 2>err </dev/null && fail "accepted: $case"
  grep -q "latin1.txt: not UTF-8 text (byte 3); convert it first" err || fail "$case: $(cat err)"
done
"$windowkv" classify -p $'\xff' >out 2>err </dev/null && fail "classify -p of no UTF-8"
grep -q "the text of -p is not UTF-8" err || fail "classify -p of no UTF-8: $(cat err)"
for flag in --jsonl --eval; do
  "$windowkv" classify $flag latin1.jsonl >out 2>err </dev/null
  grep -q "latin1.jsonl:1: not UTF-8 text (byte 13 of the line)" err || fail "classify $flag of no UTF-8: $(cat err)"
done
"$windowkv" classify --jsonl number.jsonl >out 2>err </dev/null
grep -q 'number.jsonl:1: "text" is not a string' err || fail "a text that is a number: $(cat err)"
"$windowkv" classify --classifier "$source/README.md" -p x >out 2>err </dev/null
grep -q "not a task classifier" err || fail "a classifier that is none: $(cat err)"
for case in "run -m $model -p x --calibration number.jsonl" "oracle-check number.jsonl" "oracle-check latin1.txt"; do
  "$windowkv" $case >out 2>err </dev/null && fail "accepted: $case"
  grep -q "json.exception" err && fail "$case: $(cat err)"
done
doubling='{% set n = namespace(x="aaaaaaaaaaaaaaaa") %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}'
run -p x --chat-template "$doubling" >out 2>err && fail "a template that fills the memory"
# AddressSanitizer ends the child process itself; on a busy machine its time may be over first.
grep -qE "takes more than .* of memory|the chat template crashes|is not done after" err || fail "a template that fills the memory: $(cat err)"
mkfifo held
sleep 100 >held &
holder=$!
[[ $(ask -p "Once upon a time" --no-chat -n 8 <held 2>err) == "$plain" ]] && grep -q "nothing arrived on standard input" err ||
  fail "a pipe that nobody writes into: $(cat err)"
kill $holder
wait $holder 2>/dev/null
: | ask >out 2>err && fail "no prompt"
grep -q "no prompt\|prompt is empty" err || fail "an empty pipe as the prompt: $(cat err)"

# What has no end is not read until memory is full.
if [[ $(awk '/MemAvailable/ {print $2}' /proc/meminfo) -gt 6000000 ]]; then
  run -f /dev/zero >out 2>err && fail "/dev/zero"
  grep -q "/dev/zero: more than 1 GiB came and no end" err || fail "/dev/zero: $(cat err)"
fi

# What ran without some of its data says so with its exit code.
{ head -1 "$source/data/minilong-suite/bios.jsonl"; echo '{"_id": 1'; } >broken.jsonl
for case in "longbench --data broken.jsonl" "compare --data broken.jsonl --policies snapkv" "classify --data broken.jsonl" \
  "calibrate --data broken.jsonl -n 2 -o c.json" "inspect --retrieval --data broken.jsonl -n 2"; do
  [[ $case == classify* ]] && with=() || with=(-m "$model")
  "$windowkv" $case "${with[@]}" >out 2>err </dev/null
  [[ $? -eq 3 && -s out ]] && grep -q "broken.jsonl:2" err || fail "no exit code 3 of: $case ($(cat err))"
  grep -q "[Ee]xit code .*3[:,]" <<<"$("$windowkv" ${case%% *} --help)" || fail "the help of ${case%% *} has no exit code 3"
done
"$windowkv" ruler -m "$model" -l 1k --tasks all --samples 1 --generate-only rows3.jsonl >out 2>err </dev/null
[[ $? -eq 3 ]] && grep -q "qa_1 needs" err || fail "ruler --tasks all without its data: $(cat err)"
"$windowkv" longbench -m "$model" --data res --limit -1 --max-length 0 </dev/null >out 2>err || fail "longbench --limit -1: $(cat err)"
grep -q "note: all prompts were kept whole" err || fail "longbench does not say that it keeps everything: $(cat err)"
"$windowkv" longbench -m "$model" --data res --kv-budget 12% </dev/null >out 2>err && ! grep -q "kept whole" err || fail "longbench at 12%: $(cat err)"
"$windowkv" compare -m "$model" --data res --policies "snapkv, tova" --budgets "12%, full" </dev/null >table 2>err || fail "compare --budgets full: $(cat err)"
[[ $(grep -cE "^(full|snapkv 12%|tova 12%) " table) -eq 3 && $(wc -l <table) -eq 4 ]] || fail "compare --budgets full: $(cat table)"
"$windowkv" niah -m "$model" -l 300 --depths "0, 50" --policies snapkv --budgets 12%,full -n 2 </dev/null >table 2>err || fail "niah --budgets full: $(cat err)"
grep -q "^full " table || fail "niah --budgets full: $(cat table)"
grep -q "bundled novel" <<<"$("$windowkv" niah --help)" || fail "niah's haystack in its help"
echo "Who is it?" >question.txt
"$windowkv" calibrate -m "$model" --prompts question.txt -n 2 -o c.json </dev/null >out 2>err
grep -qE "warning: the calibration is measured on [0-9]+ tokens only" err || fail "a calibration from one line: $(cat err)"
"$windowkv" bench -m "$model" -l 64,64 -b 12% -n 1 -r 1 --json b.json </dev/null >out 2>err &&
  python3 -c 'import json; b = json.load(open("b.json")); assert b["threads"] > 0 and len(b["results"]) == 1' || fail "bench's threads: $(cat err)"
"$windowkv" bench -m "$model" -l 99999999 -b full -n 1 -r 1 </dev/null >out 2>err
grep -qE "[0-9.]+ [GT]iB" err && ! grep -qE "[0-9]{9,} bytes" err || fail "bench of too long a prompt: $(cat err)"

# Stopped, a command says which files it has not written.
python3 -c "
import json
for i in range(200):
  print(json.dumps({'_id': str(i), 'dataset': 'own', 'prompt': 'word ' * 800, 'metric': 'exact', 'task': 'localization', 'answers': ['x'], 'max_new_tokens': 1}))" >many.jsonl
"$windowkv" compare -m "$model" --data many.jsonl --policies snapkv --out sc.jsonl --json a.json --markdown b.md >out 2>err </dev/null &
pid=$!
for _ in $(seq 600); do [[ -s sc.jsonl ]] && break; sleep 0.05; done
kill -INT $pid
wait $pid
grep -q "; a.json and b.md were not written; run the same" err || fail "compare, stopped: $(cat err)"
# A signal that comes twice at once, as from timeout(1), is one.
"$windowkv" run -m "$model" -p "Once upon a time" -n 100000 --ignore-eos --json >out 2>err </dev/null &
pid=$!
sleep 1
kill -INT $pid
kill -INT $pid
wait $pid
[[ $? -eq 130 ]] && grep -q '"timing_ms"' out || fail "run, stopped twice at once: $(cat out err)"

# Diagnostics that cannot be written are lost and nothing else; an answer that cannot be is an error.
if [[ -w /dev/full ]]; then
  [[ $(run -p "Once upon a time" --no-chat -n 8 2>/dev/full) == "$plain" ]] || fail "standard error on a full disk"
  "$windowkv" run -m missing.gguf -p x 2>/dev/full </dev/null
  [[ $? -eq 1 ]] || fail "an error on a full disk"
  "$windowkv" --help >/dev/full 2>err
  [[ $? -eq 1 ]] && grep -q "cannot write to standard output" err || fail "help on a full disk"
fi
[[ $(run -p "Once upon a time" --no-chat -n 8 2>&-) == "$plain" ]] || fail "standard error closed"
run -p "Once upon a time" -n 4 -q --trace trace.json >&- 2>err
[[ $? -eq 1 ]] && grep -q "cannot write to standard output" err || fail "standard output closed: $(cat err)"
[[ ! -e trace.json && -z $(find . -name 'trace*') ]] || fail "a file after a closed standard output: $(ls trace*)"

"$windowkv" --list-devices | grep -q "^CPU .* free$" || fail "--list-devices"
"$windowkv" run --list-devices | grep -q "^CPU .* free$" || fail "run --list-devices"

finish
