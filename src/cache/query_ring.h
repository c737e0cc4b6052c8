#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/graph.h"
#include "windowkv/model.h"

namespace windowkv {

/// The newest queries of a sequence in every layer, [d_head·n_head, rows] F32, RoPE applied, on the device of
/// the layer: the oldest row is overwritten first.
class QueryRing {
 public:
  /// Throws Error where the memory is not to be had.
  QueryRing(const Backends& backends, const HParams& hp, int64_t rows);

  int64_t rows() const { return rows_; }
  ggml_tensor* of(int layer) const { return layers_[static_cast<size_t>(layer)]; }
  /// Row that the next token's queries go to.
  int64_t next() const { return next_; }
  void advance() { next_ = (next_ + 1) % rows_; }
  /// Never the same for two rings.
  uint64_t id() const { return id_; }

  /// All layers' rows and next(), to return to.
  struct Content {
    std::vector<float> queries;
    int64_t next = 0;
  };
  Content save() const;
  void restore(const Content& content);

  static int64_t bytes(const HParams& hp, int64_t rows) {
    return int64_t{4} * hp.n_layer * hp.n_head * hp.d_head * rows;
  }

 private:
  uint64_t id_;
  int64_t rows_;
  int64_t next_ = 0;
  std::vector<std::unique_ptr<Storage>> storages_;  ///< by device that holds layers
  std::vector<ggml_tensor*> layers_;
};

}  // namespace windowkv
