#!/usr/bin/env bash
# Several questions, saved prefixes and conversations, as a person types them.
#   prefix_test.sh WINDOWKV-BINARY SOURCE-DIR
. "$(dirname "${BASH_SOURCE[0]}")/helpers.sh"
json() { python3 -c "import json,sys; d=json.load(open('$1')); $2" || fail "$2 of $1"; }
# refused CODE WHAT-THE-LINE-SAYS ARGUMENTS...
refused() {
  local code=$1 expected=$2
  shift 2
  timeout 60 "$windowkv" "$@" >out 2>err </dev/null
  [[ $? -eq $code && ! -s out ]] && grep -qF -- "$expected" err || fail "no \"$expected\" from: $* ($(head -3 out err))"
}
for i in $(seq 60); do echo "The keeper of lighthouse $i is called Amelia Brown, and its lamp is green."; done >book.txt
ask=(run -m "$model" -f book.txt -n 12 --temp 0)

# Several questions: each as if it were asked alone, but the text is read once.
"$windowkv" "${ask[@]}" -p "Who keeps lighthouse 7?" -p "What colour is the lamp?" --store-type f16 --json >several.json 2>err </dev/null || fail "several questions: $(cat err)"
"$windowkv" "${ask[@]}" -p "What colour is the lamp?" --store-type f16 --recall off --json >alone.json 2>err </dev/null || fail "one question: $(cat err)"
json several.json "assert len(d) == 2 and d[0]['reused_tokens'] == 0 and d[1]['reused_tokens'] > 1000, d"
json several.json "assert d[1]['store']['type_k'] == 'f16' and d[1]['store']['tokens'] == d[1]['prompt_tokens']"
json alone.json "assert d['reused_tokens'] == 0 and d['store'] is None"
json several.json "a = json.load(open('alone.json')); assert d[1]['prompt_tokens'] == a['prompt_tokens']"
for store in ram disk none; do
  "$windowkv" "${ask[@]}" -p "Who?" -p "What?" --store $store --recall off >out 2>err </dev/null || fail "--store $store: $(cat err)"
  [[ $(grep -c "from the prefix store" err) -eq $([[ $store == none ]] && echo 0 || echo 1) ]] || fail "--store $store reads: $(cat err)"
done
refused 2 "--store" "${ask[@]}" -p x --store tape
refused 1 "q9" "${ask[@]}" -p x -p y --store-type q9
refused 1 "give -p once" "${ask[@]}" -p x -p y --trace t.json
refused 1 "give -p once" inspect -m "$model" -p x -p y
refused 1 "omit --store none" "${ask[@]}" -p x --store none --save-prefix s.prefix
TMPDIR=$dir/nowhere "$windowkv" "${ask[@]}" -p x -p y --store disk >out 2>err </dev/null
[[ $? -eq 1 ]] && grep -q "nowhere" err || fail "no temporary folder: $(cat err)"

# Choosing again: by default where something is dropped.
"$windowkv" "${ask[@]}" -p "Who?" --kv-budget 12% --ignore-eos >out 2>err </dev/null || fail "--recall auto: $(cat err)"
grep -q "^recall .*chosen again [1-9]" err || fail "--recall auto does not choose again: $(cat err)"
for kv in full h2o streaming-llm criticalkv layer-defensivekv kvzip laq; do
  "$windowkv" "${ask[@]}" -p "Who?" --kv $kv >out 2>err </dev/null || fail "--kv $kv: $(cat err)"
  ! grep -q "^recall" err || fail "--kv $kv chooses again"
done
"$windowkv" "${ask[@]}" -p "Who?" --kv-budget 12% --store none >out 2>err </dev/null || fail "--store none: $(cat err)"
! grep -q "warning" err || fail "--store none warns: $(cat err)"
"$windowkv" "${ask[@]}" -p "Who?" --kv-budget 12% --store none --recall 2 >out 2>err </dev/null || fail "--store none: $(cat err)"
grep -q "warning: --recall is not used" err || fail "--recall without a store says nothing: $(cat err)"
for kv in full streaming-llm; do
  "$windowkv" "${ask[@]}" -p "Who?" --kv $kv --recall 2 >out 2>err </dev/null || fail "--kv $kv --recall: $(cat err)"
  grep -q "warning: --recall 2 is not used" err || fail "--kv $kv --recall 2 says nothing: $(cat err)"
