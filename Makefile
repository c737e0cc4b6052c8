# Everything a newcomer needs: `make demo` and `make test`. Each installs what is missing first (scripts/setup.sh).
BUILD := build/release

.PHONY: demo build test test-vulkan bench format lint analyze asan tsan fuzz setup install clean
demo: build
	@scripts/demo.sh $(BUILD)/windowkv

setup:
	@scripts/setup.sh

build: setup
	@cmake --preset release --log-level=WARNING
	@cmake --build --preset release --target windowkv-cli

test: setup
	@cmake --preset release --log-level=WARNING
	@cmake --build --preset release
	@scripts/fetch-model.sh >/dev/null || echo "test: the tests on SmolLM2 are skipped" >&2
	@scripts/openai-client.sh >/dev/null 2>&1 || echo "test: the test with OpenAI's client is skipped" >&2
	@ctest --test-dir $(BUILD) -j 2 --output-on-failure

# AddressSanitizer and UndefinedBehaviorSanitizer, on the tests that run our own code rather than ggml's kernels. With Clang,
# which compiles for them in half of GCC's time.
asan: setup-dev
	@cmake --preset asan --log-level=WARNING
	@cmake --build --preset asan
	@scripts/sanitized-tests.sh asan

# ThreadSanitizer, on the tests in which several threads run our code; TSAN_TESTS=all runs the others too. Servers that
# they start are those of the release build.
TSAN_TESTS := batch_test engine_test output_file_test prefix_file_test prefix_store_test rpc_test server_test text_test
tsan: build
	@cmake --preset tsan --log-level=WARNING
	@cmake --build --preset tsan --target $(TSAN_TESTS)
	@scripts/sanitized-tests.sh tsan $(TSAN_TESTS)

# libFuzzer on what reads files and requests (docs/reliability.md), FUZZ_SECONDS each. FUZZ_OPTIMIZE=-O0 builds in half of the
# time what then runs slower.
fuzz: setup-dev
	@cmake --preset fuzz --log-level=WARNING $(if $(FUZZ_OPTIMIZE),-DCMAKE_CXX_FLAGS_SANITIZED="$(FUZZ_OPTIMIZE) -g1")
	@cmake --build --preset fuzz
	@scripts/fuzz.sh

# The engine's tests on ggml's Vulkan backend, over Mesa's software driver: a GPU's ways without a GPU.
test-vulkan:
	@scripts/setup.sh --vulkan
	@cmake --preset release --log-level=WARNING
	@cmake --build --preset release
	@scripts/vulkan-tests.sh $(BUILD)

bench: setup
	@cmake --preset release --log-level=WARNING
	@cmake --build --preset release
	@scripts/bench.sh $(BUILD)

install: build
	@cmake --install $(BUILD)

format: setup-dev
	@git ls-files '*.h' '*.cpp' | xargs clang-format -i

# clang-tidy on several files at once, which reads the headers they share once, without the static analyzer, which
# takes as long again. `make analyze` runs all of .clang-tidy on each file by itself, and so finds missing includes too.
CLANG_TIDY := clang-tidy --quiet --warnings-as-errors='*'
lint: setup-dev
	@git ls-files '*.h' '*.cpp' | xargs clang-format --dry-run --Werror
	@cmake --preset lint --log-level=WARNING
	@sed -n 's/.*"file": "\(.*\)".*/\1/p' build/lint/compile_commands.json | grep -v '/tests/\|builtin_' | \
	  xargs -P 2 -n 1 $(CLANG_TIDY) --checks=-clang-analyzer-*,-bugprone-suspicious-include -p build/lint \
	  >build/lint/lint.log 2>&1 || { grep -v 'warnings generated' build/lint/lint.log; exit 1; }

analyze: setup-dev
	@cmake --preset analyze --log-level=WARNING
	@git ls-files 'src/*.cpp' 'tools/*.cpp' | xargs -P 2 -n 4 $(CLANG_TIDY) -p build/analyze \
	  >build/analyze/lint.log 2>&1 || { grep -v 'warnings generated' build/analyze/lint.log; exit 1; }

.PHONY: setup-dev
setup-dev:
	@scripts/setup.sh --dev

clean:
	rm -rf build
