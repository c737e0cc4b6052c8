#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The WindowKV method's settings and its budget arithmetic (arXiv 2503.17922), without tensors.
namespace windowkv {

/// What the end of the prompt asks for; determines how a window's token scores are pooled.
enum class Task {
  kLocalization,  ///< question answering, lookup: mean over the window
  kAggregation,   ///< summaries, few-shot, counting, code: mean of the highest half of the window
};

/// How the budget is distributed over the groups.
enum class Pyramid {
  kCode,      ///< last group B·γ/λ (the released code, and the paper's Appendix A.4)
  kPaper,     ///< last group B/λ (the paper's Eq. 6)
  kFlat,      ///< every group B
  kMeasured,  ///< by measured need (HParams::layer_shares); kFlat where that is empty
};

/// Where windows may lie.
enum class Windows {
  kGrid,  ///< the review context cut into ⌈n/ω⌉ windows from its first token (the paper)
  kFree,  ///< starting at an attended token, as far as its score reaches (build_run_scores)
};

/// How the scores of a layer's query heads are combined.
enum class Heads {
  kMean,   ///< one choice for all heads, by their mean (the paper)
  kMax,    ///< one choice for all heads, by the highest
  kPerKv,  ///< a choice for each KV head, by the mean of its query heads (the paper's A.6); free windows only
};

/// Which layer's attention decides for a group.
enum class Decider {
  kFirst,  ///< the first (the paper)
  kLast,   ///< the last; the others' K and V wait for it in full
  kAll,    ///< the sum over the group, all of whose K and V wait in full
};

/// How the attention of the observation window's queries is combined into one score.
enum class Rows {
  kSum,  ///< their sum (the paper)
  kMax,  ///< the maximum over them, which a longer window does not dilute
};

// The names used in flags and files. parse_* throws Error for any other.
std::string_view to_string(Task task);
std::string_view to_string(Pyramid pyramid);
std::string_view to_string(Windows windows);
std::string_view to_string(Heads heads);
std::string_view to_string(Decider decider);
std::string_view to_string(Rows rows);
Task parse_task(std::string_view name);
Pyramid parse_pyramid(std::string_view name);
Windows parse_windows(std::string_view name);
Heads parse_heads(std::string_view name);
Decider parse_decider(std::string_view name);
Rows parse_rows(std::string_view name);

/// A budget as a user writes it: "512" tokens per layer ("2k" is 2,048), "12%" of the prompt, or "12%:1024",
/// a share with a floor: 12 %, but at least 1,024 tokens. Counts all kept prompt tokens of a layer, including
/// the observation window, averaged over layers. Default-constructed, it is kDefaultBudget.
class Budget {
 public:
  static Budget tokens(int64_t count);
  static Budget percent(double value, int64_t floor = 0);
  /// Throws Error unless the count is at least 1 token, or the share in (0 %, 100 %] with a floor of at least
  /// 1 token.
  static Budget parse(std::string_view text);

  /// The same, but never more than `count` tokens per layer.
  Budget at_most(int64_t count) const;

  /// Tokens per layer for a prompt of `n` tokens: the count, or the larger of ⌊percent·n⌋ and the floor; at
  /// most n.
  int64_t resolve(int64_t n) const;
  /// Whether it is a number of tokens, whatever the prompt.
  bool is_count() const { return tokens_ >= 0; }
  /// Minimum tokens per layer, however short the prompt; 0 without a floor.
  int64_t floor() const { return std::min(floor_, most_); }
  /// Whether the floor alone keeps a prompt of `n` tokens whole, under any policy and accounting.
  bool below_floor(int64_t n) const { return n <= floor(); }
  std::string text() const;

