// The settings users may change one by one; flags and contenders' keys are made from this list.
#include <fmt/format.h>

#include <charconv>

#include "windowkv/error.h"
#include "windowkv/selection.h"

namespace windowkv {

namespace {

template <std::optional<int> SelectionOverrides::*field>
void set_number(SelectionOverrides& overrides, std::string_view text) {
  int value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw Error(fmt::format("\"{}\" is not a number", text));
  overrides.*field = value;
}

constexpr SelectionSetting kSettings[] = {
    {"window", "N", "window size ω, tokens", set_number<&SelectionOverrides::omega>},
    {"observe", "N", "observation window α: the prompt's last tokens, which choose",
     set_number<&SelectionOverrides::alpha>},
    {"group", "N", "layers that share one choice, γ", set_number<&SelectionOverrides::gamma>},
    {"lambda", "N", "pyramid shape λ", set_number<&SelectionOverrides::lambda>},
    {"pyramid", "NAME",
     "budgets by group: code (lower groups more), paper (steeper), flat, measured (by the calibration)",
     [](SelectionOverrides& o, std::string_view text) { o.pyramid = parse_pyramid(text); }},
    {"windows", "NAME",
     "grid (cut from the prompt's beginning), or free (from a token that is attended to onwards)",
     [](SelectionOverrides& o, std::string_view text) { o.windows = parse_windows(text); }},
    {"heads", "NAME", "one choice by the heads' mean or max, or kv: one for each KV head (free windows only)",
     [](SelectionOverrides& o, std::string_view text) { o.heads = parse_heads(text); }},
    {"decide", "NAME", "the layer that chooses for a group: first, last, or all of them together",
     [](SelectionOverrides& o, std::string_view text) { o.decider = parse_decider(text); }},
    {"rows", "NAME", "attention of the observation window's tokens: their sum, or max",
     [](SelectionOverrides& o, std::string_view text) { o.rows = parse_rows(text); }},
    {"recent", "N", "last tokens always kept; free windows only", set_number<&SelectionOverrides::recent>},
    {"sinks", "N", "first tokens always kept; free windows only", set_number<&SelectionOverrides::sinks>},
};

}  // namespace

std::span<const SelectionSetting> selection_settings() {
  return kSettings;
}

}  // namespace windowkv
