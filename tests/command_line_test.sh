#!/usr/bin/env bash
# The command line as a person types it: nothing is silently misread, and llama.cpp's names mean what they do there.
#   command_line_test.sh WINDOWKV-BINARY SOURCE-DIR
set -uo pipefail
windowkv=$1
source=$2
model=$source/models/minilong-6m-q8_0.gguf
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

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
[[ $(wc -l <<<"$short") -le 66 && $(wc -L <<<"$long") -le 100 && $(grep -c -- "--top-k" <<<"$short") -eq 0 ]] || fail "the short help is long"
grep -q -- "--top-k" <<<"$long" && grep -q -- "--lambda" <<<"$long" || fail "the long help is short"
for command in inspect bench calibrate classify compare longbench niah prefix ruler rpc-server; do
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
misused "--quiet takes no value" run --quiet=no
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
silent -dev none --device cpu -n 3 -ctk f16 -ctv f16 --n-predict 8 --temperature 0 -s -1
silent -c 4096
noted "prefill and decode both use the threads of -t" -tb 2
noted "the device decides which attention kernel runs" -fa off
noted "one prompt" -cnv
noted "Jinja" --no-jinja
[[ $(run -p "Once upon a time" -no-cnv -n 8 -q) == "$plain" ]] || fail "-no-cnv"
first=${plain%% *}
[[ $(run -p "Once upon a time" --no-chat -n 8 -q -r "${plain: -3}") != "$plain" ]] || fail "-r stops nothing of \"$first\""
for case in "-ngl 12|--device CUDA0,cpu" "-i|answers one prompt" "--lora x|llama-export-lora" "-j {}|--grammar-file" \
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
mkfifo held
sleep 100 >held &
holder=$!
[[ $(ask -p "Once upon a time" --no-chat -n 8 <held 2>err) == "$plain" ]] && grep -q "nothing arrived on standard input" err ||
  fail "a pipe that nobody writes into: $(cat err)"
kill $holder
wait $holder 2>/dev/null
: | ask >out 2>err && fail "no prompt"
grep -q "no prompt\|prompt is empty" err || fail "an empty pipe as the prompt: $(cat err)"

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

[[ $failures -eq 0 ]] && echo "all cases hold"
exit $((failures > 0))
