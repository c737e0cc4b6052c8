// The settings users may change one by one; flags and contenders' keys are made from this list.
#include <fmt/format.h>

#include <charconv>

#include "windowkv/error.h"
#include "windowkv/selection.h"

namespace windowkv {

namespace {

/// Throws Error naming the setting for text that is no number.
int number(std::string_view setting, std::string_view text) {
  int value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range)
    throw Error(fmt::format("{} \"{}\" is out of range", setting, text));
  if (error != std::errc() || end != text.data() + text.size())
    throw Error(fmt::format("{} \"{}\": give a whole number", setting, text));
  return value;
}

constexpr SelectionSetting kSettings[] = {
    {"window", "N", "window size ω in tokens",
     [](SelectionOverrides& o, std::string_view text) { o.omega = number("window", text); }},
    {"observe", "N",
     "observation window α: number of last prompt tokens whose attention decides what is kept",
     [](SelectionOverrides& o, std::string_view text) { o.alpha = number("observe", text); }},
    {"spread", "N",
     "the attention of every N-th token of the whole prompt counts too, 0: the end's alone; by default 8 for "
     "aggregation, doubled until no more than 256 count, 0 for localization (free windows only)",
     [](SelectionOverrides& o, std::string_view text) { o.spread = number("spread", text); }},
    {"spread-weight", "P",
     "their part of a token's score, 0 to 100 percent, 50 by default; the rest is the observation window's",
     [](SelectionOverrides& o, std::string_view text) { o.spread_weight = number("spread-weight", text); }},
    {"group", "N", "layers γ that share one selection",
     [](SelectionOverrides& o, std::string_view text) { o.gamma = number("group", text); }},
    {"lambda", "N", "pyramid shape λ",
     [](SelectionOverrides& o, std::string_view text) { o.lambda = number("lambda", text); }},
    {"pyramid", "NAME",
     "budgets by group: code (lower groups more), paper (steeper), flat, measured (by the calibration)",
     [](SelectionOverrides& o, std::string_view text) { o.pyramid = parse_pyramid(text); }},
    {"windows", "NAME",
     "where windows lie: grid (cut from the start of the prompt) or free (starting at attended tokens)",
     [](SelectionOverrides& o, std::string_view text) { o.windows = parse_windows(text); }},
    {"heads", "NAME",
     "mean or max over the query heads (one selection for all), or kv (one for each KV head; free windows "
     "only)",
     [](SelectionOverrides& o, std::string_view text) { o.heads = parse_heads(text); }},
    {"decide", "NAME", "layer that decides for a group: first, last, or all together",
     [](SelectionOverrides& o, std::string_view text) { o.decider = parse_decider(text); }},
    {"rows", "NAME", "sum or max over the observation window's queries",
     [](SelectionOverrides& o, std::string_view text) { o.rows = parse_rows(text); }},
    {"recent", "N", "number of last tokens always kept (free windows only)",
     [](SelectionOverrides& o, std::string_view text) { o.recent = number("recent", text); }},
    {"sinks", "N", "number of first tokens always kept (free windows only)",
     [](SelectionOverrides& o, std::string_view text) { o.sinks = number("sinks", text); }},
};

}  // namespace

std::span<const SelectionSetting> selection_settings() {
  return kSettings;
}

}  // namespace windowkv
