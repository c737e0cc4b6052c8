#!/usr/bin/env bash
# Runs the tests of a sanitizer build, all or those of some executables.   scripts/sanitized-tests.sh asan|tsan [all|TEST...]
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/$1
tests=("${@:2}")
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
# ggml keeps the devices of RPC servers until the process ends, and forgets them first.
export LSAN_OPTIONS=suppressions=$PWD/scripts/lsan.supp:print_suppressions=0
export UBSAN_OPTIONS=print_stacktrace=1
# libgomp and ggml are not built for ThreadSanitizer, which cannot see how their threads wait for each other.
export TSAN_OPTIONS=ignore_noninstrumented_modules=1:suppressions=$PWD/scripts/tsan.supp:print_suppressions=0

if [[ ${tests[*]:-all} == all ]]; then
  # Scripts, whose names have no dot.
  ctest --test-dir "$build" -j 2 --output-on-failure -LE "not-$1" -R '^[^.]*$'
  tests=("$build"/tests/*_test)
  tests=("${tests[@]##*/}")
fi
# An executable's tests in one process: to start one takes a quarter of a second.
printf "$build/tests/%s\0" "${tests[@]}" | xargs -0 -P 2 -I{} bash -c "GTEST_BRIEF=1 timeout 1200 {} || { echo \"{} FAILS\" >&2; exit 1; }"
