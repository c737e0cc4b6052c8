#include "support/plain_attention.h"

#include <ggml-backend.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace windowkv::test {

std::vector<float> floats_of(ggml_tensor* t) {
  std::vector<float> out(static_cast<size_t>(ggml_nelements(t)));
  if (t->type == GGML_TYPE_F32) {
    ggml_backend_tensor_get(t, out.data(), 0, ggml_nbytes(t));
  } else {
    std::vector<uint8_t> raw(ggml_nbytes(t));
    ggml_backend_tensor_get(t, raw.data(), 0, raw.size());
    ggml_get_type_traits(t->type)->to_float(raw.data(), out.data(), static_cast<int64_t>(out.size()));
  }
  return out;
}

std::vector<double> attention_of(const HParams& hp, const std::vector<float>& q, size_t n,
                                 const std::function<const float*(size_t token, size_t kv_head)>& key) {
  const auto d = static_cast<size_t>(hp.d_head), heads = static_cast<size_t>(hp.n_head);
  const size_t share = heads / static_cast<size_t>(hp.n_head_kv);
  std::vector<double> received(n, 0);
  for (size_t h = 0; h < heads; ++h) {
    std::vector<double> a(n);
    for (size_t j = 0; j < n; ++j)
      for (size_t i = 0; i < d; ++i)
        a[j] += static_cast<double>(q[h * d + i]) * static_cast<double>(key(j, h / share)[i]);
    const double top = std::ranges::max(a);
    double sum = 0;
    for (auto& x : a) sum += x = std::exp((x - top) * static_cast<double>(hp.attention_scale));
    for (size_t j = 0; j < n; ++j) received[j] += a[j] / sum;
  }
  return received;
}

std::vector<int32_t> highest_of(const std::vector<double>& values, size_t count) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(),
                           [&](int32_t j) { return values[static_cast<size_t>(j)]; });
  order.resize(count);
  std::ranges::sort(order);
  return order;
}

}  // namespace windowkv::test
