#include "cli/layer_ranges.h"

#include <fmt/format.h>

#include <charconv>

#include "windowkv/error.h"

namespace windowkv::cli {

std::string layers_text(int first, int last) {
  return first == last ? fmt::format("layer {}", first) : fmt::format("layers {}-{}", first, last);
}

std::vector<std::string> kept_by_layers(const HParams& hp, const std::vector<int64_t>& kept) {
  std::vector<std::string> runs;
  auto keeping = [&](size_t layer) {
    while (layer < kept.size() && !hp.has_rows(static_cast<int>(layer))) ++layer;
    return layer;
  };
  for (size_t first = keeping(0), next; first < kept.size(); first = next) {
    size_t last = first;
    for (next = first; next < kept.size() && kept[next] == kept[first]; next = keeping(next + 1)) last = next;
    runs.push_back(
        fmt::format("{} in {}", kept[first], layers_text(static_cast<int>(first), static_cast<int>(last))));
  }
  return runs;
}

std::vector<bool> parse_layers(const std::vector<std::string>& list, int n_layer) {
  std::vector<bool> layers(static_cast<size_t>(n_layer), false);
  for (const auto& range : list) {
    const char* end = range.data() + range.size();
    int first = -1;
    auto read = std::from_chars(range.data(), end, first);
    int last = first;
    if (read.ec == std::errc() && read.ptr != end && *read.ptr == '-')
      read = std::from_chars(read.ptr + 1, end, last);
    if (read.ec != std::errc() || read.ptr != end || first < 0 || last < first || last >= n_layer)
      throw Error(
          fmt::format("--layers {}: neither a layer nor a range such as 2-5; the model has layers 0-{}",
                      range, n_layer - 1));
    for (int layer = first; layer <= last; ++layer) layers[static_cast<size_t>(layer)] = true;
  }
  return layers;
}

}  // namespace windowkv::cli
