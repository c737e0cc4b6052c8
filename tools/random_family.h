#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace windowkv {

/// Which tensors the files of a family have beside those that all have.
struct RandomFamily {
  std::string_view name;
  enum class Qkv { kPlain, kOptionalBias, kBias, kStacked } qkv = Qkv::kPlain;
  enum class QkNorm { kNone, kHead, kAllHeads } qk_norm = QkNorm::kNone;
  enum class Norms { kBefore, kAfter, kBoth } norms = Norms::kBefore;
  std::string_view ffn_norm = "ffn_norm";
  enum class Experts { kNone, kSome, kAlways } experts = Experts::kNone;
  bool router_bias = false;
  int gating = 0;  ///< expert_gating_func; 0: not in the file
  bool sinks = false;
  bool layers_differ = false;  ///< which have a window is a list, and so are KV heads; the others have no V
  bool expert_biases = false;  ///< and of the attention's output
  bool scales = false;         ///< Granite's
  bool delta_net = false;      ///< recurrent layers, and attention with gates in the others
  bool shared_count = false;   ///< the shared expert's width is given as a number of experts
};

/// Throws Error for an unknown name.
const RandomFamily& random_family(std::string_view name);
std::vector<std::string_view> random_family_names();

}  // namespace windowkv
