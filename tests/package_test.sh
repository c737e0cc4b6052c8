#!/usr/bin/env bash
# Installs the build, uses it from another project, and moves it.   package_test.sh BUILD-DIR SOURCE-DIR
set -euo pipefail
build=$1
source=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cmake --install "$build" --prefix "$dir/prefix" >/dev/null
cmake -S "$source/tests/package" -B "$dir/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$dir/prefix" \
  -DCMAKE_CXX_FLAGS="${WINDOWKV_PACKAGE_FLAGS:-}" >/dev/null
cmake --build "$dir/build" >/dev/null
answer=$("$dir/build/answer" "$source/models/minilong-6m-q8_0.gguf" "$source/demo/document.txt" \
  "Question: What is the secret ingredient of the red soup?")
[[ $answer == mint ]] || { echo "the installed library answers \"$answer\""; exit 1; }
# The command brings its data along, wherever the tree is moved and however it is called.
mv "$dir/prefix" "$dir/moved"
ln -s "$dir/moved/bin/windowkv" "$dir/wkv"
cd /
"$dir/wkv" niah -m "$source/models/minilong-6m-q8_0.gguf" -l 300 --depths 1 --policies full -n 1 >/dev/null
"$dir/moved/bin/windowkv" --version
