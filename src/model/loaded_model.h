#pragma once

#include <memory>
#include <optional>
#include <string>

#include "backend/backend.h"
#include "model/family.h"
#include "model/gguf_file.h"
#include "model/weights.h"
#include "windowkv/vocab.h"

namespace windowkv {

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
};

}  // namespace windowkv
