#include "windowkv/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "model/builtin_calibrations.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

namespace fs = std::filesystem;

/// Throws Error for text that is no calibration.
Calibration parse(std::string_view text, const std::string& source) {
  Calibration c{.source = source};
  try {
    const auto json = nlohmann::json::parse(text);
    c.model = json.at("model");
    c.layer_shares = json.at("layer_shares").get<std::vector<double>>();
    c.fingerprint = json.at("fingerprint");
  } catch (const nlohmann::json::exception&) {
    throw Error(
        fmt::format("{}: not a calibration written by windowkv calibrate, a JSON object with \"model\", "
                    "\"layer_shares\" and \"fingerprint\"",
                    source));
  }
  const bool usable = std::all_of(c.layer_shares.begin(), c.layer_shares.end(),
                                  [](double x) { return x >= 1e-6 && x <= 1e6; });  // false for NaN
  if (!usable || c.layer_shares.empty())
    throw Error(
        fmt::format("{}: not a calibration: layer_shares must be numbers from 0.000001 to 1000000", source));
  const double total = std::accumulate(c.layer_shares.begin(), c.layer_shares.end(), 0.0);
  for (auto& share : c.layer_shares) share *= static_cast<double>(c.layer_shares.size()) / total;
  return c;
}

bool fits(const Calibration& c, const HParams& hp) {
  return c.fingerprint == hp.fingerprint && c.layer_shares.size() == static_cast<size_t>(hp.n_layer);
}

}  // namespace

Calibration read_calibration(const std::string& path, const HParams& hp) {
  auto c = parse(read_file(path), path);
  if (!fits(c, hp))
    throw Error(fmt::format(
        "{}: made for another model, \"{}\" of {} layers (fingerprint {}); this one is \"{}\" of {} ({})",
        path, c.model, c.layer_shares.size(), c.fingerprint, hp.name, hp.n_layer, hp.fingerprint));
  return c;
}

std::optional<Calibration> find_calibration(const std::string& model_path, const HParams& hp,
                                            const std::function<void(const std::string& line)>& warning) {
  std::vector<std::string> files;
  std::error_code ignored;
  const auto folder = fs::path(model_path).parent_path();
  for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : folder, ignored))
    if (auto path = entry.path().string();
        path.ends_with(".calibration.json") && entry.is_regular_file(ignored))
      files.push_back(std::move(path));
  std::sort(files.begin(), files.end());  // the same one whatever order the folder lists them in
  for (const auto& path : files) try {
      if (auto c = parse(read_file(path), path); fits(c, hp)) return c;
    } catch (const Error& e) {
      if (warning) warning(fmt::format("{}; continuing without it", e.what()));
    }
  for (const auto& line : lines_of(builtin_calibrations()))
    if (auto c = parse(line.text, "built in"); fits(c, hp)) return c;
  return {};
}

}  // namespace windowkv
