#include "windowkv/selection.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <span>

#include "windowkv/error.h"

namespace windowkv {

namespace {

template <class E>
struct Names {
  std::string_view what;
  std::vector<std::pair<E, std::string_view>> names;

  std::string_view text(E value) const {
    for (const auto& [e, name] : names)
      if (e == value) return name;
    return "";
  }
  E parse(std::string_view text) const {
    std::vector<std::string_view> all;
    for (const auto& [e, name] : names) {
      if (name == text) return e;
      all.push_back(name);
    }
    throw Error(fmt::format("unknown {} \"{}\"; use one of: {}", what, text, fmt::join(all, ", ")));
  }
};

const Names<Task> kTasks{"task",
                         {{Task::kLocalization, "localization"}, {Task::kAggregation, "aggregation"}}};
const Names<Pyramid> kPyramids{"pyramid",
                               {{Pyramid::kCode, "code"},
                                {Pyramid::kPaper, "paper"},
                                {Pyramid::kFlat, "flat"},
                                {Pyramid::kMeasured, "measured"}}};
const Names<Windows> kWindows{"window placement", {{Windows::kGrid, "grid"}, {Windows::kFree, "free"}}};
const Names<Heads> kHeads{"combination of heads",
                          {{Heads::kMean, "mean"}, {Heads::kMax, "max"}, {Heads::kPerKv, "kv"}}};
const Names<Decider> kDeciders{
    "deciding layer", {{Decider::kFirst, "first"}, {Decider::kLast, "last"}, {Decider::kAll, "all"}}};
const Names<Rows> kRows{"combination of queries", {{Rows::kSum, "sum"}, {Rows::kMax, "max"}}};

}  // namespace

std::string_view to_string(Task task) {
  return kTasks.text(task);
}
std::string_view to_string(Pyramid pyramid) {
  return kPyramids.text(pyramid);
}
std::string_view to_string(Windows windows) {
  return kWindows.text(windows);
}
std::string_view to_string(Heads heads) {
  return kHeads.text(heads);
}
std::string_view to_string(Decider decider) {
  return kDeciders.text(decider);
}
std::string_view to_string(Rows rows) {
  return kRows.text(rows);
}
Task parse_task(std::string_view name) {
  return kTasks.parse(name);
}
Pyramid parse_pyramid(std::string_view name) {
  return kPyramids.parse(name);
}
Windows parse_windows(std::string_view name) {
  return kWindows.parse(name);
}
Heads parse_heads(std::string_view name) {
  return kHeads.parse(name);
}
Decider parse_decider(std::string_view name) {
  return kDeciders.parse(name);
}
Rows parse_rows(std::string_view name) {
  return kRows.parse(name);
}

Budget Budget::tokens(int64_t count) {
  Budget b;
  b.tokens_ = std::max<int64_t>(0, count);
  b.floor_ = 0;
  return b;
}

Budget Budget::percent(double value, int64_t floor) {
  Budget b;
  b.percent_ = value;
  b.floor_ = floor;
  return b;
}

Budget Budget::parse(std::string_view text) {
  auto refuse = [&]() -> Budget {
    throw Error(fmt::format(
        "budget \"{}\": give tokens per layer (512, or 2k for 2,048), a share of the prompt above 0 "
        "and up to 100 percent (12%), or a share with a floor (12%:1024){}",
        text, text == "full" ? "; --kv full keeps everything" : ""));
  };
  // All of `part` as a number.
  auto number = [](std::string_view part, auto& value) {
    const char* end = part.data() + part.size();
    const auto [stop, error] = std::from_chars(part.data(), end, value);
    return error == std::errc() && stop == end;
  };
  auto tokens_in = [&](std::string_view part, int64_t& count) {
    const bool thousands = part.ends_with('k') || part.ends_with('K');
    if (thousands) part.remove_suffix(1);
    if (!number(part, count) || count < 1 || (thousands && count > INT64_MAX / 1024)) return false;
    if (thousands) count *= 1024;
    return true;
  };
  int64_t count = 0;
  const size_t sign = text.find('%');
  if (sign == std::string_view::npos) return tokens_in(text, count) ? tokens(count) : refuse();
  double share = 0;
  if (!number(text.substr(0, sign), share) || !(share > 0 && share <= 100)) return refuse();
  const auto rest = text.substr(sign + 1);
  if (rest.empty()) return percent(share);
  if (rest.front() != ':' || !tokens_in(rest.substr(1), count)) return refuse();
  return percent(share, count);
}

Budget Budget::at_most(int64_t count) const {
  Budget b = *this;
  b.most_ = std::min(most_, count);
  return b;
}

int64_t Budget::resolve(int64_t n) const {
  const int64_t most = std::min(n, most_);
  if (tokens_ >= 0) return std::min(tokens_, most);
  // The small term keeps 12 % of 100 at 12 where 0.12·100 is a hair less in binary.
  const auto share = static_cast<int64_t>(std::floor(percent_ * static_cast<double>(n) / 100.0 + 1e-9));
  return std::clamp<int64_t>(std::max(share, floor_), 0, most);
}

std::string Budget::text() const {
  if (tokens_ >= 0) return fmt::format("{}", tokens_);
  return floor_ > 0 ? fmt::format("{}%:{}", percent_, floor_) : fmt::format("{}%", percent_);
}

void SelectionConfig::validate() const {
  auto check = [](const char* name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high)
      throw Error(fmt::format("{} is {}; it must be {} to {}", name, value, low, high));
  };
  check("the window size", omega, 1, 65536);
  check("the observation window", alpha, 1, 65536);
  check("the group size", gamma, 1, 1024);
  check("lambda", lambda, 1, 1 << 20);
  check("p", p, 1, omega);
  check("the number of recent tokens", recent, 0, 65536);
  check("the number of sinks", sinks, 0, 65536);
  check("spread, every how many tokens a query counts,", spread, 0, 65536);
  check("the number of spread queries", spread_most, 0, 1 << 20);
  check("the weight of spread queries", spread_weight, 0, 100);
  if (heads == Heads::kPerKv && windows == Windows::kGrid)
    throw Error("a selection for each KV head needs free windows; use heads mean or max, or windows free");
  if (spread > 0 && windows == Windows::kGrid)
    throw Error("queries spread over the prompt need free windows; use spread 0, or windows free");
}

