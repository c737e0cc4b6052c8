#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "windowkv/kv_type.h"
#include "windowkv/model.h"

namespace windowkv {

/// What a saved prefix begins with; docs/prefix-store.md has the format.
struct PrefixHeader {
  /// Of the model: name, family, fingerprint, n_layer, n_head_kv, d_head, which layers are recurrent, their
  /// sizes, and what belongs to RoPE. The rest is not in the file.
  HParams hp;
  std::string weight_type;  ///< Model::weight_type
  std::string vocabulary;   ///< PrefixParts::vocabulary
  KvTypes types;
  int64_t tokens = 0;
  int64_t annotation_bytes = 0;    ///< PrefixStore::annotation's
  std::vector<int64_t> snapshots;  ///< PrefixStore::snapshots
  /// XXH3 of the ids, of the annotation, of K and V of each layer that has some, and of each snapshot's
  /// states, each with the zeros behind it.
  struct Checksums {
    uint64_t ids = 0;
    uint64_t annotation = 0;
    std::vector<uint64_t> k;
    std::vector<uint64_t> v;
    std::vector<uint64_t> snapshots;
  } checksums;

  /// Layers that have K and V.
  int row_layers() const { return hp.row_layer(hp.n_layer); }

  /// Where the ids, the annotation, the data and the snapshots begin, and the file ends, in bytes from its
  /// start.
  size_t ids_at = 0;
  size_t annotation_at = 0;
  size_t data_at = 0;
  size_t snapshots_at = 0;
  size_t end = 0;

  /// The bytes before the ids. Sets where everything is.
  std::string encode();
  /// The header of a file of these bytes, which fit: the file is as long as the header says. `path` is for
  /// messages. Throws Error for bytes that are no saved prefix, not of this version or machine, truncated or
  /// damaged.
  static PrefixHeader decode(std::span<const uint8_t> file, const std::string& path);

 private:
  void place(size_t header_bytes);
};

/// Throws Error for a saved prefix that is not as it was written: "PATH: damaged: WHAT; ...".
[[noreturn]] void refuse_damaged(const std::string& path, const std::string& what);

}  // namespace windowkv
