#include "server/logprobs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace windowkv::server {

TokenLogprob logprob_of(Token token, std::span<const float> logits, int top) {
  const float most = std::ranges::max(logits);
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - most);
  const auto log_sum = static_cast<float>(most + std::log(sum));
  auto logprob = [&](Token t) { return logits[static_cast<size_t>(t)] - log_sum; };
  TokenLogprob out{token, logprob(token), {}};
  const auto count = std::min<size_t>(static_cast<size_t>(std::max(0, top)), logits.size());
  std::vector<Token> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + static_cast<ptrdiff_t>(count);
  std::partial_sort(order.begin(), end, order.end(), [&](Token a, Token b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  for (auto it = order.begin(); it != end; ++it) out.top.emplace_back(*it, logprob(*it));
  return out;
}

}  // namespace windowkv::server
