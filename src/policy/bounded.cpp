// A policy under which prompt and answer together take no more than so many tokens of a layer.
#include "policy/policies.h"

namespace windowkv {

namespace {

/// Without a total: what chooses again.
class Bounded final : public Policy {
 public:
  explicit Bounded(std::unique_ptr<Policy> first, std::shared_ptr<const Policy> again = nullptr,
                   int64_t total = 0)
      : first_(std::move(first)), again_(std::move(again)), total_(total) {}
  std::string_view name() const override { return first_->name(); }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    // The total is that of every layer.
    auto flat = shape;
    flat.layer_shares = {};
    return first_->start(flat);
  }
  const SelectionConfig* config() const override { return first_->config(); }
  std::optional<Budget> budget() const override { return first_->budget(); }
  int64_t total() const override { return total_; }
  std::shared_ptr<const Policy> again() const override { return again_; }

 private:
  std::unique_ptr<Policy> first_;
  std::shared_ptr<const Policy> again_;
  int64_t total_;
};

}  // namespace

std::unique_ptr<Policy> make_bounded(std::unique_ptr<Policy> first, std::unique_ptr<Policy> again,
                                     int64_t total) {
  return std::make_unique<Bounded>(std::move(first), std::make_shared<Bounded>(std::move(again)), total);
}

}  // namespace windowkv
