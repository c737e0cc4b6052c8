#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "windowkv/kv_type.h"
#include "windowkv/model.h"

namespace windowkv::cli {

/// llama.cpp's own benchmarks, run as a user would.
struct LlamaTools {
  std::string model;
  int threads = 0;  ///< 0: its own choice
  int chunk = 0;    ///< tokens a ubatch
  int64_t predict = 0;
  KvTypes kv;
  std::vector<std::string> devices;    ///< GPUs, by ggml's names; none: the CPU alone
  std::vector<double> tensor_split{};  ///< empty: by their free memory
  int cpu_experts = 0;                 ///< ModelOptions::cpu_experts

  struct Speed {
    double prefill_ms = 0;  ///< of one prompt
    double decode_tps = 0;  ///< of all sequences together
  };

  /// Throws Error where the tools that so many sequences need are not on PATH.
  static void require(bool single, bool batched);
  /// `sequences` continue a prompt of n tokens: llama-bench for one, llama-batched-bench for more. These
  /// prefill once and copy the cache, as `windowkv bench` does. Throws Error where a tool fails.
  Speed measure(int64_t n, int64_t sequences) const;
  /// Cells of the cache llama.cpp makes for one sequence.
  int64_t cells(int64_t n) const;
  /// Bytes of K and V of all layers in it.
  int64_t kv_bytes(const HParams& hp, int64_t n) const;
};

}  // namespace windowkv::cli
