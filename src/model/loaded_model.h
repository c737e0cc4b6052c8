#pragma once

#include <memory>
#include <optional>
#include <string>

#include "backend/backend.h"
#include "backend/logit_scale.h"
#include "model/family.h"
#include "model/gguf_file.h"
#include "model/weights.h"
#include "windowkv/vocab.h"

namespace windowkv {

/// What the attention of a layer needs beside queries and rows.
struct LayerAttention {
  LogitScale logits;
  int64_t window;      ///< of the last rows up to its own that a query sees; 0: all
  ggml_tensor* sinks;  ///< [n_head] F32, logits beside those of the rows, whose weight goes nowhere; or null
  /// Whether products may round to 16 bits: a hundredth of what rounding to quantized weights changes.
  bool rounded = false;
};

/// What Model holds, for the engine.
struct LoadedModel {
  std::unique_ptr<GgufFile> file;
  HParams hp;
  std::string calibration;
  const Family* family = nullptr;
  std::unique_ptr<Vocab> vocab;
  std::string vocab_error;  ///< why `vocab` is null
  std::optional<Backends> backends;
  Weights weights;
  WeightLoader::Loaded storage;

  LayerAttention attention(int layer) const {
    return {{hp.attention_scale, hp.attention_softcap},
            hp.attention_of(layer).window,
            weights.layers[static_cast<size_t>(layer)].sinks,
            ggml_is_quantized(weights.layers[static_cast<size_t>(layer)].wo->type)};
  }
};

}  // namespace windowkv
