#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "cache/prefix_block.h"
#include "windowkv/prefix_store.h"

namespace windowkv {

/// What a PrefixStore holds: token ids, and blocks that show their K and V.
class PrefixParts {
 public:
  /// Tokens [0, count) of a block.
  struct Part {
    std::shared_ptr<const PrefixBlock> block;
    int64_t count;
  };

  std::string annotation;  ///< see PrefixStore

  PrefixParts(const Model& model, const PrefixStoreOptions& options);

  const HParams& hparams() const { return hp_; }
  const PrefixStoreOptions& options() const { return options_; }
  void set_place(PrefixStoreOptions::Place place) { options_.place = place; }
  const std::vector<Part>& all() const { return parts_; }
  const std::vector<Token>& tokens() const { return tokens_; }
  /// Identifies vocabulary and weights, for saved prefixes.
  const std::string& weight_type() const { return weight_type_; }
  const std::string& vocabulary() const { return vocabulary_; }

  void cut(int64_t count);
  /// A block for `count` more tokens. Throws Error where there is no memory.
  std::shared_ptr<PrefixBlock> make_block(int64_t count) const;
  /// Appends a block that is filled, of as many tokens.
  void append(std::shared_ptr<const PrefixBlock> block, std::span<const Token> tokens);
  /// Has the block, of as many tokens, show all of them.
  void replace(std::shared_ptr<const PrefixBlock> block);

 private:
  HParams hp_;
  std::string weight_type_;
  std::string vocabulary_;
  PrefixStoreOptions options_;
  std::vector<Part> parts_;
  std::vector<Token> tokens_;
};

/// Copies K and V of the layer of the store's tokens [first, last) into the first rows, as many at a time as
/// some MiB hold.
void restore_rows(Scheduler& scheduler, const PrefixParts& parts, int layer, int64_t first, int64_t last,
                  const KvRows& rows);

/// A block that begins with all of the store's tokens: its own, where it has one part, or else a new one that
/// takes the place of its parts.
std::shared_ptr<const PrefixBlock> merged_block(Scheduler& scheduler, PrefixParts& parts);

/// Copies rows [first, first + block.tokens()) into the block.
void store_rows(Scheduler& scheduler, const HParams& hp, const KvRows& rows, int64_t first, int layer,
                const PrefixBlock& block);

}  // namespace windowkv