const std::vector<std::string>& preset_names() {
  static const std::vector<std::string> names = {"default",      "paper",     "llama3-8b",
                                                 "qwen2.5-1.5b", "reference", "reference-demo"};
  return names;
}

SelectionConfig make_config(std::string_view preset, Task task, int n_layer,
                            const SelectionOverrides& overrides) {
  SelectionConfig c;
  c.preset = preset;
  c.task = task;
  const bool localization = task == Task::kLocalization;
  bool half_for_localization = false;
  if (preset == "default") {
    // docs/selection.md says how these were found.
    c.windows = Windows::kFree;
    c.heads = Heads::kPerKv;
    c.rows = Rows::kMax;
    c.omega = 16;
    c.alpha = 16;
    c.gamma = 1;
    c.pyramid = Pyramid::kMeasured;
    c.spread = localization ? 0 : 8;
    c.spread_most = 256;
  } else {
    // arXiv 2503.17922, A.3; other models take Llama-3's windows and groups of a quarter of their depth.
    c.omega = localization ? 8 : 16;
    c.alpha = localization ? 16 : 32;
    c.gamma = std::max(1, (n_layer + 2) / 4);
    if (preset == "llama3-8b") {
      c.gamma = 8;
    } else if (preset == "qwen2.5-1.5b") {
      c.gamma = 7;
      c.omega = 32;
      c.alpha = localization ? 4 : 16;
    } else if (preset == "reference" || preset == "reference-demo") {
      c.reference = true;
      half_for_localization = preset == "reference-demo";
    } else if (preset != "paper") {
      throw Error(
          fmt::format("unknown preset \"{}\"; use one of: {}", preset, fmt::join(preset_names(), ", ")));
    }
  }
  c.omega = overrides.omega.value_or(c.omega);
  c.alpha = overrides.alpha.value_or(c.alpha);
  c.gamma = overrides.gamma.value_or(c.gamma);
  c.lambda = overrides.lambda.value_or(c.lambda);
  c.recent = overrides.recent.value_or(c.recent);
  c.sinks = overrides.sinks.value_or(c.sinks);
  c.spread = overrides.spread.value_or(c.spread);
  if (overrides.spread) c.spread_most = 0;
  c.spread_weight = overrides.spread_weight.value_or(c.spread_weight);
  c.pyramid = overrides.pyramid.value_or(c.pyramid);
  c.heads = overrides.heads.value_or(c.heads);
  c.windows = overrides.windows.value_or(c.windows);
  if (c.windows == Windows::kGrid) {  // of ours what a grid cannot have gives way, unless it is asked for
    if (!overrides.spread) c.spread = 0;
    if (!overrides.heads && c.heads == Heads::kPerKv) c.heads = Heads::kMean;
  }
  c.decider = overrides.decider.value_or(c.decider);
  c.rows = overrides.rows.value_or(c.rows);
  c.p = localization != half_for_localization ? c.omega : std::max(1, c.omega / 2);
  c.validate();
  return c;
}

