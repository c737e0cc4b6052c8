#include "cache/kv_arena.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>
#include <set>

#include "cache/kv_type.h"
#include "support/unique_id.h"
#include "windowkv/error.h"

namespace windowkv {

KvArena::KvArena(const Backends& backends, const HParams& hp, KvTypes types, int64_t units, size_t device)
    : id_(unique_id()),
      storage_(backends, "the KV cache", 2, device),
      types_(types),
      units_(units),
      unit_bytes_(kv_row_bytes(types, hp.kv_unit())) {
  const int64_t unit = hp.kv_unit();
  std::set<int64_t> sizes = {1};
  for (int layer = 0; layer < hp.n_layer; ++layer) sizes.insert(hp.row_units(layer));
  if (units == 0) return;
  const int64_t length = units + (backends.is_cpu(device) ? 0 : kAttentionStep * *sizes.rbegin());
  const Rows all = {storage_.add(to_ggml(types.k), unit, length),
                    storage_.add(to_ggml(types.v), unit, length)};
  storage_.allocate(/*clear=*/true);
  views_.reset(ggml_init({2 * sizes.size() * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  for (const int64_t size : sizes) {
    auto as_rows = [&](ggml_tensor* t) {
      if (size == 1) return t;
      auto* view =
          ggml_view_2d(views_.get(), t, size * unit, length / size, static_cast<size_t>(size) * t->nb[1], 0);
      ggml_backend_view_init(view);
      return view;
    };
    rows_[size] = {as_rows(all.k), as_rows(all.v)};
  }
  free_[0] = units;
}

KvArena::Rows KvArena::rows_of(int64_t units) const {
  const auto rows = rows_.find(units);
  return rows != rows_.end() ? rows->second : Rows{};
}

int64_t KvArena::rounded_up(const Backends& backends, const HParams& hp, KvTypes types, int64_t rows,
                            size_t device, int layer) {
  const auto alignment = static_cast<int64_t>(backends.alignment(device));
  int64_t step = hp.common_units() / hp.row_units(layer);
  for (auto type : {types.k, types.v}) {
    const auto bytes = static_cast<int64_t>(ggml_row_size(to_ggml(type), hp.kv_row(layer)));
    step = std::lcm(step, alignment / std::gcd(alignment, bytes));
  }
  return (rows + step - 1) / step * step;
}

std::optional<int64_t> KvArena::take(int64_t units) {
  if (units == 0) return 0;
  std::scoped_lock lock(mutex_);
  const auto run = std::find_if(free_.begin(), free_.end(), [&](const auto& r) { return r.second >= units; });
  if (run == free_.end()) return std::nullopt;
  const auto [first, length] = *run;
  free_.erase(run);
  if (length > units) free_[first + units] = length - units;
  return first;
}

void KvArena::give_back(int64_t first, int64_t units) {
  if (units == 0) return;
  std::scoped_lock lock(mutex_);
  auto run = free_.emplace(first, units).first;
  if (const auto after = std::next(run); after != free_.end() && after->first == first + units) {
    run->second += after->second;
    free_.erase(after);
  }
  if (run == free_.begin()) return;
  if (const auto before = std::prev(run); before->first + before->second == first) {
    before->second += run->second;
    free_.erase(run);
  }
}

int64_t KvArena::free_units() const {
  std::scoped_lock lock(mutex_);
  int64_t sum = 0;
  for (const auto& [first, units] : free_) sum += units;
  return sum;
}

int64_t KvArena::longest_free() const {
  std::scoped_lock lock(mutex_);
  int64_t longest = 0;
  for (const auto& [first, rows] : free_) longest = std::max(longest, rows);
  return longest;
}

namespace {

/// Units of an arena whose tensors a device still takes; those behind the last are left out.
int64_t most_units(const Backends& backends, const HParams& hp, KvTypes types, size_t device,
                   int64_t most_bytes) {
  if (most_bytes == 0) {
    if (backends.is_cpu(device)) return INT64_MAX;
    const size_t most =
        ggml_backend_buft_get_max_size(ggml_backend_get_default_buffer_type(backends.backend(device)));
    most_bytes = static_cast<int64_t>(std::min<size_t>(most, INT64_MAX));
  }
  const auto unit = static_cast<int64_t>(
      std::max(ggml_row_size(to_ggml(types.k), hp.kv_unit()), ggml_row_size(to_ggml(types.v), hp.kv_unit())));
  const int64_t row = hp.common_units();
  return (most_bytes / unit - KvArena::kAttentionStep * row) / row * row;
}

}  // namespace

KvMemory::KvMemory(const Backends& backends, const HParams& hp, KvTypes types,
                   const std::vector<int64_t>& units, int64_t most_bytes)
    : backends_(backends), layers_(layers_by_device(backends, hp)), arenas_(backends.device_count()) {
  for (size_t device = 0; device < arenas_.size(); ++device) {
    const int64_t most = most_units(backends, hp, types, device, most_bytes);
    if (most <= 0)
      throw Error(fmt::format("{} takes no tensor that could hold K or V", backends.name(device)));
    int64_t left = units[device];
    do {
      const int64_t part = std::min(left, most);
      arenas_[device].push_back(std::make_unique<KvArena>(backends, hp, types, part, device));
      left -= part;
    } while (left > 0);
  }
}

std::vector<int64_t> KvMemory::layers_by_device(const Backends& backends, const HParams& hp) {
  std::vector<int64_t> layers(backends.device_count(), 0);
  for (int layer = 0; layer < hp.n_layer; ++layer)
    if (hp.has_rows(layer)) ++layers[backends.device_of(layer)];
  return layers;
}

std::vector<int64_t> KvMemory::cut(const Backends& backends, const HParams& hp, int64_t units) {
  const auto layers = layers_by_device(backends, hp);
  const int64_t all = std::accumulate(layers.begin(), layers.end(), int64_t{0});
  std::vector<int64_t> out;
  int64_t left = units;
  for (const int64_t count : layers) {
    out.push_back(units * count / all);
    left -= out.back();
  }
  out[backends.device_of(0)] += left;
  return out;
}

namespace {

template <typename F>
int64_t sum_over(const std::vector<KvMemory::Arenas>& by_device, F&& f) {
  int64_t sum = 0;
  for (const auto& arenas : by_device)
    for (const auto& arena : arenas) sum += f(*arena);
  return sum;
}

}  // namespace

int64_t KvMemory::units() const {
  return sum_over(arenas_, [](const KvArena& arena) { return arena.units(); });
}

int64_t KvMemory::free_units() const {
  return sum_over(arenas_, [](const KvArena& arena) { return arena.free_units(); });
}

int64_t KvMemory::longest_free(size_t device) const {
  int64_t longest = 0;
  for (const auto& arena : arenas_[device]) longest = std::max(longest, arena->longest_free());
  return longest;
}

bool KvMemory::fits(int64_t units) const {
  const int64_t all = std::accumulate(layers_.begin(), layers_.end(), int64_t{0});
  for (size_t device = 0; device < arenas_.size(); ++device) {
    int64_t left = (units * layers_[device] + all - 1) / all;
    if (left <= longest_free(device)) continue;
    for (const auto& arena : arenas_[device]) left -= arena->longest_free();
    if (arenas_[device].size() == 1 || left > 0) return false;
  }
  return true;
}

}  // namespace windowkv
