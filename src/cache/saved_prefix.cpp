#include "cache/saved_prefix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "cache/prefix_block.h"
#include "cache/state_snapshot.h"
#include "support/checksum.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

std::string described(const HParams& hp) {
  return fmt::format("\"{}\", {} of {} layers, fingerprint {}", hp.name, hp.family, hp.n_layer,
                     hp.fingerprint);
}

auto identity(const HParams& hp) {
  return std::tie(hp.family, hp.fingerprint, hp.n_layer, hp.n_head_kv, hp.d_head);
}

/// Whether the same layers are recurrent, and of the same sizes.
bool recurs_alike(const HParams& a, const HParams& b) {
  for (int layer = 0; layer < a.n_layer; ++layer)
    if (a.recurrent(layer) != b.recurrent(layer)) return false;
  return a.delta_net == b.delta_net;
}

auto rope(const HParams& hp) {
  return std::tie(hp.n_rot, hp.rope_mode, hp.rope_base, hp.rope_freq_scale, hp.rope_ext_factor,
                  hp.rope_attn_factor, hp.rope_n_ctx_orig);
}

std::string described_rope(const HParams& hp) {
  return fmt::format("base {}, scale {}, YaRN {}, factor {}, trained for {} tokens", hp.rope_base,
                     hp.rope_freq_scale, hp.rope_ext_factor, hp.rope_attn_factor, hp.rope_n_ctx_orig);
}

}  // namespace

SavedPrefix::SavedPrefix(std::span<const uint8_t> file, const std::string& path)
    : file_(file),
      path_(path),
      header_(PrefixHeader::decode(file, path)),
      k_bytes_(PrefixBlock::tensor_bytes(header_.hp, header_.types.k, header_.tokens)),
      v_bytes_(PrefixBlock::tensor_bytes(header_.hp, header_.types.v, header_.tokens)),
      snapshot_bytes_(StateSnapshot::bytes(header_.hp)) {}

void SavedPrefix::check_model(const HParams& hp, const std::string& weight_type) const {
  if (identity(header_.hp) != identity(hp) || !recurs_alike(header_.hp, hp))
    throw Error(fmt::format("{}: made with another model ({}); this one is {}", path_, described(header_.hp),
                            described(hp)));
  if (rope(header_.hp) != rope(hp))
    throw Error(fmt::format("{}: made with other RoPE settings ({}); the model has {}; save the prefix again",
                            path_, described_rope(header_.hp), described_rope(hp)));
  if (header_.weight_type != weight_type)
    throw Error(
        fmt::format("{}: made with {} weights, the model has {}; use the model's {} file, or save the "
                    "prefix again",
                    path_, header_.weight_type, weight_type, header_.weight_type));
}

void SavedPrefix::check_vocabulary(const std::string& vocabulary) const {
  if (header_.vocabulary != vocabulary)
    throw Error(
        fmt::format("{}: made with another vocabulary; save the prefix again with this model", path_));
}

std::vector<Token> SavedPrefix::read_ids(std::optional<int> n_vocab) const {
  const auto bytes = file_.subspan(header_.ids_at, header_.annotation_at - header_.ids_at);
  if (Checksum::of(bytes.data(), bytes.size()) != header_.checksums.ids)
    refuse_damaged(path_, "the checksum of the token ids does not match");
  std::vector<Token> ids(static_cast<size_t>(header_.tokens));
  std::memcpy(ids.data(), bytes.data(), ids.size() * sizeof(Token));
  const auto [least, most] = std::ranges::minmax(ids);
  if (least < 0) refuse_damaged(path_, fmt::format("it has a token of id {}", least));
  if (n_vocab && most >= *n_vocab)
    throw Error(fmt::format("{}: made with another model: it has a token of id {}, this model has {} tokens",
                            path_, most, *n_vocab));
  return ids;
}

std::string SavedPrefix::read_annotation() const {
  const auto bytes = file_.subspan(header_.annotation_at, header_.data_at - header_.annotation_at);
  if (Checksum::of(bytes.data(), bytes.size()) != header_.checksums.annotation)
    refuse_damaged(path_, "the checksum of its annotation does not match");
  return {reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(header_.annotation_bytes)};
}

void SavedPrefix::check_data() const {
  const auto check = [&](std::span<const uint8_t> bytes, uint64_t checksum, const auto& what) {
    if (Checksum::of(bytes.data(), bytes.size()) != checksum)
      refuse_damaged(path_, fmt::format("the checksum of {} does not match", what()));
  };
  size_t row_layer = 0;
  for (int layer = 0; layer < header_.hp.n_layer; ++layer) {
    if (header_.hp.recurrent(layer)) continue;
    check(k(layer), header_.checksums.k[row_layer], [&] { return fmt::format("K of layer {}", layer); });
    check(v(layer), header_.checksums.v[row_layer++], [&] { return fmt::format("V of layer {}", layer); });
  }
  for (size_t i = 0; i < header_.snapshots.size(); ++i)
    check(snapshot(i), header_.checksums.snapshots[i],
          [&] { return fmt::format("the states after {} tokens", header_.snapshots[i]); });
}

size_t SavedPrefix::layer_at(int layer) const {
  return header_.data_at + static_cast<size_t>(header_.hp.row_layer(layer)) * (k_bytes_ + v_bytes_);
}

std::span<const uint8_t> SavedPrefix::snapshot(size_t index) const {
  return file_.subspan(header_.snapshots_at + index * snapshot_bytes_, snapshot_bytes_);
}

std::span<const uint8_t> SavedPrefix::k(int layer) const {
  return file_.subspan(layer_at(layer), k_bytes_);
}

std::span<const uint8_t> SavedPrefix::v(int layer) const {
  return file_.subspan(layer_at(layer) + k_bytes_, v_bytes_);
}

}  // namespace windowkv
