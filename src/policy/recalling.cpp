// A policy that chooses again while an answer is decoded: another one's choices, made more than once.
#include "policy/policies.h"

namespace windowkv {

namespace {

class Recalling final : public Policy {
 public:
  Recalling(std::unique_ptr<Policy> policy, int every) : policy_(std::move(policy)), every_(every) {}
  std::string_view name() const override { return policy_->name(); }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override { return policy_->start(shape); }
  const SelectionConfig* config() const override { return policy_->config(); }
  std::optional<Budget> budget() const override { return policy_->budget(); }
  int recall() const override { return every_; }
  std::shared_ptr<const Policy> again() const override { return policy_; }

 private:
  std::shared_ptr<const Policy> policy_;
  int every_;
};

}  // namespace

std::unique_ptr<Policy> make_recalling(std::unique_ptr<Policy> policy, int every) {
  return std::make_unique<Recalling>(std::move(policy), every);
}

}  // namespace windowkv
