#!/usr/bin/env bash
# Runs NVIDIA kvpress's methods beside windowkv (tools/kvpress_compare.py), in a Python environment of its own.
#   scripts/kvpress.sh --help
# The first run installs kvpress, transformers, gguf and torch with pip into build/kvpress-venv: about 5 GB, most of it the CUDA
# libraries that the torch of Linux cannot be loaded without, although this runs on the CPU without --device cuda. An index of torch's CPU
# wheels, set as pip is configured (PIP_EXTRA_INDEX_URL), makes it 1 GB. KVPRESS_VENV names another folder.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${KVPRESS_VENV:-$root/build/kvpress-venv}
# kvpress hooks into transformers' internals; these were tested together.
packages=(torch==2.12.1 transformers==5.2.0 kvpress==0.5.5 gguf==0.19.0)

stamp=$venv/windowkv-packages
if [[ $(cat "$stamp" 2>/dev/null) != "${packages[*]}" ]]; then
  echo "kvpress: installing ${packages[*]} into $venv" >&2
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! { python3 -m venv "$venv" && "$venv/bin/python" -m pip install --quiet "${packages[@]}"; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "kvpress: error: could not install ${packages[*]}" >&2
    exit 1
  fi
  echo "${packages[*]}" >"$stamp"
  rm -f "$log"
  trap - EXIT
fi
exec "$venv/bin/python" "$root/tools/kvpress_compare.py" "$@"
