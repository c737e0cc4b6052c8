#include "cache/prefix_file.h"

#include <array>
#include <utility>

#include "cache/saved_prefix.h"
#include "support/checksum.h"
#include "support/file.h"
#include "support/host_memory.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

void add_zeros(size_t bytes, const AtomicFile::Write& add) {
  static constexpr std::array<char, 4096> kZeros = {};
  if (bytes > 0) add(kZeros.data(), bytes);  // less than a page, always
}

/// K or V of a layer as the file has it, and the zeros behind it: head after head, of each the tokens of part
/// after part.
void add_tensor(const PrefixParts& parts, KvType type, ggml_tensor* (PrefixBlock::*of)(int) const, int layer,
                const AtomicFile::Write& add) {
  const auto& hp = parts.hparams();
  size_t added = 0;
  for (int head = 0; head < hp.n_head_kv; ++head)
    for (const auto& [block, count] : parts.all()) {
      const auto* tensor = (block.get()->*of)(layer);
      const auto bytes = static_cast<size_t>(count) * tensor->nb[1];
      add(static_cast<const char*>(tensor->data) + static_cast<size_t>(head) * tensor->nb[2], bytes);
      added += bytes;
    }
  const auto tokens = static_cast<int64_t>(parts.tokens().size());
  add_zeros(PrefixBlock::tensor_bytes(hp, type, tokens) - added, add);
}

void add_k(const PrefixParts& parts, int layer, const AtomicFile::Write& add) {
  add_tensor(parts, parts.options().types.k, &PrefixBlock::k, layer, add);
}

void add_v(const PrefixParts& parts, int layer, const AtomicFile::Write& add) {
  add_tensor(parts, parts.options().types.v, &PrefixBlock::v, layer, add);
}

void add_ids(const PrefixParts& parts, const PrefixHeader& header, const AtomicFile::Write& add) {
  const size_t bytes = parts.tokens().size() * sizeof(Token);
  add(parts.tokens().data(), bytes);
  add_zeros(header.annotation_at - header.ids_at - bytes, add);
}

void add_annotation(const std::string& annotation, const PrefixHeader& header, const AtomicFile::Write& add) {
  add(annotation.data(), annotation.size());
  add_zeros(header.data_at - header.annotation_at - annotation.size(), add);
}

template <typename Add>
uint64_t checksum_of(Add&& add) {
  Checksum sum;
  add([&](const void* data, size_t size) { sum.add(data, size); });
  return sum.value();
}

std::span<const uint8_t> bytes_of(const HostMemory& memory) {
  return {memory.data(), memory.size()};
}

/// A header has one size of heads for all layers, each of which has K and V.
void check_alike(const HParams& hp, const std::string& path) {
  if (!hp.layers_alike() || hp.shared_layers > 0)
    throw Error(path + ": prefixes of models whose layers differ in size or share K and V are not saved");
}

}  // namespace

void write_prefix_file(const PrefixParts& parts, const std::string& annotation, const std::string& path) {
  if (parts.tokens().empty()) throw Error(path + ": not written: there are no tokens to save");
  const auto& hp = parts.hparams();
  check_alike(hp, path);
  const size_t state_bytes = StateSnapshot::bytes(hp);
  // Of a file that is mapped, perhaps by this store, only another can take the place.
  AtomicFile file(path, AtomicFile::InPlace::kNever);

  PrefixHeader header{.hp = hp,
                      .weight_type = parts.weight_type(),
                      .vocabulary = parts.vocabulary(),
                      .types = parts.options().types,
                      .tokens = static_cast<int64_t>(parts.tokens().size()),
                      .annotation_bytes = static_cast<int64_t>(annotation.size())};
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    if (hp.recurrent(layer)) continue;
    header.checksums.k.push_back(checksum_of([&](const auto& add) { add_k(parts, layer, add); }));
    header.checksums.v.push_back(checksum_of([&](const auto& add) { add_v(parts, layer, add); }));
  }
  for (const auto& [tokens, state] : parts.snapshots()) {
    header.snapshots.push_back(tokens);
    header.checksums.snapshots.push_back(Checksum::of(state->data(), state_bytes));
  }
  header.encode();  // as long with every checksum: now it is known how many zeros follow the ids
  header.checksums.ids = checksum_of([&](const auto& add) { add_ids(parts, header, add); });
  header.checksums.annotation =
      checksum_of([&](const auto& add) { add_annotation(annotation, header, add); });
  const auto start = header.encode();

  file.commit([&](const AtomicFile::Write& write) {
    write(start.data(), start.size());
    add_ids(parts, header, write);
    add_annotation(annotation, header, write);
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      if (hp.recurrent(layer)) continue;
      add_k(parts, layer, write);
      add_v(parts, layer, write);
    }
    for (const auto& snapshot : parts.snapshots()) write(snapshot.state->data(), state_bytes);
  });
}

std::unique_ptr<PrefixParts> read_prefix_file(const Model& model, const std::string& path,
                                              PrefixStoreOptions options) {
  check_alike(model.hparams(), path);
  auto memory = HostMemory::of_file(path);
  const SavedPrefix saved(bytes_of(memory), path);
  const auto& header = saved.header();
  saved.check_model(model.hparams(), model.weight_type());
  options.types = header.types;
  auto parts = std::make_unique<PrefixParts>(model, options);
  saved.check_vocabulary(parts->vocabulary());
  const auto ids = saved.read_ids(model.hparams().n_vocab);
  parts->annotation = saved.read_annotation();
  saved.check_data();
  const auto block = std::make_shared<const PrefixBlock>(parts->hparams(), header.types, header.tokens,
                                                         std::move(memory), header.data_at);
  parts->append(block, ids);
  std::vector<PrefixParts::Snapshot> snapshots;
  const std::shared_ptr<const HostMemory> mapping(block, &block->memory());
  for (size_t i = 0; i < header.snapshots.size(); ++i) {
    const size_t at = header.snapshots_at + i * StateSnapshot::bytes(parts->hparams());
    snapshots.push_back(
        {header.snapshots[i], std::make_shared<const StateSnapshot>(parts->hparams(), mapping, at)});
  }
  parts->set_snapshots(std::move(snapshots));
  return parts;
}

PrefixFileInfo read_prefix_info(const std::string& path) {
  const auto memory = HostMemory::of_file(path);
  const SavedPrefix saved(bytes_of(memory), path);
  const auto& header = saved.header();
  const auto& hp = header.hp;
  auto ids = saved.read_ids();
  saved.read_annotation();
  saved.check_data();
  return {.fingerprint = hp.fingerprint,
          .model = hp.name,
          .family = hp.family,
          .weight_type = header.weight_type,
          .types = header.types,
          .n_layer = hp.n_layer,
          .n_head_kv = hp.n_head_kv,
          .d_head = hp.d_head,
          .bytes = static_cast<int64_t>(header.end),
          .tokens = std::move(ids),
          .snapshots = header.snapshots};
}

}  // namespace windowkv
