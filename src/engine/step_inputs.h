#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/graph.h"

namespace windowkv {

/// What a decode step tells the layers of one device: positions, where the tokens' rows go, and the masks of
/// attention. It lies on the device. A step uploads one list of numbers; masks stay there, and the step's
/// graph itself changes the few values of them that a token changes.
class StepInputs {
 public:
  /// Numbers and mask values that a device is to have room for; each part begins at an address that the
  /// device's kernels read from.
  struct Sizes {
    int64_t numbers = 0;
    int64_t mask = 0;
    int64_t shown = 0;   ///< mask values that a step makes visible
    int64_t hidden = 0;  ///< and that it hides

    /// Adds a part of so many, and returns where it begins.
    static int64_t add(int64_t& size, int64_t count);
  };

  /// Throws Error where there is no memory.
  StepInputs(const Backends& backends, const Sizes& sizes, size_t device);

  /// Numbers [first, first + count): I32.
  ggml_tensor* numbers(ggml_context* ctx, int64_t first, int64_t count) const;
  /// A mask from value `first` on, once what the step changes of it is in the graph: F16, shaped so.
  ggml_tensor* mask(Graph& graph, int64_t first, int64_t keys, int64_t stacks);

  void set_number(int64_t index, int64_t value) {
    values_[static_cast<size_t>(index)] = static_cast<int32_t>(value);
  }
  /// The index of the mask value that the step's `index`-th change makes visible, or hides.
  void show(int64_t index, int64_t value) { set_number(shown_at_ + index, value); }
  void hide(int64_t index, int64_t value) { set_number(hidden_at_ + index, value); }
  /// Mask values from `first` on.
  void set_mask(int64_t first, std::span<const ggml_fp16_t> values);
  /// Sends the numbers to the device; returns how many bytes.
  int64_t upload();

 private:
  static Sizes with_changes(Sizes sizes, int64_t& shown_at, int64_t& hidden_at);

  int64_t shown_at_ = 0;
  int64_t hidden_at_ = 0;
  Sizes sizes_;
  Storage storage_;
  ggml_tensor* numbers_;
  ggml_tensor* mask_;               ///< [1, values] F16; null where there is none
  ggml_tensor* visible_ = nullptr;  ///< [1, Sizes::shown] F32
  ggml_tensor* hidden_ = nullptr;
  ggml_tensor* changed_ = nullptr;  ///< the mask after the step's changes
  std::vector<int32_t> values_;
};

}  // namespace windowkv
