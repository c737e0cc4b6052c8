#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "cache/prefix_block.h"
#include "cache/state_snapshot.h"
#include "windowkv/prefix_store.h"

namespace windowkv {

/// What a PrefixStore holds: token ids, blocks that show their K and V, and recurrent layers' states at some
/// places.
class PrefixParts {
 public:
  /// Tokens [0, count) of a block.
  struct Part {
    std::shared_ptr<const PrefixBlock> block;
    int64_t count;
  };

  /// The states after so many tokens.
  struct Snapshot {
    int64_t tokens;
    std::shared_ptr<const StateSnapshot> state;
  };

  std::string annotation;  ///< see PrefixStore

  PrefixParts(const Model& model, const PrefixStoreOptions& options);

  /// What a prompt of n tokens takes that is read at once.
  static int64_t bytes(const HParams& hp, const PrefixStoreOptions& options, int64_t n);

  const HParams& hparams() const { return hp_; }
  const PrefixStoreOptions& options() const { return options_; }
  void set_place(PrefixStoreOptions::Place place) { options_.place = place; }
  const std::vector<Part>& all() const { return parts_; }
  const std::vector<Token>& tokens() const { return tokens_; }
  /// Of a model with recurrent layers, by tokens.
  const std::vector<Snapshot>& snapshots() const { return snapshots_; }
  /// The last after `tokens` tokens or fewer; null where there is none.
  const Snapshot* last_snapshot(int64_t tokens) const;
  /// Of all that it holds, each once.
  std::vector<std::shared_ptr<const HostMemory>> memories() const;
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
  /// Where to hold states once a prompt of n tokens is read that has the first `common` in common, `past` of
  /// which are not computed (snapshot_positions); `likely`: where a later one may leave it. None of a model
  /// without recurrent layers.
  std::vector<int64_t> snapshot_positions(int64_t past, int64_t common, int64_t n, int64_t likely = 0) const;
  /// For the states at another place. Throws Error where there is no memory.
  std::shared_ptr<const StateSnapshot> make_snapshot() const;
  /// Takes the place of those it had; by tokens, no more of which than it holds.
  void set_snapshots(std::vector<Snapshot> snapshots) { snapshots_ = std::move(snapshots); }

 private:
  HostMemory make_memory(size_t bytes) const;

  HParams hp_;
  std::string weight_type_;
  std::string vocabulary_;
  PrefixStoreOptions options_;
  std::vector<Part> parts_;
  std::vector<Token> tokens_;
  std::vector<Snapshot> snapshots_;
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
