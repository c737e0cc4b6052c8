#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache/prefix_header.h"
#include "windowkv/vocab.h"

namespace windowkv {

/// The bytes of a saved prefix, and what can be found wrong with them. Copies none of them but the ids.
class SavedPrefix {
 public:
  /// `file` must outlive it; `path` is for messages. Throws Error as PrefixHeader::decode.
  SavedPrefix(std::span<const uint8_t> file, const std::string& path);

  const PrefixHeader& header() const { return header_; }

  /// Throws Error where it cannot be used with a model; its vocabulary comes next, as that of a model takes
  /// time to hash.
  void check_model(const HParams& hp, const std::string& weight_type) const;
  void check_vocabulary(const std::string& vocabulary) const;
  /// The tokens' ids. Throws Error where their checksum does not match, one is negative, or the model, where
  /// it is known, has no such token.
  std::vector<Token> read_ids(std::optional<int> n_vocab = {}) const;
  /// Throws Error where its checksum does not match.
  std::string read_annotation() const;
  /// Reads K and V of all layers, and the snapshots. Throws Error where a checksum does not match.
  void check_data() const;

  /// K or V of a layer that has some, and the zeros behind it.
  std::span<const uint8_t> k(int layer) const;
  std::span<const uint8_t> v(int layer) const;
  /// The states of PrefixHeader::snapshots[index], as a StateSnapshot has them.
  std::span<const uint8_t> snapshot(size_t index) const;

 private:
  size_t layer_at(int layer) const;

  std::span<const uint8_t> file_;
  std::string path_;
  PrefixHeader header_;
  size_t k_bytes_;
  size_t v_bytes_;
  size_t snapshot_bytes_;
};

}  // namespace windowkv
