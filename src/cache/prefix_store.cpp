#include "windowkv/prefix_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "cache/prefix_file.h"
#include "cache/prefix_parts.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

int64_t snapshot_bytes(const PrefixParts& parts, size_t count) {
  return static_cast<int64_t>(count * StateSnapshot::bytes(parts.hparams()));
}

int64_t row_bytes(const PrefixParts& parts, int64_t tokens) {
  return static_cast<int64_t>(PrefixBlock::bytes(parts.hparams(), parts.options().types, tokens));
}

}  // namespace

PrefixStore::PrefixStore(const Model& model, const PrefixStoreOptions& options)
    : parts_(std::make_unique<PrefixParts>(model, options)) {}

PrefixStore::PrefixStore(std::unique_ptr<PrefixParts> parts) : parts_(std::move(parts)) {}

PrefixStore::~PrefixStore() = default;
PrefixStore::PrefixStore(PrefixStore&&) noexcept = default;
PrefixStore& PrefixStore::operator=(PrefixStore&&) noexcept = default;

PrefixStore PrefixStore::load(const Model& model, const std::string& path,
                              const PrefixStoreOptions& options) {
  return PrefixStore(read_prefix_file(model, path, options));
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

int64_t PrefixStore::reusable_prefix(std::span<const Token> prompt) const {
  const int64_t common = common_prefix(prompt);
  if (!parts_->hparams().recurrent()) return common;
  const auto* last = parts_->last_snapshot(common);
  return last != nullptr ? last->tokens : 0;
}

std::vector<int64_t> PrefixStore::snapshots() const {
  std::vector<int64_t> positions;
  for (const auto& snapshot : parts_->snapshots()) positions.push_back(snapshot.tokens);
  return positions;
}

KvTypes PrefixStore::types() const {
  return parts_->options().types;
}

const PrefixStoreOptions& PrefixStore::options() const {
  return parts_->options();
}

PrefixStoreOptions::Place PrefixStore::place() const {
  return parts_->options().place;
}

void PrefixStore::set_place(PrefixStoreOptions::Place place) {
  parts_->set_place(place);
}

int64_t PrefixStore::bytes() const {
  int64_t sum = snapshot_bytes(*parts_, parts_->snapshots().size());
  for (const auto& part : parts_->all()) sum += row_bytes(*parts_, part.block->tokens());
  return sum;
}

int64_t PrefixStore::shown_bytes() const {
  return row_bytes(*parts_, std::ssize(parts_->tokens())) +
         snapshot_bytes(*parts_, parts_->snapshots().size());
}

int64_t PrefixStore::bytes(int64_t count) const {
  return PrefixParts::bytes(parts_->hparams(), parts_->options(), count);
}

int64_t PrefixStore::bytes_to_add(std::span<const Token> prompt) const {
  const auto n = static_cast<int64_t>(prompt.size());
  const int64_t common = common_prefix(prompt);
  const auto after = parts_->snapshot_positions(reusable_prefix(prompt), common, n);
  const auto held = snapshots();
  const auto added =
      std::ranges::count_if(after, [&](int64_t place) { return !std::ranges::binary_search(held, place); });
  return row_bytes(*parts_, n - common) + snapshot_bytes(*parts_, static_cast<size_t>(added));
}

}  // namespace windowkv