done
refused 1 "tokens between two choices, or off" "${ask[@]}" -p x --recall often
refused 1 "cannot choose again" "${ask[@]}" -p x --kv h2o --recall 1
refused 1 "takes too long; leave recall off" "${ask[@]}" -p x --kv r-kv --recall 1

# Saved prefixes.
"$windowkv" "${ask[@]}" -p "Who?" --save-prefix book.prefix --store-type f16 >first 2>err </dev/null || fail "--save-prefix: $(cat err)"
"$windowkv" "${ask[@]}" -p "Who?" --prefix book.prefix >second 2>err </dev/null || fail "--prefix: $(cat err)"
cmp -s first second || fail "another answer from a saved prefix"
grep -q "of them from the prefix store" err || fail "--prefix reads nothing: $(cat err)"
"$windowkv" "${ask[@]}" -p "Who?" --prefix book.prefix --store-type q4_0 >second 2>err </dev/null || fail "--store-type: $(cat err)"
grep -q "warning: --store-type q4_0 is not used: book.prefix was saved as f16" err || fail "--store-type beside --prefix: $(cat err)"
cp book.prefix on.prefix
"$windowkv" "${ask[@]}" -p "Who, and when?" --prefix on.prefix --save-prefix on.prefix >second 2>err </dev/null || fail "a prefix continued: $(cat err)"
cmp -s book.prefix on.prefix && fail "--save-prefix left the file of --prefix as it was"
"$windowkv" prefix show on.prefix -m "$model" >out 2>err && grep -q "^fits .*yes" out || fail "a prefix continued: $(cat out err)"
"$windowkv" prefix show book.prefix -m "$model" >out 2>err && grep -q "^fits .*yes" out || fail "prefix show: $(cat out err)"

# Killed at any moment: the file is the old one or the new one, and what was left beside it is in nobody's way.
mkdir killed && cp book.prefix killed/p
for i in $(seq 0 14); do
  "$windowkv" "${ask[@]}" -p "Who keeps lighthouse $i?" --save-prefix killed/p -n 1 -q >/dev/null 2>&1 </dev/null &
  sleep "$(printf '0.%02d' $((3 + 4 * i)))"
  kill -9 $! 2>/dev/null
  wait $! 2>/dev/null
  "$windowkv" prefix show killed/p -m "$model" >out 2>err && grep -q "^fits .*yes" out || fail "killed after $i: $(cat out err)"
done
"$windowkv" "${ask[@]}" -p "Who?" --save-prefix killed/p --store-type f16 >out 2>err </dev/null || fail "saving after kills: $(cat err)"
cmp -s killed/p book.prefix || fail "the file saved after kills is another"
"$windowkv" run -m "$model" -p "Something else" -n 4 --prefix book.prefix >out 2>err </dev/null || fail "--prefix of another text: $(cat err)"
grep -q "warning: book.prefix: the prompt begins with .* of the .* saved tokens" err || fail "another text says nothing: $(cat err)"
head -c 5000 book.prefix >half.prefix
refused 1 "half.prefix: truncated" "${ask[@]}" -p x --prefix half.prefix
refused 1 "book.txt: not a saved prefix" "${ask[@]}" -p x --prefix book.txt
refused 1 "missing.prefix" "${ask[@]}" -p x --prefix missing.prefix
cp book.prefix before
"$windowkv" "${ask[@]}" -p x --save-prefix /dev/full >out 2>err </dev/null && fail "a full disk is not reported"
cmp -s before book.prefix || fail "a saved prefix has changed"

