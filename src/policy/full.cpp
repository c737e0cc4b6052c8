// Keeps everything: the ceiling that other policies are measured against.
#include <numeric>

#include "policy/policies.h"

namespace windowkv {

namespace {

class FullSelector final : public Selector {
 public:
  explicit FullSelector(const PromptShape& shape) : shape_(shape) {}
  int64_t observation() const override { return 0; }
  int64_t capacity(int) const override { return shape_.n; }
  bool decides(int) const override { return false; }
  ggml_tensor* build(ggml_context*, std::span<const LayerView>) const override { return nullptr; }
  KeptTokens choose(int, std::span<const int32_t>) override {
    std::vector<int32_t> all(static_cast<size_t>(shape_.n));
    std::iota(all.begin(), all.end(), 0);
    return {all};
  }
  std::vector<GroupSelection> groups() const override {
    return {{{0, shape_.n_layer - 1}, shape_.n, {}, {{0, shape_.n}}, {}}};
  }

 private:
  PromptShape shape_;
};

class Full final : public Policy {
 public:
  std::string_view name() const override { return "full"; }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    return std::make_unique<FullSelector>(shape);
  }
};

}  // namespace

std::unique_ptr<Policy> make_full(const PolicyOptions&) {
  return std::make_unique<Full>();
}

}  // namespace windowkv
