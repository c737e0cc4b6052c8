#include "engine/step_inputs.h"

#include <cmath>

namespace windowkv {

namespace {

// 256 bytes of F16 values, and more of numbers: no device asks for more.
constexpr int64_t kAlignment = 128;

}  // namespace

int64_t StepInputs::Sizes::add(int64_t& size, int64_t count) {
  const int64_t first = size;
  size += (count + kAlignment - 1) / kAlignment * kAlignment;
  return first;
}

StepInputs::Sizes StepInputs::with_changes(Sizes sizes, int64_t& shown_at, int64_t& hidden_at) {
  shown_at = Sizes::add(sizes.numbers, sizes.shown);
  hidden_at = Sizes::add(sizes.numbers, sizes.hidden);
  return sizes;
}

StepInputs::StepInputs(const Backends& backends, const Sizes& sizes, size_t device)
    : sizes_(with_changes(sizes, shown_at_, hidden_at_)),
      storage_(backends, "a decode step's inputs", 4, device),
      numbers_(storage_.add(GGML_TYPE_I32, sizes_.numbers, 1)),
      mask_(sizes_.mask > 0 ? storage_.add(GGML_TYPE_F16, 1, sizes_.mask) : nullptr),
      values_(static_cast<size_t>(sizes_.numbers), 0) {
  if (sizes_.shown > 0) visible_ = storage_.add(GGML_TYPE_F32, 1, sizes_.shown);
  if (sizes_.hidden > 0) hidden_ = storage_.add(GGML_TYPE_F32, 1, sizes_.hidden);
  storage_.allocate(/*clear=*/true);
  if (hidden_ == nullptr) return;
  const std::vector<float> values(static_cast<size_t>(sizes_.hidden), -INFINITY);
  ggml_backend_tensor_set(hidden_, values.data(), 0, ggml_nbytes(hidden_));
}

ggml_tensor* StepInputs::numbers(ggml_context* ctx, int64_t first, int64_t count) const {
  return ggml_view_1d(ctx, numbers_, count, static_cast<size_t>(first) * sizeof(int32_t));
}

ggml_tensor* StepInputs::mask(Graph& graph, int64_t first, int64_t keys, int64_t stacks) {
  auto* ctx = graph.ctx();
  if (changed_ == nullptr) {
    changed_ = ggml_set_rows(ctx, mask_, visible_, numbers(ctx, shown_at_, sizes_.shown));
    if (hidden_ != nullptr)
      changed_ = ggml_set_rows(ctx, changed_, hidden_, numbers(ctx, hidden_at_, sizes_.hidden));
    graph.add(changed_);
  }
  const size_t row = ggml_row_size(GGML_TYPE_F16, keys);
  return ggml_view_4d(ctx, changed_, keys, 1, 1, stacks, row, row, row, ggml_row_size(GGML_TYPE_F16, first));
}

void StepInputs::set_mask(int64_t first, std::span<const ggml_fp16_t> values) {
  ggml_backend_tensor_set(mask_, values.data(), ggml_row_size(GGML_TYPE_F16, first), values.size_bytes());
}

int64_t StepInputs::upload() {
  ggml_backend_tensor_set(numbers_, values_.data(), 0, ggml_nbytes(numbers_));
  return static_cast<int64_t>(ggml_nbytes(numbers_));
}

}  // namespace windowkv
