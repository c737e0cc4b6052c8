#include "cache/kv_arena.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>

#include "cache/kv_type.h"
#include "support/unique_id.h"
#include "windowkv/error.h"

namespace windowkv {

KvArena::KvArena(const Backends& backends, const HParams& hp, KvTypes types, int64_t rows, size_t device)
    : id_(unique_id()),
      storage_(backends, "the KV cache", 2, device),
      types_(types),
      rows_(rows),
      row_bytes_(kv_token_bytes(hp, types)) {
  if (rows == 0) return;
  k_ = storage_.add(to_ggml(types.k), hp.kv_row(), rows);
  v_ = storage_.add(to_ggml(types.v), hp.kv_row(), rows);
  storage_.allocate(/*clear=*/true);
  free_[0] = rows;
}

int64_t KvArena::rounded_up(const Backends& backends, const HParams& hp, KvTypes types, int64_t rows,
                            size_t device) {
  const auto alignment = static_cast<int64_t>(backends.alignment(device));
  int64_t unit = 1;
  for (auto type : {types.k, types.v}) {
    const auto bytes = static_cast<int64_t>(ggml_row_size(to_ggml(type), hp.kv_row()));
    unit = std::max(unit, alignment / std::gcd(alignment, bytes));
  }
  return (rows + unit - 1) / unit * unit;
}

int64_t KvArena::take(int64_t rows) {
  if (rows == 0) return 0;
  std::scoped_lock lock(mutex_);
  const auto run = std::find_if(free_.begin(), free_.end(), [&](const auto& r) { return r.second >= rows; });
  if (run == free_.end())
    throw PoolFull(
        fmt::format("the KV pool has {} contiguous bytes free, but {} are needed; release another sequence "
                    "first or make a larger pool",
                    longest_run() * row_bytes_, rows * row_bytes_),
        {});
  const auto [first, length] = *run;
  free_.erase(run);
  if (length > rows) free_[first + rows] = length - rows;
  return first;
}

void KvArena::give_back(int64_t first, int64_t rows) {
  if (rows == 0) return;
  std::scoped_lock lock(mutex_);
  auto run = free_.emplace(first, rows).first;
  if (const auto after = std::next(run); after != free_.end() && after->first == first + rows) {
    run->second += after->second;
    free_.erase(after);
  }
  if (run == free_.begin()) return;
  if (const auto before = std::prev(run); before->first + before->second == first) {
    before->second += run->second;
    free_.erase(run);
  }
}

int64_t KvArena::free_rows() const {
  std::scoped_lock lock(mutex_);
  int64_t sum = 0;
  for (const auto& [first, rows] : free_) sum += rows;
  return sum;
}

int64_t KvArena::longest_free() const {
  std::scoped_lock lock(mutex_);
  return longest_run();
}

int64_t KvArena::longest_run() const {
  int64_t longest = 0;
  for (const auto& [first, rows] : free_) longest = std::max(longest, rows);
  return longest;
}

namespace {

/// A device's part of so many rows, rounded up.
int64_t part_of(int64_t rows, const LayerRun& run, int64_t layers) {
  return (rows * run.count() + layers - 1) / layers;
}

/// At least 1: before layers are placed, all is the first device's.
int64_t layers_of(const Backends& backends) {
  int64_t layers = 0;
  for (const auto& run : backends.layer_runs()) layers += run.count();
  return std::max<int64_t>(1, layers);
}

}  // namespace

KvMemory::KvMemory(const Backends& backends, const HParams& hp, KvTypes types,
                   const std::vector<int64_t>& rows)
    : backends_(backends) {
  for (size_t device = 0; device < backends.device_count(); ++device)
    arenas_.push_back(std::make_unique<KvArena>(backends, hp, types, rows[device], device));
}

std::vector<int64_t> KvMemory::cut(const Backends& backends, int64_t rows) {
  const int64_t layers = layers_of(backends);
  std::vector<int64_t> out;
  int64_t left = rows;
  for (const auto& run : backends.layer_runs()) {
    out.push_back(rows * run.count() / layers);
    left -= out.back();
  }
  out[backends.device_of(0)] += left;
  return out;
}

int64_t KvMemory::rows() const {
  int64_t sum = 0;
  for (const auto& arena : arenas_) sum += arena->rows();
  return sum;
}

int64_t KvMemory::free_rows() const {
  int64_t sum = 0;
  for (const auto& arena : arenas_) sum += arena->free_rows();
  return sum;
}

bool KvMemory::fits(int64_t rows) const {
  const int64_t layers = layers_of(backends_);
  for (size_t device = 0; device < arenas_.size(); ++device)
    if (part_of(rows, backends_.layer_runs()[device], layers) > arenas_[device]->longest_free()) return false;
  return true;
}

}  // namespace windowkv
