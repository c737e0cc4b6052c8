#pragma once

#include <cmath>
#include <numeric>
#include <vector>

#include "backend/graph.h"
#include "windowkv/model.h"

/// Tensors that live as long as one prefill.
namespace windowkv {

/// The causal mask of every chunk in one tensor: `prefix` columns of zeros, then a triangle of `chunk`
/// columns. The mask of the chunk at position p is the view that starts prefix − p columns in, so that
/// nothing is filled in or copied from chunk to chunk and layer to layer.
class CausalMask {
 public:
  CausalMask(const Backends& backends, int64_t n, int64_t chunk)
      : prefix_((n - 1) / chunk * chunk), width_(prefix_ + chunk), storage_(backends, "the causal mask", 1) {
    // One row more than there are queries: views start inside the first row and end inside the last.
    tensor_ = storage_.add(GGML_TYPE_F16, width_, chunk + 1);
    storage_.allocate(/*clear=*/true);
    const ggml_fp16_t hidden = ggml_fp32_to_fp16(-INFINITY);
    for (int64_t row = 0; row + 1 < chunk; ++row) {
      std::vector<ggml_fp16_t> tail(static_cast<size_t>(chunk - 1 - row), hidden);
      ggml_backend_tensor_set(tensor_, tail.data(),
                              ggml_row_size(GGML_TYPE_F16, row * width_ + prefix_ + row + 1),
                              tail.size() * sizeof(ggml_fp16_t));
    }
  }

  ggml_tensor* view(ggml_context* ctx, int64_t position, int64_t rows) const {
    return ggml_view_2d(ctx, tensor_, width_, rows, tensor_->nb[1],
                        ggml_row_size(GGML_TYPE_F16, prefix_ - position));
  }

 private:
  int64_t prefix_;
  int64_t width_;
  Storage storage_;
  ggml_tensor* tensor_;
};

/// What lives as long as one prefill, on the layers' device.
class Prompt {
 public:
  /// `observation`: rows kept aside for scoring, of `in_flight` layers at once; `accumulates`: room for the
  /// attention of all queries.
  Prompt(const Backends& backends, const HParams& hp, int64_t n, int64_t observation, int64_t in_flight,
         bool accumulates)
      : storage_(backends, "the hidden states", 4) {
    hidden = storage_.add(GGML_TYPE_F32, hp.n_embd, n);
    positions_ = storage_.add(GGML_TYPE_I32, n, 1);
    if (observation > 0) {
      observed_ = storage_.add(GGML_TYPE_F32, hp.n_embd, observation * in_flight);
      observation_ = observation;
    }
    if (accumulates) accumulated = storage_.add(GGML_TYPE_F32, n, hp.n_head);
    storage_.allocate(/*clear=*/false);
    std::vector<int32_t> numbers(static_cast<size_t>(n));
    std::iota(numbers.begin(), numbers.end(), 0);
    ggml_backend_tensor_set(positions_, numbers.data(), 0, ggml_nbytes(positions_));
  }

  ggml_tensor* hidden_at(ggml_context* ctx, int64_t first, int64_t count) const {
    return ggml_view_2d(ctx, hidden, hidden->ne[0], count, hidden->nb[1],
                        static_cast<size_t>(first) * hidden->nb[1]);
  }
  ggml_tensor* positions_at(ggml_context* ctx, int64_t first, int64_t count) const {
    return ggml_view_1d(ctx, positions_, count, static_cast<size_t>(first) * positions_->nb[0]);
  }

  int64_t tokens() const { return hidden->ne[1]; }
  /// Rows kept aside: 0 where no layer observes.
  int64_t observation() const { return observation_; }
  /// The last `count` rows of what was kept aside of `layer`'s input; layers share places in turn.
  ggml_tensor* observed_last(ggml_context* ctx, int layer, int64_t count) const {
    const int64_t end = (layer % (observed_->ne[1] / observation_) + 1) * observation_;
    return ggml_view_2d(ctx, observed_, observed_->ne[0], count, observed_->nb[1],
                        static_cast<size_t>(end - count) * observed_->nb[1]);
  }
  void forget_accumulated() { ggml_backend_tensor_memset(accumulated, 0, 0, ggml_nbytes(accumulated)); }

  ggml_tensor* hidden = nullptr;  ///< [n_embd, n] F32: the current layer's input, chunk by chunk its output
  ggml_tensor* accumulated =
      nullptr;  ///< [n, n_head] F32: attention received in this layer; null: not asked for

 private:
  Storage storage_;
  ggml_tensor* positions_ = nullptr;
  ggml_tensor* observed_ =
      nullptr;  ///< [n_embd, observation · layers in flight] F32: inputs of the last tokens
  int64_t observation_ = 0;
};

}  // namespace windowkv
