#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace windowkv {

/// Buckets that features are hashed into: so many that a context's chance words rarely fall into one with a
/// weight.
inline constexpr uint32_t kFeatureBits = 22;
inline constexpr uint32_t kFeatureCount = 1u << kFeatureBits;

/// One thing a prompt has: a bucket, and how much it counts.
struct Feature {
  uint32_t bucket = 0;
  float value = 0;
};

/// What the classifier sees of a prompt; buckets ascending, each once. `names`, where given, receives each
/// bucket's description, for people.
std::vector<Feature> extract_features(std::string_view text,
                                      std::vector<std::pair<uint32_t, std::string>>* names = nullptr);

}  // namespace windowkv
