#include "model/token_ids.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv {

std::vector<Token> read_token_ids(const std::string& path) {
  const auto json = nlohmann::json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) throw Error(fmt::format("{}: not a JSON list of token ids", path));
  std::vector<Token> ids;
  ids.reserve(json.size());
  for (const auto& item : json) {
    // By itself the JSON library makes ids of 1.5, of true and of what is too large.
    const bool is_id = item.is_number_unsigned() &&
                       item.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<Token>::max());
    if (!is_id)
      throw Error(fmt::format("{}: not a JSON list of token ids: item {} is {}", path, ids.size() + 1,
                              item.is_number() ? item.dump() : item.type_name()));
    ids.push_back(item.get<Token>());
  }
  return ids;
}

}  // namespace windowkv
