#pragma once

#include <span>
#include <string>
#include <vector>

#include "windowkv/engine.h"
#include "windowkv/vocab.h"

/// What was kept of a prompt, in a form that can be shown.
namespace windowkv {

/// Neighbouring layers that keep the same tokens of a prompt; recurrent ones between them, which keep none,
/// do not count.
struct KeptLayers {
  int first = 0;
  int last = 0;
  int layers = 0;              ///< that keep them
  int64_t kept = 0;            ///< tokens, of each KV head
  bool by_head = false;        ///< whether KV heads keep different ones
  std::vector<double> shares;  ///< [token] of the KV heads, how many keep it: 0 to 1
};

std::vector<KeptLayers> kept_layers(const Sequence& sequence);

/// [token] of all layers and KV heads, how many keep it: 0 to 1.
std::vector<double> overall_shares(std::span<const KeptLayers> layers);

/// Whole characters: a token, or several that one character is spread over.
struct KeptUnit {
  std::string text;
  double share = 0;
  int64_t tokens = 0;
};

std::vector<KeptUnit> kept_units(const Vocab& vocab, std::span<const Token> prompt,
                                 std::span<const double> shares);

}  // namespace windowkv
