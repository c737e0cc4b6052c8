#include "support/bounded_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "windowkv/error.h"

namespace windowkv {

nlohmann::ordered_json parse_bounded_json(std::string_view text) {
  using Json = nlohmann::ordered_json;
  constexpr int kMostDepth = 64;
  constexpr int kMostKeys = 4096;
  std::vector<int> keys;
  const auto bounded = [&](int depth, Json::parse_event_t event, Json&) {
    if (depth > kMostDepth) throw Error("is nested too deeply");
    if (event == Json::parse_event_t::object_start) keys.push_back(0);
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && ++keys.back() > kMostKeys)
      throw Error(fmt::format("has an object of more than {} fields", kMostKeys));
    return true;
  };
  try {
    return Json::parse(text, bounded);
  } catch (const Json::exception& e) {
    throw Error(fmt::format("is not JSON: {}", e.what()));
  }
}

}  // namespace windowkv
