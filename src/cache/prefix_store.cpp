#include "windowkv/prefix_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "cache/prefix_file.h"
#include "cache/prefix_parts.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

/// K and V are there for every token, a recurrent layer's state for the last alone.
void check_rows(const Model& model) {
  if (const auto& hp = model.hparams(); hp.recurrent())
    throw Error(
        fmt::format("models of family \"{}\" have recurrent layers, whose state no prefix store holds: "
                    "prompts are read from their beginning, and recall is off",
                    hp.family));
}

}  // namespace

PrefixStore::PrefixStore(const Model& model, const PrefixStoreOptions& options) {
  check_rows(model);
  parts_ = std::make_unique<PrefixParts>(model, options);
}

PrefixStore::PrefixStore(std::unique_ptr<PrefixParts> parts) : parts_(std::move(parts)) {}

PrefixStore::~PrefixStore() = default;
PrefixStore::PrefixStore(PrefixStore&&) noexcept = default;
PrefixStore& PrefixStore::operator=(PrefixStore&&) noexcept = default;

PrefixStore PrefixStore::load(const Model& model, const std::string& path, PrefixStoreOptions::Place place) {
  check_rows(model);
  return PrefixStore(read_prefix_file(model, path, place));
}

PrefixStore PrefixStore::fork() const {
  return PrefixStore(std::make_unique<PrefixParts>(*parts_));
}

void PrefixStore::cut(int64_t count) {
  parts_->cut(count);
}

void PrefixStore::save(const std::string& path, const std::string& annotation) const {
  write_prefix_file(*parts_, annotation, path);
}

const std::string& PrefixStore::annotation() const {
  return parts_->annotation;
}

std::span<const Token> PrefixStore::tokens() const {
  return parts_->tokens();
}

int64_t PrefixStore::common_prefix(std::span<const Token> prompt) const {
  const auto& tokens = parts_->tokens();
  return std::ranges::mismatch(tokens, prompt).in1 - tokens.begin();
}

KvTypes PrefixStore::types() const {
  return parts_->options().types;
}

PrefixStoreOptions::Place PrefixStore::place() const {
  return parts_->options().place;
}

void PrefixStore::set_place(PrefixStoreOptions::Place place) {
  parts_->set_place(place);
}

int64_t PrefixStore::bytes() const {
  int64_t sum = 0;
  for (const auto& part : parts_->all())
    sum += static_cast<int64_t>(
        PrefixBlock::bytes(parts_->hparams(), parts_->options().types, part.block->tokens()));
  return sum;
}

int64_t PrefixStore::bytes(int64_t count) const {
  return static_cast<int64_t>(PrefixBlock::bytes(parts_->hparams(), parts_->options().types, count));
}

}  // namespace windowkv
