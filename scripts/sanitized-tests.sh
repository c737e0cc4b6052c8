#!/usr/bin/env bash
# Runs the tests of a sanitizer build.   scripts/sanitized-tests.sh asan|tsan
set -euo pipefail
cd "$(dirname "$0")/.."
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
# ggml keeps the devices of RPC servers until the process ends, and forgets them first.
export LSAN_OPTIONS=suppressions=$PWD/scripts/lsan.supp:print_suppressions=0
export UBSAN_OPTIONS=print_stacktrace=1
# libgomp and ggml are not built for ThreadSanitizer, which cannot see how their threads wait for each other.
export TSAN_OPTIONS=ignore_noninstrumented_modules=1
exec ctest --test-dir "build/$1" -j 2 --output-on-failure -LE "not-$1"
