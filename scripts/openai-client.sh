#!/usr/bin/env bash
# Installs OpenAI's Python client in build/openai-client, for the test `openai_client`. Quick when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build/openai-client
PYTHONPATH=$folder python3 -c 'import openai' 2>/dev/null && exit 0
mkdir -p build
python3 -m pip install -q --disable-pip-version-check --target "$folder" openai
