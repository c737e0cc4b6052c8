#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "random_model.h"
#include "windowkv/model.h"
#include "windowkv/policy.h"
#include "windowkv/vocab.h"

namespace windowkv::test {

/// Path of the MiniLong model in that type: "f16" or "q8_0".
std::string minilong_path(std::string_view type);

/// Path of a model with random weights and MiniLong's vocabulary, every fourth of whose eight layers attends.
std::string recurrent_chat_path();

/// Path of SmolLM2-135M-Instruct, where scripts/fetch-model.sh puts it; "" where it is not.
std::string smollm2_path();
inline constexpr const char* kNoSmolLM2 = "SmolLM2 is not there; scripts/fetch-model.sh fetches it";

/// Path of a model file with these sizes, written once a process under this name.
std::string random_model_path(std::string_view name, const RandomModel& model);

/// Loaded for test_device(). One thread, because ggml's threads wait for each other in a spin, and tests
/// share their cores.
std::unique_ptr<Model> load(const std::string& path, int threads = 1, bool blas = true);

/// The one that the environment variable WINDOWKV_TEST_DEVICE names, or else "cpu".
std::string test_device();

/// How many times the rounding of the CPU's kernels is to be allowed for.
double device_rounding();

/// `count` token ids below n_vocab, the same for the same seed.
std::vector<Token> random_tokens(int64_t count, int n_vocab, uint64_t seed = 1);

std::unique_ptr<Policy> full_policy();
std::unique_ptr<Policy> windowkv_policy(const Budget& budget, const SelectionConfig& config);

}  // namespace windowkv::test
