#include "cache/prefix_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "cache/kv_type.h"
#include "cache/snapshot_positions.h"
#include "support/checksum.h"
#include "windowkv/error.h"
#include "windowkv/vocab.h"

namespace windowkv {

namespace {

/// A hash of all tokens' texts; "" without a vocabulary.
std::string hash_of(const Vocab* vocab) {
  if (vocab == nullptr) return "";
  Checksum sum;
  for (Token token = 0; token < vocab->size(); ++token) {
    const auto piece = vocab->piece(token);
    sum.add(piece.c_str(), piece.size() + 1);
  }
  return sum.text();
}

}  // namespace

PrefixParts::PrefixParts(const Model& model, const PrefixStoreOptions& options)
    : hp_(model.hparams()),
      weight_type_(model.weight_type()),
      vocabulary_(hash_of(model.find_vocab())),
      options_(options) {
  check_kv_types(hp_, options.types);
  if (options.snapshots < 0 || options.snapshots > kMostSnapshots)
    throw Error(
        fmt::format("a prefix store with {} snapshots of recurrent layers' states; it must be 0 to {}",
                    options.snapshots, kMostSnapshots));
}

int64_t PrefixParts::bytes(const HParams& hp, const PrefixStoreOptions& options, int64_t n) {
  const auto positions = windowkv::snapshot_positions({}, 0, n, {}, hp.recurrent() ? options.snapshots : 0);
  return static_cast<int64_t>(PrefixBlock::bytes(hp, options.types, n) +
                              positions.size() * StateSnapshot::bytes(hp));
}

void PrefixParts::cut(int64_t count) {
  tokens_.resize(std::min(tokens_.size(), static_cast<size_t>(std::max<int64_t>(0, count))));
  auto left = static_cast<int64_t>(tokens_.size());
  for (auto& part : parts_) {
    part.count = std::min(part.count, left);
    left -= part.count;
  }
  std::erase_if(parts_, [](const Part& part) { return part.count == 0; });
  std::erase_if(snapshots_, [&](const Snapshot& snapshot) { return snapshot.tokens > std::ssize(tokens_); });
}

HostMemory PrefixParts::make_memory(size_t bytes) const {
  return options_.place == PrefixStoreOptions::Place::kMemory ? HostMemory::anonymous(bytes)
                                                              : HostMemory::temporary_file(bytes);
}

std::shared_ptr<PrefixBlock> PrefixParts::make_block(int64_t count) const {
  return std::make_shared<PrefixBlock>(hp_, options_.types, count,
                                       make_memory(PrefixBlock::bytes(hp_, options_.types, count)));
}

std::shared_ptr<const StateSnapshot> PrefixParts::make_snapshot() const {
  return std::make_shared<StateSnapshot>(
      hp_, std::make_shared<const HostMemory>(make_memory(StateSnapshot::bytes(hp_))));
}

const PrefixParts::Snapshot* PrefixParts::last_snapshot(int64_t tokens) const {
  const auto behind = std::ranges::upper_bound(snapshots_, tokens, {}, &Snapshot::tokens);
  return behind != snapshots_.begin() ? &*std::prev(behind) : nullptr;
}

std::vector<int64_t> PrefixParts::snapshot_positions(int64_t past, int64_t common, int64_t n,
                                                     int64_t likely) const {
  if (!hp_.recurrent()) return {};
  std::vector<int64_t> held;
  for (const auto& snapshot : snapshots_)
    if (snapshot.tokens <= common) held.push_back(snapshot.tokens);
  // Where two prompts have parted, a third one may; none has where all of it was read before.
  const std::array places = {common < n ? common : 0, likely};
  return windowkv::snapshot_positions(held, past, n, places, options_.snapshots);
}

std::vector<std::shared_ptr<const HostMemory>> PrefixParts::memories() const {
  std::vector<std::shared_ptr<const HostMemory>> all;
  for (const auto& part : parts_) all.emplace_back(part.block, &part.block->memory());
  for (const auto& snapshot : snapshots_) all.push_back(snapshot.state->memory());
  std::ranges::sort(all);
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

void PrefixParts::append(std::shared_ptr<const PrefixBlock> block, std::span<const Token> tokens) {
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  parts_.push_back({std::move(block), static_cast<int64_t>(tokens.size())});
}

void PrefixParts::replace(std::shared_ptr<const PrefixBlock> block) {
  parts_ = {{std::move(block), static_cast<int64_t>(tokens_.size())}};
}

namespace {

/// Rows that pass through float32 at a time.
constexpr int64_t kRowsAtOnce = 8192;
/// Most pieces of parts in one graph: a prefix of many turns has many small ones.
constexpr size_t kPiecesAtOnce = 32;

size_t nodes_of(const HParams& hp) {
  return 32 + 16 * static_cast<size_t>(hp.most_heads().n_head_kv);
}

/// [d_head, count, n_head_kv] to the same, whose tokens and heads may lie apart.
void add_copy(Graph& graph, ggml_tensor* from, ggml_tensor* to) {
  auto* ctx = graph.ctx();
  if (from->type == to->type) {
    graph.add(ggml_cpy(ctx, from, to));
    return;
  }
  // Not ggml_cpy, which cannot quantize into rows that lie apart.
  auto* numbers = build_numbers(ctx, from->ne[1]);
  for (int64_t h = 0; h < from->ne[2]; ++h) {
    auto head = [&](ggml_tensor* all) {
      return ggml_view_2d(ctx, all, all->ne[0], all->ne[1], all->nb[1], static_cast<size_t>(h) * all->nb[2]);
    };
    graph.add(ggml_set_rows(ctx, head(to), ggml_get_rows(ctx, head(from), numbers), numbers));
  }
}

/// Tokens [first, first + count) of rows, by head.
ggml_tensor* heads_of(ggml_context* ctx, ggml_tensor* rows, int64_t d_head, int64_t first, int64_t count) {
  return KvRows::by_head(ctx, KvRows::slice(ctx, rows, first, count), d_head, count);
}

}  // namespace

void restore_rows(Scheduler& scheduler, const PrefixParts& parts, int layer, int64_t first, int64_t last,
                  const KvRows& rows) {
  const auto& hp = parts.hparams();
  const int64_t count = last - first;
  // No piece goes on past its part.
  const size_t pieces = std::min(kPiecesAtOnce, parts.all().size());
  auto part = parts.all().begin();
  int64_t in_part = first;
  for (; part != parts.all().end() && in_part >= part->count; ++part) in_part -= part->count;
  for (int64_t done = 0; done < count;) {
    Graph graph(2 * pieces * nodes_of(hp));
    auto* ctx = graph.ctx();
    int64_t in_graph = 0;
    for (size_t piece = 0; done < count && in_graph < kRowsAtOnce && piece < pieces; ++piece) {
      const int64_t some = std::min({part->count - in_part, count - done, kRowsAtOnce - in_graph});
      for (auto [from, to] : {std::pair{part->block->k(layer), rows.k()}, {part->block->v(layer), rows.v()}})
        add_copy(graph, PrefixBlock::slice(ctx, from, in_part, some),
                 heads_of(ctx, to, from->ne[0], done, some));
      done += some;
      in_graph += some;
      in_part += some;
      if (in_part == part->count) {
        ++part;
        in_part = 0;
      }
    }
    scheduler.run(graph);
  }
}

void store_rows(Scheduler& scheduler, const HParams& hp, const KvRows& rows, int64_t first, int layer,
                const PrefixBlock& block) {
  for (int64_t done = 0; done < block.tokens(); done += kRowsAtOnce) {
    const int64_t some = std::min(kRowsAtOnce, block.tokens() - done);
    Graph graph(2 * nodes_of(hp));
    auto* ctx = graph.ctx();
    for (auto [from, to] : {std::pair{rows.k(), block.k(layer)}, {rows.v(), block.v(layer)}})
      add_copy(graph, heads_of(ctx, from, to->ne[0], first + done, some),
               PrefixBlock::slice(ctx, to, done, some));
    scheduler.run(graph);
  }
}

std::shared_ptr<const PrefixBlock> merged_block(Scheduler& scheduler, PrefixParts& parts) {
  if (parts.all().size() == 1) return parts.all().front().block;
  const auto& hp = parts.hparams();
  auto merged = parts.make_block(static_cast<int64_t>(parts.tokens().size()));
  int64_t done = 0;
  for (const auto& [block, count] : parts.all()) {
    Graph graph(4 * static_cast<size_t>(hp.n_layer) * 4 + 16);
    auto* ctx = graph.ctx();
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      if (!hp.has_rows(layer)) continue;
      for (auto [from, to] :
           {std::pair{block->k(layer), merged->k(layer)}, {block->v(layer), merged->v(layer)}})
        graph.add(
            ggml_cpy(ctx, PrefixBlock::slice(ctx, from, 0, count), PrefixBlock::slice(ctx, to, done, count)));
    }
    scheduler.run(graph);
    done += count;
  }
  parts.replace(merged);
  return merged;
}

}  // namespace windowkv