std::vector<Group> make_groups(int n_layer, int gamma) {
  std::vector<Group> groups;
  for (int first = 0; first < n_layer; first += gamma)
    groups.push_back({first, std::min(first + gamma, n_layer) - 1});
  return groups;
}

bool deciding_layer(const SelectionConfig& c, const Group& group, int layer) {
  switch (c.decider) {
    case Decider::kFirst:
      return layer == group.first_layer;
    case Decider::kLast:
      return layer == group.last_layer;
    case Decider::kAll:
      return true;
  }
  return false;
}

int settling_layer(const SelectionConfig& c, const Group& group, int layer) {
  return c.decider == Decider::kFirst ? layer : group.last_layer;
}

int64_t observation_tokens(const SelectionConfig& c, int64_t n, int64_t budget) {
  const int64_t alpha = std::min<int64_t>(c.alpha, n);
  return c.reference || c.windows == Windows::kFree ? alpha : std::min(alpha, std::max<int64_t>(budget, 0));
}

int64_t spread_stride(const SelectionConfig& c, int64_t n) {
  int64_t stride = c.spread;
  while (c.spread_most > 0 && stride > 0 && n / stride > c.spread_most) stride *= 2;
  return stride;
}

AlwaysKept always_kept(const SelectionConfig& c, int64_t n, int64_t budget) {
  if (c.windows == Windows::kGrid) return {0, observation_tokens(c, n, budget)};
  budget = std::clamp<int64_t>(budget, 0, n);
  // The last token stays in any case: what follows continues it.
  return {std::min<int64_t>(c.sinks, budget / 8),
          std::min(budget, std::min<int64_t>(c.recent, std::max<int64_t>(1, budget / 4)))};
}

