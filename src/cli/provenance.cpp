#include "cli/provenance.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ggml.h>
#include <llama.h>

#include <filesystem>
#include <fstream>
#include <vector>

namespace windowkv::cli {

namespace {

std::string shell_word(const std::string& word) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+=./,:%@";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string quoted = "'";
  for (char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(shell_word(word));
  return fmt::format("{}", fmt::join(words, " "));
}

std::string calibration_key(const Model& model) {
  const auto& shares = model.hparams().layer_shares;
  return shares.empty() ? "" : fnv1a64(fmt::format("{}", fmt::join(shares, " ")));
}

std::vector<std::pair<std::string, std::string>> provenance(const Model& model,
                                                            const std::string& model_hash) {
  const auto& hp = model.hparams();
  return {{"Command", command_line()},
          {"Model", fmt::format("{} ({}, {} layers, {}), FNV-1a 64 {}",
                                std::filesystem::path(model.path()).filename().string(), hp.family,
                                hp.n_layer, model.weight_type(), model_hash)},
          {"Versions", fmt::format("windowkv {}, ggml {}, libllama {}", WINDOWKV_VERSION, ggml_version(),
                                   llama_version())},
          {"Calibration", model.calibration().empty() ? "none" : model.calibration()},
          {"Device", model.device_name()}};
}

}  // namespace windowkv::cli
