#!/usr/bin/env bash
# Installs what windowkv builds on, on Debian 12 (bookworm), 13 (trixie), forky and later.
# Quick and silent when nothing is missing. Needs root (or sudo) only when something is.
#   scripts/setup.sh [--dev|--vulkan]   --dev adds clang and its tools, for `make format`, `make lint`, `make asan` and `make fuzz`, and Google Benchmark;
#                                       --vulkan ggml's Vulkan backend and Mesa's drivers, for `make test-vulkan`
set -euo pipefail

# From the machine's own release: the toolchain and the small libraries. They come first, so that nothing of the
# toolchain is pulled up to a newer release with ggml. poppler's pdftotext is what the server reads PDF files with.
base=(g++ cmake ninja-build pkg-config make git ca-certificates python3 python3-pip python3-pexpect
      libcli11-dev nlohmann-json3-dev libfmt-dev libicu-dev libgtest-dev libopenblas0-openmp nettle-dev libxxhash-dev libedit-dev libspdlog-dev poppler-utils)
[[ ${1:-} == --dev ]] && base+=(clang clang-format clang-tidy libclang-rt-dev llvm libbenchmark-dev)
# From forky: ggml, its BLAS backend (over the OpenBLAS above, whose threads are OpenMP's like ggml's) and its RPC backend,
# libllama, minja, llama.cpp's tools, which the benchmarks stand beside, and cpp-httplib, which older releases have in
# versions that do not tell a handler that its client has left.
engine=(libggml-dev libggml0-backend-blas libggml0-backend-rpc libllama-dev libminja-dev llama.cpp-tools
        libcpp-httplib-dev)
[[ ${1:-} == --vulkan ]] && engine+=(libggml0-backend-vulkan mesa-vulkan-drivers)

missing() {
  local p
  for p in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || echo "$p"
  done
}

# libcurl over GnuTLS, which git uses too, unless the one over OpenSSL is there: the two exclude each other.
[[ -n $(missing libcurl4-openssl-dev) ]] && base+=(libcurl4-gnutls-dev)

mapfile -t need_base < <(missing "${base[@]}")
mapfile -t need_engine < <(missing "${engine[@]}")
[[ ${#need_base[@]} -eq 0 && ${#need_engine[@]} -eq 0 ]] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "setup: this is not a Debian system. Install ggml 0.27, llama.cpp 0.7 (libllama), minja, CLI11, nlohmann-json," >&2
  echo "setup: fmt, spdlog, cpp-httplib, ICU, libcurl, nettle, xxHash, libedit and GoogleTest by hand, and put them on CMAKE_PREFIX_PATH." >&2
  exit 1
fi
sudo=
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null || { echo "setup: needs root to install: ${need_base[*]} ${need_engine[*]}" >&2; exit 1; }
  sudo=sudo
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() { "$@" >"$log" 2>&1 || { cat "$log" >&2; echo "setup: failed: $*" >&2; exit 1; }; }
apt() {
  quietly $sudo env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Acquire::Check-Valid-Until=false -o Acquire::Retries=3 "$@"
}

# Older snapshots of a release have no entry for the newest index files; a failed update with usable lists is no error
# here, since a package that cannot be found is reported by the install below.
echo "setup: installing ${need_base[*]} ${need_engine[*]}" >&2
apt update
[[ ${#need_base[@]} -eq 0 ]] || apt install --no-install-recommends "${need_base[@]}"
[[ ${#need_engine[@]} -eq 0 ]] && exit 0

# shellcheck disable=SC1091
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
if [[ $codename == bookworm || $codename == trixie ]]; then
  # The same mirror and key as the machine's own entry, read here so that a mirror or proxy set up on it is kept.
  sources=$(grep -lE "^(URIs|deb )" /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -1 || true)
  uri=$(grep -hoE '^URIs: *[^ ]+' "$sources" | head -1 | awk '{print $2}')
  [[ -n $uri ]] || uri=$(grep -hE '^deb ' "$sources" | grep -oE '[a-z]+://[^ ]+' | head -1)
  [[ -n $uri ]] || { echo "setup: no Debian mirror found in /etc/apt" >&2; exit 1; }
  list=/etc/apt/sources.list.d/windowkv.sources
  suites=forky
  [[ $codename == bookworm ]] && suites="trixie forky"
  $sudo tee "$list" >/dev/null <<S
Types: deb
URIs: $uri
Suites: $suites
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
S
  # Priority 100: only what is asked for by name comes from there.
  $sudo tee /etc/apt/preferences.d/windowkv >/dev/null <<P
Package: *
Pin: release n=trixie
Pin-Priority: 100

Package: *
Pin: release n=forky
Pin-Priority: 100
P
  apt update
  # libssl3t64 must be there before forky's packages: dpkg stops at legacy.so, which libssl3 owns, otherwise.
  [[ $codename == bookworm ]] && apt install --no-install-recommends -t trixie libssl3t64
  apt install --no-install-recommends -t forky "${need_engine[@]}"
else
  apt install --no-install-recommends "${need_engine[@]}"
fi