namespace {

/// B for every group, or falling from the first to the last (the paper's Eq. 5 and 6).
std::vector<int64_t> pyramid_budgets(const SelectionConfig& c, size_t groups, int64_t b) {
  std::vector<int64_t> out(groups, b);
  if (groups == 1 || c.pyramid == Pyramid::kFlat || c.pyramid == Pyramid::kMeasured) return out;
  const auto h = static_cast<int64_t>(groups);
  int64_t last = c.pyramid == Pyramid::kCode ? b * c.gamma / c.lambda : b / c.lambda;
  last = std::min(last, b);
  const int64_t first = 2 * b - last;
  for (int64_t i = 0; i < h; ++i) {
    auto& x = out[static_cast<size_t>(i)];
    if (!c.reference)
      x = (first * (h - 1 - i) + last * i) / (h - 1);
    else
      x = i == h - 1 ? last : first - i * ((first - last) / (h - 1));
  }
  return out;
}

/// b a layer on average, by the groups' mean shares; what a group cannot use goes to the others.
std::vector<int64_t> measured_budgets(std::span<const double> layer_shares, std::span<const Group> groups,
                                      int64_t review, int64_t b) {
  std::vector<double> share;
  for (const auto& g : groups)
    share.push_back(
        std::accumulate(layer_shares.begin() + g.first_layer, layer_shares.begin() + g.last_layer + 1, 0.0) /
        g.size());
  std::vector<int64_t> out(groups.size(), 0);
  std::vector<bool> full(groups.size(), false);
  auto room = static_cast<double>(b * (groups.back().last_layer + 1));
  for (bool again = true; again;) {
    again = false;
    double total = 0;
    for (size_t i = 0; i < out.size(); ++i)
      if (!full[i]) total += share[i] * groups[i].size();
    for (size_t i = 0; i < out.size() && total > 0; ++i) {
      if (full[i]) continue;
      const double tokens = room * share[i] / total;
      out[i] = static_cast<int64_t>(std::floor(tokens + 1e-9));
      if (out[i] < review) continue;
      out[i] = review;
      full[i] = again = true;
    }
    if (!again) break;
    room = static_cast<double>(b * (groups.back().last_layer + 1));
    for (size_t i = 0; i < out.size(); ++i)
      if (full[i]) room -= static_cast<double>(review * groups[i].size());
    room = std::max(room, 0.0);
  }
  return out;
}

}  // namespace

std::vector<int64_t> group_budgets(const SelectionConfig& c, int n_layer, int64_t n, int64_t budget,
                                   std::span<const double> layer_shares) {
  const auto groups = make_groups(n_layer, c.gamma);
  const int64_t always = always_kept(c, n, budget).total();
  const int64_t review = n - always;
  const int64_t b = std::max<int64_t>(0, budget - (c.reference ? 0 : always));

  // Room for everything: rounding the pyramid's steps must not drop a token of it.
  if (!c.reference && budget >= n) return std::vector<int64_t>(groups.size(), review);
  if (c.pyramid == Pyramid::kMeasured && !layer_shares.empty())
    return measured_budgets(layer_shares, groups, review, b);
  auto out = pyramid_budgets(c, groups.size(), b);
  if (c.reference) return out;

  // A shorter last group would let the lower ones take more than the whole budget.
  int64_t total = 0;
  for (size_t i = 0; i < out.size(); ++i) total += out[i] * groups[i].size();
  const int64_t limit = b * n_layer;
  if (total > limit)
    for (auto& x : out) x = x * limit / total;
  // What a group cannot use goes to the groups above it, counted in token-layers.
  int64_t spare = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t size = groups[i].size();
    out[i] += spare / size;
    spare %= size;
    const int64_t over = std::max<int64_t>(0, out[i] - review);
    out[i] -= over;
    spare += over * size;
  }
  return out;
}

int64_t window_count(const SelectionConfig& c, int64_t review) {
  return (review + c.omega - 1) / c.omega;
}

int64_t windows_kept(const SelectionConfig& c, int64_t review, int64_t group_budget) {
  const int64_t count = window_count(c, review);
  if (review <= group_budget) return count;
  if (c.reference) return std::max<int64_t>(0, count - (review - group_budget + c.omega - 1) / c.omega);
  return group_budget / c.omega;
}

std::vector<TokenRange> to_ranges(const std::vector<int32_t>& positions) {
  std::vector<TokenRange> ranges;
  for (auto position : positions) {
    if (ranges.empty() || ranges.back().second != position) ranges.emplace_back(position, position);
    ++ranges.back().second;
  }
  return ranges;
}

}  // namespace windowkv
