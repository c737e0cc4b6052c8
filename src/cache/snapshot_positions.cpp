#include "cache/snapshot_positions.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace windowkv {

namespace {

/// By which the distance from the end grows from one new place to the one before.
constexpr int64_t kGrowth = 4;

/// Tokens that are computed again for want of the place at p, between the places at a and b, in proportion to
/// those that are in any case; where prompts leave a stored one of n tokens at a distance of d from its end
/// as often as at 2·d.
double loss(int64_t a, int64_t p, int64_t b, int64_t n) {
  const auto from_end = [n](int64_t position) { return static_cast<double>(n - position + kSnapshotTail); };
  return std::log(from_end(p) / from_end(b)) * static_cast<double>(p - a) / from_end(p);
}

}  // namespace

std::vector<int64_t> snapshot_positions(std::span<const int64_t> held, int64_t past, int64_t n,
                                        std::span<const int64_t> likely, int most) {
  std::set<int64_t> places(held.begin(), held.end());
  std::set<int64_t> preferred;
  const auto add = [&](int64_t position) {
    if (position > past && position >= kFirstSnapshot && position <= n) places.insert(position);
    return places.contains(position);
  };
  for (const int64_t position : likely)
    if (add(position)) preferred.insert(position);
  if (add(n - kSnapshotTail)) preferred.insert(n - kSnapshotTail);
  for (int64_t distance = kGrowth * kSnapshotTail; distance < n; distance *= kGrowth) add(n - distance);

  std::vector<int64_t> all(places.begin(), places.end());
  while (static_cast<int>(all.size()) > most) {
    const bool only_preferred = preferred.size() >= all.size();
    size_t least = 0;
    double least_loss = INFINITY;
    for (size_t i = 0; i < all.size(); ++i) {
      if (!only_preferred && preferred.contains(all[i])) continue;
      const int64_t before = i > 0 ? all[i - 1] : 0;
      const int64_t after = i + 1 < all.size() ? all[i + 1] : n;
      if (const double lost = loss(before, all[i], after, n); lost < least_loss) {
        least_loss = lost;
        least = i;
      }
    }
    all.erase(all.begin() + static_cast<ptrdiff_t>(least));
  }
  return all;
}

}  // namespace windowkv
