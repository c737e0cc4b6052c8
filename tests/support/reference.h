#pragma once

#include <llama-cpp.h>

#include <span>
#include <string>
#include <vector>

#include "windowkv/engine.h"
#include "windowkv/vocab.h"

namespace windowkv::test {

using Logits = std::vector<std::vector<float>>;  ///< by position

/// The engine's logits after each of the tokens, decoded one by one behind what the sequence holds.
Logits decoded_logits(Engine& engine, Sequence& sequence, std::span<const Token> tokens);

/// Positions [first, end) that are dropped before token `before`, one of those that go through one by one.
struct Dropped {
  size_t before;
  int32_t first;
  int32_t end;
};

/// llama.cpp's own engine on the same file, on the CPU, with ggml's own kernels: it unloads the BLAS backend,
/// so that no model that uses it may be there.
class Reference {
 public:
  explicit Reference(const std::string& path);

  /// Logits after every token of a new sequence. The first `known` tokens go through the model `batch_size`
  /// at once, the rest one by one: ggml's kernels round differently for different numbers of tokens. Without
  /// `flash` attention takes matrix products, which round less. Of the first `known` tokens the rest sees
  /// those at the positions `kept`; all of them where there are none. `dropped`: what goes on the way.
  Logits all_logits(std::span<const Token> tokens, size_t batch_size, size_t known, bool flash = true,
                    std::span<const int32_t> kept = {}, std::span<const Dropped> dropped = {});

 private:
  llama_model_ptr model_;
};

/// How far `ours` is from `theirs`.
struct Difference {
  double worst = 0;  ///< largest over positions of max |a − b| / max |b|
  double most = 0;   ///< of the same, what nine in ten positions stay within
  double mean = 0;   ///< of the same, averaged over positions
  double top1 = 0;   ///< share of positions whose most probable token is the same
};
Difference compare(const Logits& ours, const Logits& theirs);

/// max |a − b| / max |b|.
double relative_error(std::span<const float> ours, std::span<const float> theirs);

}  // namespace windowkv::test
