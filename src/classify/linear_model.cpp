#include "classify/linear_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "windowkv/error.h"

namespace windowkv {

namespace {

static_assert(std::endian::native == std::endian::little, "the weights' file is little-endian");

constexpr int8_t kUnused = -128;
constexpr std::string_view kMagic = "wkvtask1";
constexpr size_t kHeader = kMagic.size() + sizeof(uint32_t) + 2 * sizeof(float);

template <typename T>
T read_at(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

LinearTaskModel::LinearTaskModel(std::span<const float> weights, const std::vector<bool>& used, float bias)
    : weights_(kFeatureCount, kUnused), bias_(bias) {
  float largest = 0;
  for (size_t i = 0; i < kFeatureCount; ++i)
    if (used[i]) largest = std::max(largest, std::abs(weights[i]));
  scale_ = std::max(largest, 1e-6f) / 127;
  for (size_t i = 0; i < kFeatureCount; ++i)
    if (used[i]) weights_[i] = static_cast<int8_t>(std::lround(weights[i] / scale_));
}

bool LinearTaskModel::recognizes(std::string_view bytes) {
  return bytes.starts_with(kMagic);
}

LinearTaskModel LinearTaskModel::from_bytes(std::string_view bytes, const std::string& name) {
  if (!recognizes(bytes)) throw Error(name + ": not a classifier that windowkv classify --train wrote");
  if (bytes.size() != kHeader + kFeatureCount || read_at<uint32_t>(bytes, kMagic.size()) != kFeatureBits)
    throw Error(fmt::format("{}: damaged classifier: {} bytes where {} belong; train it again", name,
                            bytes.size(), kHeader + kFeatureCount));
  LinearTaskModel model;
  model.scale_ = read_at<float>(bytes, kMagic.size() + sizeof(uint32_t));
  model.bias_ = read_at<float>(bytes, kMagic.size() + sizeof(uint32_t) + sizeof(float));
  if (!std::isfinite(model.scale_) || !std::isfinite(model.bias_))
    throw Error(name + ": damaged classifier: a scale is not a number; train it again");
  model.weights_.resize(kFeatureCount);
  std::memcpy(model.weights_.data(), bytes.data() + kHeader, kFeatureCount);
  return model;
}

std::string LinearTaskModel::to_bytes() const {
  std::string out(kMagic);
  append(out, kFeatureBits);
  append(out, scale_);
  append(out, bias_);
  out.append(reinterpret_cast<const char*>(weights_.data()), weights_.size());
  return out;
}

double LinearTaskModel::dot(std::span<const Feature> features) const {
  double sum = 0;
  for (const auto& f : features)
    if (weights_[f.bucket] != kUnused) sum += static_cast<double>(f.value) * weights_[f.bucket];
  return sum * static_cast<double>(scale_);
}

double LinearTaskModel::norm_factor(std::span<const Feature> features) const {
  double squares = 0;
  for (const auto& f : features)
    if (weights_[f.bucket] != kUnused) squares += static_cast<double>(f.value * f.value);
  return squares > 0 ? 1 / std::sqrt(squares) : 0;
}

std::vector<double> LinearTaskModel::contributions(std::span<const Feature> features) const {
  const double factor = norm_factor(features);
  std::vector<double> out;
  out.reserve(features.size());
  for (const auto& f : features) out.push_back(factor * dot({&f, 1}));
  return out;
}

void LinearTaskModel::rescale(double a, double b) {
  scale_ = static_cast<float>(scale_ * a);
  bias_ = static_cast<float>(bias_ * a + b);
}

}  // namespace windowkv
