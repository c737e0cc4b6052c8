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
constexpr size_t kHeader = kMagic.size() + 2 * sizeof(uint32_t) + 2 * sizeof(float);
constexpr size_t kEntry = sizeof(uint32_t) + 1;  // a bucket and its weight

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
  if (!recognizes(bytes)) throw Error(name + ": not a classifier written by windowkv classify --train");
  const auto damaged = [&](const char* what) {
    return Error(fmt::format("{}: damaged classifier: {}; train it again", name, what));
  };
  if (bytes.size() < kHeader) throw damaged("its header is cut off");
  LinearTaskModel model;
  size_t at = kMagic.size();
  const auto next = [&]<typename T>(T& value) {
    value = read_at<T>(bytes, at);
    at += sizeof(T);
  };
  uint32_t bits = 0, count = 0;
  next(bits), next(count), next(model.scale_), next(model.bias_);
  if (bits != kFeatureBits) throw damaged("its features have a different version");
  if (bytes.size() != kHeader + kEntry * count) throw damaged("its size does not match its header");
  if (!std::isfinite(model.scale_) || !std::isfinite(model.bias_)) throw damaged("a scale is not a number");
  model.weights_.assign(kFeatureCount, kUnused);
  const size_t values = at + sizeof(uint32_t) * count;
  for (size_t i = 0; i < count; ++i) {
    const auto bucket = read_at<uint32_t>(bytes, at + sizeof(uint32_t) * i);
    if (bucket >= kFeatureCount) throw damaged("a weight belongs to no feature");
    model.weights_[bucket] = static_cast<int8_t>(bytes[values + i]);
  }
  return model;
}

std::string LinearTaskModel::to_bytes() const {
  std::string buckets, values;
  for (uint32_t i = 0; i < kFeatureCount; ++i) {
    if (weights_[i] == kUnused) continue;
    append(buckets, i);
    values += static_cast<char>(weights_[i]);
  }
  std::string out(kMagic);
  append(out, kFeatureBits);
  append(out, static_cast<uint32_t>(values.size()));
  append(out, scale_);
  append(out, bias_);
  return out + buckets + values;
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
