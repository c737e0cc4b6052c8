#include "support/part_name.h"

#include <fmt/format.h>

#include <string_view>

namespace windowkv {

std::optional<PartName> PartName::parse(const std::string& path) {
  constexpr std::string_view kForm = "-00000-of-00000.gguf";
  if (path.size() < kForm.size()) return std::nullopt;
  const size_t stem = path.size() - kForm.size();
  for (size_t i = 0; i < kForm.size(); ++i)
    if (const char c = path[stem + i]; kForm[i] == '0' ? c < '0' || c > '9' : c != kForm[i])
      return std::nullopt;
  PartName name{path.substr(0, stem), std::stoi(path.substr(stem + 1, 5)),
                std::stoi(path.substr(stem + 10, 5))};
  if (name.number < 1 || name.number > name.count) return std::nullopt;
  return name;
}

std::string PartName::path(int of) const {
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, of, count);
}

}  // namespace windowkv
