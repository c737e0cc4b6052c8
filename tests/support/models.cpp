#include "support/models.h"

#include <cstdlib>
#include <filesystem>
#include <random>
#include <set>

#include "support/files.h"
#include "support/gguf_edit.h"

namespace windowkv::test {

std::string minilong_path(std::string_view type) {
  return WINDOWKV_MODELS_DIR "/minilong-6m-" + std::string(type) + ".gguf";
}

std::string smollm2_path() {
  const char* cache = std::getenv("WINDOWKV_CACHE");
  const char* home = std::getenv("HOME");
  const auto folder = cache != nullptr && *cache != '\0'
                          ? std::string(cache)
                          : std::string(home == nullptr ? "" : home) + "/.cache/windowkv/models";
  const auto path = folder + "/smollm2-135m-instruct-q4_1.gguf";
  return std::filesystem::exists(path) ? path : "";
}

std::string random_model_path(std::string_view name, const RandomModel& model) {
  static std::set<std::string> written;
  const auto path = temp_path(std::string(name) + ".gguf");
  if (written.insert(path).second) write_random_model(model, path, 2);
  return path;
}

std::string recurrent_chat_path() {
  RandomModel m;
  m.family = "qwen35";
  m.type = GGML_TYPE_F32;
  m.n_layer = 8;
  m.n_vocab = 4096;
  static const auto path = edit_gguf(random_model_path("recurrent_chat_weights", m), "recurrent_chat.gguf",
                                     [](GgufEdit& edit) { take_vocabulary(edit, minilong_path("q8_0")); });
  return path;
}

std::string test_device() {
  const char* name = std::getenv("WINDOWKV_TEST_DEVICE");
  return name == nullptr ? "cpu" : name;
}

// Other devices multiply in 16 bits.
double device_rounding() {
  return test_device() == "cpu" ? 1 : 10;
}

std::unique_ptr<Model> load(const std::string& path, int threads, bool blas) {
  ModelOptions options;
  options.device = test_device();
  options.threads = threads;
  options.blas = blas;
  return Model::load(path, options);
}

std::vector<Token> random_tokens(int64_t count, int n_vocab, uint64_t seed) {
  // Not a std distribution: those differ between standard libraries.
  std::mt19937_64 random(seed);
  std::vector<Token> tokens(static_cast<size_t>(count));
  for (auto& token : tokens) token = static_cast<Token>(random() % static_cast<uint64_t>(n_vocab));
  return tokens;
}

std::unique_ptr<Policy> full_policy() {
  return make_policy("full", {});
}

std::unique_ptr<Policy> windowkv_policy(const Budget& budget, const SelectionConfig& config) {
  return make_policy("windowkv", {budget, config});
}

}  // namespace windowkv::test
