#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "classify/features.h"

namespace windowkv {

/// Logistic regression over hashed features, weights in 8 bits.
class LinearTaskModel {
 public:
  /// Weights by bucket; those not `used` do not even count in the features' norm.
  LinearTaskModel(std::span<const float> weights, const std::vector<bool>& used, float bias);
  /// Throws Error for bytes that to_bytes() did not make; `name` is what they are called there.
  static LinearTaskModel from_bytes(std::string_view bytes, const std::string& name);
  static bool recognizes(std::string_view bytes);
  std::string to_bytes() const;

  /// Log odds of aggregation.
  double logit(std::span<const Feature> features) const {
    return norm_factor(features) * dot(features) + bias_;
  }
  /// What each of the features adds to it.
  std::vector<double> contributions(std::span<const Feature> features) const;

  /// From here on logit() is a·(what it was) + b.
  void rescale(double a, double b);

 private:
  LinearTaskModel() = default;
  double dot(std::span<const Feature> features) const;
  double norm_factor(std::span<const Feature> features) const;

  std::vector<int8_t> weights_;  // kUnused: not a feature
  float scale_ = 0;              // of one step of a weight
  float bias_ = 0;
};

double sigmoid(double x);

}  // namespace windowkv