# Conversations.
printf 'Who keeps lighthouse 7?\n\nWhat colour is the lamp?\n/stats\n/save talk.prefix\n' >lines
"$windowkv" chat -m "$model" -f book.txt -n 8 --temp 0 <lines >out 2>err || fail "chat: $(cat err)"
[[ $(wc -l <out) -ge 2 ]] && grep -q "from the prefix store" err || fail "chat says: $(cat out err)"
printf '/load talk.prefix\nAnd lighthouse 9?\n/stats\n/clear\n/help\n/system Be brief.\n/budget 25%%\nWho?\n/quit\nnot asked\n' >lines
"$windowkv" chat -m "$model" -n 8 --temp 0 <lines >out 2>err || fail "chat from a saved conversation: $(cat err)"
grep -q "from the prefix store" err && grep -q "^/save FILE" out || fail "a loaded conversation: $(cat out err)"
printf 'And lighthouse 9?\n/stats\n' | "$windowkv" chat -m "$model" -n 8 --temp 0 --prefix talk.prefix >out 2>err ||
  fail "chat --prefix: $(cat err)"
grep -q "from the prefix store" err || fail "chat --prefix goes on: $(cat out err)"
printf 'Who?\n' | "$windowkv" chat -m "$model" -f "$0" -n 2 --prefix book.prefix >out 2>err || fail "chat with another document: $(cat err)"
grep -q "saved tokens, and all of it that follows is read; .* the same -f" err || fail "chat with another document says: $(cat out err)"
refused 1 "holds no conversation" chat -m "$model" --prefix book.prefix
for line in /nonsense /load /stats "/budget much" "/load book.prefix" "/save"; do
  printf '%s\nWho?\n' "$line" | "$windowkv" chat -m "$model" -n 2 >out 2>err
  [[ $? -eq 1 && $(wc -l <err) -eq 1 ]] || fail "chat takes $line: $(cat out err)"
done
printf 'Who?\nAnd?\n' | "$windowkv" chat -m "$model" -n 4 -v --store none >out 2>err || fail "chat without a store: $(cat err)"
! grep -q "from the prefix store" err || fail "chat --store none"
printf 'a\xff\n' | "$windowkv" chat -m "$model" -n 2 >out 2>err
[[ $? -eq 1 ]] && grep -q "not UTF-8" err || fail "chat takes bytes: $(cat err)"
refused 1 "questions come from standard input" chat -m "$model" -f -
refused 1 "saves the document, and there is none" chat -m "$model" --save-prefix none.wkv
"$windowkv" chat -m "$model" -n 2 </dev/null >out 2>err || fail "chat without a question: $(cat err)"
printf 'Who?\n' | "$windowkv" chat -m "$model" -n 4000 --ignore-eos >/dev/full 2>err
[[ $? -eq 1 ]] || fail "chat into a full disk: $(cat err)"

# On a terminal: history, Ctrl-C, Ctrl-D.
if python3 -c 'import pexpect' 2>/dev/null; then
  python3 - "$windowkv" "$model" <<'P' || fail "chat on a terminal"
import pexpect, sys
chat = pexpect.spawn(sys.argv[1], ["chat", "-m", sys.argv[2], "-n", "100000", "--ignore-eos"], timeout=60, encoding="utf-8", codec_errors="replace")
chat.expect("/help lists the commands")
chat.expect("> ")
chat.sendline("/nonsense")
chat.expect("unknown command /nonsense")
chat.expect("> ")
chat.send("half a line")
chat.expect("half a line")  # a signal between two keys waits for the next one
chat.sendintr()
chat.expect("> ")
chat.sendline("Tell a long story.")
chat.expect("story\\.")  # what was typed
chat.expect("[a-z]{3}")
chat.sendintr()
chat.expect("\n> ")
chat.sendline("/stats")
chat.expect("decode ")
chat.expect("> ")
chat.sendeof()
chat.expect(pexpect.EOF)
chat.close()
sys.exit(chat.exitstatus)
P
fi

finish
