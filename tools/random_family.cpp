#include "random_family.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

#include "windowkv/error.h"

namespace windowkv {

namespace {

using Qkv = RandomFamily::Qkv;
using QkNorm = RandomFamily::QkNorm;
using Norms = RandomFamily::Norms;
using Experts = RandomFamily::Experts;

constexpr std::array kFamilies = {
    RandomFamily{.name = "llama", .qkv = Qkv::kOptionalBias, .experts = Experts::kSome},
    RandomFamily{.name = "qwen2", .qkv = Qkv::kBias},
    RandomFamily{.name = "qwen3", .qk_norm = QkNorm::kHead},
    RandomFamily{.name = "qwen3moe", .qk_norm = QkNorm::kHead, .experts = Experts::kAlways},
    RandomFamily{
        .name = "qwen35", .qk_norm = QkNorm::kHead, .ffn_norm = "post_attention_norm", .delta_net = true},
    RandomFamily{.name = "qwen35moe",
                 .qk_norm = QkNorm::kHead,
                 .ffn_norm = "post_attention_norm",
                 .experts = Experts::kAlways,
                 .delta_net = true},
    RandomFamily{.name = "olmo2", .qk_norm = QkNorm::kAllHeads, .norms = Norms::kAfter},
    RandomFamily{.name = "gemma2", .norms = Norms::kBoth},
    RandomFamily{.name = "gemma3", .qk_norm = QkNorm::kHead, .norms = Norms::kBoth},
    RandomFamily{.name = "gemma4",
                 .qk_norm = QkNorm::kHead,
                 .norms = Norms::kBoth,
                 .experts = Experts::kSome,
                 .layers_differ = true},
    RandomFamily{.name = "exaone4", .qk_norm = QkNorm::kHead, .norms = Norms::kAfter},
    RandomFamily{.name = "gpt-oss",
                 .qkv = Qkv::kBias,
                 .ffn_norm = "post_attention_norm",
                 .experts = Experts::kAlways,
                 .sinks = true,
                 .expert_biases = true},
    RandomFamily{.name = "granite", .scales = true},
    RandomFamily{.name = "granitemoe", .experts = Experts::kAlways, .scales = true},
    RandomFamily{.name = "smollm3"},
    RandomFamily{.name = "phi3", .qkv = Qkv::kStacked},
    RandomFamily{.name = "mistral3", .experts = Experts::kSome},
    RandomFamily{.name = "seed_oss", .qkv = Qkv::kBias, .ffn_norm = "post_attention_norm"},
    RandomFamily{.name = "minimax-m2",
                 .qk_norm = QkNorm::kAllHeads,
                 .experts = Experts::kAlways,
                 .router_bias = true,
                 .gating = 2},
    RandomFamily{.name = "hunyuan-dense", .qk_norm = QkNorm::kHead},
    RandomFamily{.name = "glm4moe",
                 .qkv = Qkv::kBias,
                 .qk_norm = QkNorm::kHead,
                 .ffn_norm = "post_attention_norm",
                 .experts = Experts::kAlways,
                 .router_bias = true,
                 .shared_count = true},
};

}  // namespace

std::vector<std::string_view> random_family_names() {
  std::vector<std::string_view> names;
  names.reserve(kFamilies.size());
  for (const auto& family : kFamilies) names.push_back(family.name);
  return names;
}

const RandomFamily& random_family(std::string_view name) {
  for (const auto& family : kFamilies)
    if (family.name == name) return family;
  throw Error(
      fmt::format("unknown family \"{}\"; use one of: {}", name, fmt::join(random_family_names(), ", ")));
}

}  // namespace windowkv
