#!/usr/bin/env bash
# Installs OpenAI's Python client in build/openai-venv, for the test `openai_client`. Quick when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/openai-venv
[[ -x $venv/bin/python ]] && "$venv/bin/python" -c 'import openai' 2>/dev/null && exit 0
mkdir -p build
python3 -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check openai
