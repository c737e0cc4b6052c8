#!/usr/bin/env bash
# Sends what src/server/openapi.json allows, and what it does not, to a server on a tiny model, and checks that the answers are
# described.   scripts/schemathesis.sh [SECONDS]
# Schemathesis is installed in build/schemathesis.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
folder=$PWD/build/schemathesis
windowkv=$(realpath "${WINDOWKV:-build/release/windowkv}")
[[ -x $folder/bin/schemathesis ]] || {
  mkdir -p build
  python3 -m pip install -q --disable-pip-version-check --target "$folder" schemathesis
}
log=$(mktemp)
# A small context, so that no answer is long.
"$windowkv" serve -m models/minilong-6m-q8_0.gguf --chat-template chatml --port 0 -c 512 -n 8 --store-dir "$(mktemp -d)" 2>"$log" &
server=$!
trap 'kill $server; wait $server || true; rm -f "$log"' EXIT
for _ in $(seq 100); do grep -q 'ready after' "$log" && break; sleep 0.1; done
url=$(sed -n 's/.*listening on \(http:.*\)/\1/p' "$log")
# What a schema cannot say is refused too: prompts that are longer than the context, a call without tools. Methods that
# httplib does not know get 400, before there is a path. Other names of the same endpoints are left out.
cd "$folder"  # where it leaves files of its own
PYTHONPATH=$folder bin/schemathesis run "$url/openapi.json" --max-time "$seconds" --phases examples,coverage,fuzzing \
  --exclude-checks positive_data_acceptance,unsupported_method --exclude-path-regex '^/(chat/completions|completions|responses|models|v1/health|index.html)$' \
  --request-timeout 30 --continue-on-failure --warnings off --no-color
kill -0 $server || { echo "schemathesis: the server has ended" >&2; exit 1; }
