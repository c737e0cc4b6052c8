#include "windowkv/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

Calibration parse(const std::string& path) {
  try {
    const auto json = nlohmann::json::parse(read_file(path));
    return {json.at("model"), json.at("layer_shares")};
  } catch (const nlohmann::json::exception& e) {
    throw Error(fmt::format("{}: not a calibration that windowkv calibrate writes: {}", path, e.what()));
  }
}

bool fits(const Calibration& c, const HParams& hp) {
  return c.model == hp.name && c.layer_shares.size() == static_cast<size_t>(hp.n_layer);
}

}  // namespace

Calibration read_calibration(const std::string& path, const HParams& hp) {
  auto c = parse(path);
  if (!fits(c, hp))
    throw Error(fmt::format("{}: made for \"{}\" of {} layers; this model is \"{}\" of {}", path, c.model,
                            c.layer_shares.size(), hp.name, hp.n_layer));
  const double total = std::accumulate(c.layer_shares.begin(), c.layer_shares.end(), 0.0);
  const bool usable = std::all_of(c.layer_shares.begin(), c.layer_shares.end(),
                                  [](double x) { return x > 0 && x < 1e6; });  // false for NaN
  if (!usable) throw Error(fmt::format("{}: layer_shares must be numbers above 0", path));
  for (auto& share : c.layer_shares) share *= static_cast<double>(hp.n_layer) / total;
  return c;
}

std::string find_calibration(const std::string& model_path, const HParams& hp) {
  namespace fs = std::filesystem;
  if (hp.name.empty()) return "";  // it would be that of any model without a name
  std::vector<std::string> found;
  std::error_code ignored;
  const auto folder = fs::path(model_path).parent_path();
  for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : folder, ignored))
    if (const auto path = entry.path().string();
        path.ends_with(".calibration.json") && entry.is_regular_file(ignored) && fits(parse(path), hp))
      found.push_back(path);
  // The same one whatever order the folder lists them in.
  return found.empty() ? "" : *std::min_element(found.begin(), found.end());
}

}  // namespace windowkv
