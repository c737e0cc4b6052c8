#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Saved prefixes with any content, whose checksums match all the same: for tests and the fuzz target.
namespace windowkv::test {

struct PrefixPieces {
  nlohmann::ordered_json header;
  std::vector<uint8_t> ids;
  std::vector<uint8_t> annotation;
  std::vector<uint8_t> data;
};

/// A file of two layers and three tokens, of a model that is not there.
PrefixPieces small_prefix();
/// The same of three layers, two of them recurrent, whose states after one and three tokens it has.
PrefixPieces small_recurrent_prefix();

/// The pieces of a file that is as it should be.
PrefixPieces take_apart(std::span<const uint8_t> file);

/// Gives ids and data the sizes that the header says and sets the checksums in it. Returns false, and leaves
/// everything, where its sizes make no sense or need more than a MiB.
bool seal(PrefixPieces& pieces);

/// The file, around any text in the place of the JSON.
std::vector<uint8_t> put_together(std::string_view json, const PrefixPieces& pieces);
inline std::vector<uint8_t> put_together(const PrefixPieces& pieces) {
  return put_together(pieces.header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), pieces);
}

}  // namespace windowkv::test
