#include "cli/llama_tools.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "backend/blas.h"
#include "cli/process.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

using Json = nlohmann::json;

std::vector<std::string> with(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// What holds the layers. llama-bench would take what a comma separates for one test after another.
std::vector<std::string> placement(const LlamaTools& tools, std::string_view separator) {
  if (tools.devices.empty()) return {"-dev", "none"};
  std::vector<std::string> words = {"-ngl", "99", "-dev",
                                    fmt::format("{}", fmt::join(tools.devices, separator))};
  if (!tools.tensor_split.empty())
    words = with(words, {"-ts", fmt::format("{}", fmt::join(tools.tensor_split, separator))});
  if (tools.cpu_experts > 0) words = with(words, {"-ncmoe", fmt::format("{}", tools.cpu_experts)});
  return words;
}

Json run_json(const std::vector<std::string>& arguments) {
  const auto text = run_program(arguments);
  try {
    return Json::parse(text);
  } catch (const Json::exception&) {
    throw Error(fmt::format("{} printed no JSON; is it from llama.cpp 0.7?", arguments[0]));
  }
}

}  // namespace

void LlamaTools::require(bool single, bool batched) {
  if (single) require_program("llama-bench", "install llama.cpp's tools (Debian: llama.cpp-tools)");
  if (batched)
    require_program("llama-batched-bench",
                    "install llama.cpp's extra tools (Debian: llama.cpp-tools-extra) or omit --batch");
}

namespace {

/// As llama_context pads its caches.
int64_t padded(int64_t cells) {
  return (cells + 255) / 256 * 256;
}

}  // namespace

int64_t LlamaTools::cells(int64_t n) const {
  return padded(n + predict);
}

int64_t LlamaTools::kv_bytes(const HParams& hp, int64_t n) const {
  int64_t all = 0;
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    if (!hp.has_rows(layer)) continue;
    const int64_t window = hp.attention_of(layer).window;
    // Of a window and the tokens that are computed together.
    const int64_t rows = window > 0 ? std::min(cells(n), padded(window + chunk)) : cells(n);
    all += rows * kv_token_bytes(hp, kv, layer);
  }
  return all;
}

LlamaTools::Speed LlamaTools::measure(int64_t n, int64_t sequences) const {
  // The same BLAS as windowkv's and the same kernels of it, whatever the system's choice; else no threads of
  // a BLAS that spin against ggml's: llama.cpp's best on few cores.
  if (const auto blas = blas_library(); !blas.empty()) {
    setenv("LD_PRELOAD", blas.c_str(), /*overwrite=*/0);
    setenv("OPENBLAS_CORETYPE", blas_kernels().c_str(), /*overwrite=*/0);
  } else {
    setenv("OPENBLAS_NUM_THREADS", "1", /*overwrite=*/0);
  }
  std::vector<std::string> common = {"-m", model, "-ub", std::to_string(chunk)};
  if (threads > 0) common = with(common, {"-t", std::to_string(threads)});
  if (kv != KvTypes{})
    common = with(common,
                  {"-fa", "on", "-ctk", std::string(to_string(kv.k)), "-ctv", std::string(to_string(kv.v))});
  const auto length = std::to_string(n);
  const auto count = std::to_string(predict);
  try {
    if (sequences == 1) {
      const auto bench =
          with(with(with({"llama-bench"}, common), placement(*this, "/")), {"-r", "1", "-o", "json"});
      // It would warm up with a whole prompt; with a long one the first touch of the weights is lost in it.
      const std::vector<std::string> warm_up =
          n >= 4096 ? std::vector<std::string>{"--no-warmup"} : std::vector<std::string>{};
      const auto prefill = run_json(with(with(bench, warm_up), {"-p", length, "-n", "0"}));
      const auto decode = run_json(with(with(bench, warm_up), {"-p", "0", "-n", count, "-d", length}));
      return {static_cast<double>(n) * 1e3 / prefill.at(0).at("avg_ts").get<double>(),
              decode.at(0).at("avg_ts").get<double>()};
    }
    const auto row = run_json(with(with(with({"llama-batched-bench"}, common), placement(*this, ",")),
                                   {"-c", std::to_string(cells(n) * sequences), "-npp", length, "-ntg", count,
                                    "-npl", std::to_string(sequences), "-pps", "--output-format", "jsonl"}));
    return {row.at("t_pp").get<double>() * 1e3, row.at("speed_tg").get<double>()};
  } catch (const Json::exception&) {
    throw Error("llama.cpp's tools do not print the fields that those of version 0.7 do; install that one");
  }
}

}  // namespace windowkv::cli
