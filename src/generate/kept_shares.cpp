#include "generate/kept_shares.h"

#include "support/utf8.h"

namespace windowkv {

std::vector<KeptLayers> kept_layers(const Sequence& sequence) {
  std::vector<KeptLayers> layers;
  const GroupSelection* before = nullptr;
  for (const auto& group : sequence.groups) {
    if (before != nullptr && before->kept == group.kept && before->kept_by_head == group.kept_by_head) {
      layers.back().last = group.group.last_layer;
      layers.back().layers += group.group.last_layer - group.group.first_layer + 1;
      continue;
    }
    before = &group;
    auto& one = layers.emplace_back(
        KeptLayers{group.group.first_layer,
                   group.group.last_layer,
                   group.group.last_layer - group.group.first_layer + 1,
                   static_cast<int64_t>(sequence.kept[static_cast<size_t>(group.group.first_layer)]),
                   !group.kept_by_head.empty(),
                   {}});
    one.shares.resize(static_cast<size_t>(sequence.prompt_tokens));
    const auto add = [&](const std::vector<TokenRange>& ranges, double share) {
      for (const auto& [first, last] : ranges)
        for (auto i = first; i < last; ++i) one.shares[static_cast<size_t>(i)] += share;
    };
    if (!one.by_head) add(group.kept, 1);
    for (const auto& head : group.kept_by_head)
      add(head, 1.0 / static_cast<double>(group.kept_by_head.size()));
  }
  return layers;
}

std::vector<double> overall_shares(std::span<const KeptLayers> layers) {
  std::vector<double> shares(layers.front().shares.size());
  int all = 0;
  for (const auto& one : layers) all += one.layers;
  for (const auto& one : layers)
    for (size_t i = 0; i < shares.size(); ++i) shares[i] += one.shares[i] * one.layers / all;
  return shares;
}

std::vector<KeptUnit> kept_units(const Vocab& vocab, std::span<const Token> prompt,
                                 std::span<const double> shares) {
  std::vector<KeptUnit> units;
  bool whole = true;
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (whole) units.emplace_back();
    auto& unit = units.back();
    unit.text += vocab.piece(prompt[i], true);
    unit.share += shares[i];
    ++unit.tokens;
    whole = utf8_incomplete_tail(unit.text) == 0;
  }
  for (auto& unit : units) unit.share /= static_cast<double>(unit.tokens);
  return units;
}

}  // namespace windowkv