 private:
  double percent_ = 12;
  int64_t tokens_ = -1;  // >= 0: absolute
  int64_t floor_ = 1024;
  int64_t most_ = INT64_MAX;
};

/// For the command and the library; docs/selection.md says how the floor was chosen.
inline constexpr std::string_view kDefaultBudget = "12%:1024";

/// All parameters of the method. Field names follow the paper.
struct SelectionConfig {
  std::string preset = "paper";
  Task task = Task::kLocalization;
  int omega = 8;    ///< window size ω, tokens; for free windows, the score halves every ω/2 tokens
  int alpha = 16;   ///< observation window α, tokens
  int p = 8;        ///< pooled token scores per window
  int gamma = 1;    ///< layers per group γ
  int lambda = 14;  ///< pyramid shape λ
  Pyramid pyramid = Pyramid::kCode;
  Windows windows = Windows::kGrid;
  Heads heads = Heads::kMean;
  Decider decider = Decider::kFirst;
  Rows rows = Rows::kSum;
  // For free windows: tokens kept whatever their scores. A grid always keeps the observation window.
  int recent = 8;  ///< the last ones, at most a quarter of the budget
  int sinks = 4;   ///< the first ones, at most an eighth of the budget
  // For free windows: the query of every so many-th token of the prompt counts beside the observation
  // window's (0: none), and their part of a token's score, percent. docs/selection.md has why.
  int spread = 0;
  int spread_most = 0;  ///< spread is doubled until no more than so many queries count; 0: it stays
  int spread_weight = 50;
  /// The released code's accounting: the observation window is added to the budget, up to ω−1 tokens too
  /// many are kept, and neither spare nor excess budget moves between groups.
  bool reference = false;

  void validate() const;  ///< throws Error for numbers that no model can run with
};

/// Fields that override a preset's own.
struct SelectionOverrides {
  std::optional<int> omega, alpha, gamma, lambda, recent, sinks, spread, spread_weight;
  std::optional<Pyramid> pyramid;
  std::optional<Windows> windows;
  std::optional<Heads> heads;
  std::optional<Decider> decider;
  std::optional<Rows> rows;
};

/// One field of SelectionOverrides as users see it: a flag of the command, a key of a policy name.
struct SelectionSetting {
  std::string_view name;   ///< "window"
  std::string_view value;  ///< what it accepts: "N", or names
  std::string_view help;
  void (*set)(SelectionOverrides& overrides, std::string_view text);  ///< throws Error for a bad value
};

/// All of them, in the order help shows them.
std::span<const SelectionSetting> selection_settings();

/// The names `make_config` accepts, in the order help shows them.
const std::vector<std::string>& preset_names();

/// The settings of a preset for a model of `n_layer` layers. Throws Error for an unknown preset or invalid
/// numbers.
SelectionConfig make_config(std::string_view preset, Task task, int n_layer,
                            const SelectionOverrides& overrides = {});

/// Layers [first, last] that share one selection.
struct Group {
  int first_layer = 0;
  int last_layer = 0;
  int size() const { return last_layer - first_layer + 1; }
};

/// ⌈n_layer/γ⌉ groups; the last may be shorter.
std::vector<Group> make_groups(int n_layer, int gamma);

/// Whether the attention of `layer` decides for its group.
bool deciding_layer(const SelectionConfig& config, const Group& group, int layer);

/// The layer of the group after which it is known what `layer` keeps.
int settling_layer(const SelectionConfig& config, const Group& group, int layer);

/// Tokens of the observation window for a prompt of n tokens: α, or fewer where the prompt is shorter. With a
/// grid, whose observation window is always kept, also at most the budget, so that the kept tokens never
/// exceed it (except with the `reference` accounting).
int64_t observation_tokens(const SelectionConfig& config, int64_t n, int64_t budget);

/// Every how many-th query of a prompt of n tokens counts beside those of the observation window; 0: none.
int64_t spread_stride(const SelectionConfig& config, int64_t n);

/// Tokens kept whatever their scores.
struct AlwaysKept {
  int64_t sinks = 0;   ///< the prompt's first
  int64_t recent = 0;  ///< its last
  int64_t total() const { return sinks + recent; }
};
AlwaysKept always_kept(const SelectionConfig& config, int64_t n, int64_t budget);

/// Tokens per layer besides those always kept, by group, for a prompt of n tokens and a budget of
/// `budget` tokens per layer. `layer_shares`: see Pyramid::kMeasured.
std::vector<int64_t> group_budgets(const SelectionConfig& config, int n_layer, int64_t n, int64_t budget,
                                   std::span<const double> layer_shares = {});

/// Number of windows in a review context of n − observation tokens: ⌈review/ω⌉.
int64_t window_count(const SelectionConfig& config, int64_t review);

/// Number of windows that a group with `group_budget` review tokens keeps; window_count() where nothing is
/// dropped.
int64_t windows_kept(const SelectionConfig& config, int64_t review, int64_t group_budget);

/// A run of consecutive token positions [first, second).
using TokenRange = std::pair<int64_t, int64_t>;

/// Ascending token positions as runs.
std::vector<TokenRange> to_ranges(const std::vector<int32_t>& positions);

}  // namespace windowkv
