#!/usr/bin/env bash
# Runs the fuzz targets, each for FUZZ_SECONDS (60), as many at a time as there are cores.   scripts/fuzz.sh [TARGET...]
# New inputs that reach new code go to build/fuzz/corpus, inputs that crash, hang or leak to build/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/fuzz
seconds=${FUZZ_SECONDS:-60}
targets=("$@")
[[ $# -gt 0 ]] || targets=(calibration chat_template completion_request gguf longbench_rows prefix token_ids trace)

# Memory is not given back to the system, and little that is freed is kept: both cost time.
export ASAN_OPTIONS=allocator_may_return_null=1:allocator_release_to_os_interval_ms=-1:quarantine_size_mb=16:strict_string_checks=1
export LSAN_OPTIONS=suppressions=$PWD/scripts/lsan.supp:print_suppressions=0
export UBSAN_OPTIONS=print_stacktrace=1
export GGML_NO_BACKTRACE=1  # where libllama ends the process, which would start gdb
# Inputs are files; in memory where there is a place for them.
[[ -w /dev/shm ]] && parent=/dev/shm || parent=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d "$parent/windowkv-fuzz-XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

fuzz() {
  local target=$1 build=$2 seconds=$3
  local corpus=$build/corpus/$target artifacts=$build/artifacts/$target log=$build/$target.log dictionary=tests/fuzz/$target.dict
  mkdir -p "$corpus" "$artifacts"
  local options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=1024 -print_final_stats=1
                 -artifact_prefix="$artifacts/")
  [[ -f $dictionary ]] && options+=(-dict="$dictionary")
  if "$build/tests/fuzz/fuzz_$target" "${options[@]}" "$corpus" "tests/fuzz/corpus/$target" >"$log" 2>&1; then
    echo "fuzz: $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs, no fault"
    return
  fi
  local input
  input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
  grep -E 'ERROR|SUMMARY|runtime error|^fuzz:' "$log" | head -5
  echo "fuzz: $target FAILS; its output is in $log${input:+; again with $build/tests/fuzz/fuzz_$target $input}"
  return 1
}
export -f fuzz
printf '%s\0' "${targets[@]}" | xargs -0 -P "$(nproc)" -I{} bash -c 'fuzz "$@"' _ {} "$build" "$seconds"
