#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <span>
#include <string>

#include "windowkv/prefix_store.h"

namespace windowkv::cli {

/// --store, --store-type, --store-snapshots, --prefix and --save-prefix: where K and V of all tokens go.
struct StoreFlags {
  std::string place = "auto";
  std::string type = "auto";
  int snapshots = PrefixStoreOptions().snapshots;
  std::string load;  ///< a saved prefix
  std::string save;  ///< where to save it

  void add_to(CLI::App& app);
  /// Whether a store is asked for whatever else is done.
  bool given() const { return !load.empty() || !save.empty(); }
  /// A store with room for prompts of n tokens; none where --store says so, or where "auto" finds no room and
  /// says so in a warning. `for_later`: for further prompts, not just for choosing again. Throws Error for
  /// unknown types and a saved prefix that cannot be used.
  std::optional<PrefixStore> make(const Model& model, int64_t n, bool for_later = true) const;
};

/// --store-type: a type's name, or "auto" for q8_0, and f16 where that does not divide a head.
CLI::Option* add_store_type(CLI::App& group, std::string& type);
KvType store_type(const HParams& hp, const std::string& type);
/// --store-snapshots: PrefixStoreOptions::snapshots.
CLI::Option* add_store_snapshots(CLI::App& group, int& snapshots);

/// Says so where a prompt, or what all prompts begin with, does not begin with all of a store that was loaded
/// from `path`.
void warn_of_unused(const std::string& path, const PrefixStore& store, std::span<const Token> prompt,
                    bool recurrent);

/// "238.0 MiB in memory, q8_0".
std::string describe(const PrefixStore& store);

}  // namespace windowkv::cli
