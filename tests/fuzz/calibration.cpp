// Calibration files, and the budgets that come of one.
#include "windowkv/calibration.h"

#include <algorithm>

#include "input.h"
#include "model/builtin_calibrations.h"
#include "windowkv/policy.h"
#include "windowkv/selection.h"

// None, where the library has those that come with it: each run would read them.
std::string_view windowkv::builtin_calibrations() {
  return {};
}

using namespace windowkv;

namespace {

constexpr int kLayers = 3;

HParams model() {
  HParams hp;
  hp.name = "a model";
  hp.fingerprint = "0123456789abcdef";  // as the corpus has it
  hp.n_layer = kLayers;
  return hp;
}

void check_budgets(const std::vector<double>& shares, int gamma, int64_t n, int64_t budget) {
  SelectionConfig config;
  config.pyramid = Pyramid::kMeasured;
  config.gamma = gamma;
  const auto budgets = group_budgets(config, kLayers, n, budget, shares);
  int64_t total = 0;
  for (size_t g = 0; g < budgets.size(); ++g) {
    fuzz::require(budgets[g] >= 0 && budgets[g] <= n, "a budget out of range");
    total += budgets[g] * std::min<int64_t>(gamma, kLayers - static_cast<int64_t>(g) * gamma);
  }
  fuzz::require(total <= budget * kLayers, "more than the budget");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::InputFile file("model.calibration.json");
  static const auto hp = model();
  fuzz::refuse_or([&] {
    const auto calibration = read_calibration(file.fill(fuzz::text_of(data, size)), hp);
    for (const int gamma : {1, 2})
      for (const int64_t budget : {200, 1000}) check_budgets(calibration.layer_shares, gamma, 4000, budget);
  });
  return 0;
}
