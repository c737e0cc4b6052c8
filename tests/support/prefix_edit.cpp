#include "support/prefix_edit.h"

#include <ggml.h>

#include <cstring>
#include <utility>

#include "cache/kv_type.h"
#include "cache/prefix_block.h"
#include "cache/state_snapshot.h"
#include "support/checksum.h"
#include "windowkv/error.h"

namespace windowkv::test {

namespace {

using nlohmann::ordered_json;

constexpr size_t kStart = 32;

size_t rounded_up(size_t bytes, size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

std::string sum_of(const uint8_t* data, size_t size) {
  Checksum sum;
  sum.add(data, size);
  return sum.text();
}

/// Ids and annotation, each with the zeros behind it, behind so much JSON.
struct Padded {
  std::vector<uint8_t> ids;
  std::vector<uint8_t> annotation;
};
Padded padded(size_t json_bytes, const PrefixPieces& pieces) {
  const size_t at = rounded_up(kStart + json_bytes, 64);
  Padded out{pieces.ids, pieces.annotation};
  const size_t annotation_at = rounded_up(at + out.ids.size(), 64);
  out.ids.resize(annotation_at - at);
  out.annotation.resize(rounded_up(annotation_at + out.annotation.size(), 4096) - annotation_at);
  return out;
}

/// Throws what json or windowkv throw where there are none.
size_t size_in(const ordered_json& object, const char* key, size_t least, size_t most) {
  const auto& value = object.at(key);
  // By itself the JSON library makes sizes of 1e300, with undefined behaviour.
  if (!value.is_number_integer()) throw Error("not a size");
  const auto size = value.get<size_t>();
  if (size < least || size > most) throw Error("too large");
  return size;
}

}  // namespace

PrefixPieces small_prefix() {
  PrefixPieces pieces;
  pieces.header = {{"model",
                    {{"name", "small"},
                     {"family", "llama"},
                     {"fingerprint", "0123456789abcdef"},
                     {"weight_type", "q8_0"},
                     {"vocabulary", "fedcba9876543210"},
                     {"n_layer", 2},
                     {"n_head_kv", 2},
                     {"d_head", 32},
                     {"rope",
                      {{"n_rot", 32},
                       {"mode", 0},
                       {"base", 10000.0},
                       {"freq_scale", 1.0},
                       {"ext_factor", 0.0},
                       {"attn_factor", 1.0},
                       {"n_ctx_orig", 512}}}}},
                   {"types", {{"k", "q8_0"}, {"v", "f16"}}},
                   {"tokens", 3},
                   {"annotation_bytes", 2},
                   {"checksums", ordered_json::object()}};
  for (uint8_t id = 1; id < 4; ++id) pieces.ids.insert(pieces.ids.end(), {id, 0, 0, 0});
  seal(pieces);
  return pieces;
}

PrefixPieces small_recurrent_prefix() {
  auto pieces = small_prefix();
  auto& model = pieces.header["model"];
  model["n_layer"] = 3;
  model["recurrent"] = {{"layers", {0, 2}}, {"key_heads", 1}, {"heads", 2}, {"d_head", 4}, {"kernel", 3}};
  pieces.header["snapshots"] = {1, 3};
  seal(pieces);
  return pieces;
}

PrefixPieces take_apart(std::span<const uint8_t> file) {
  uint64_t json_bytes = 0;
  std::memcpy(&json_bytes, file.data() + 16, sizeof json_bytes);
  PrefixPieces pieces;
  pieces.header = ordered_json::parse(file.begin() + kStart,
                                      file.begin() + static_cast<std::ptrdiff_t>(kStart + json_bytes));
  const size_t ids = pieces.header.at("tokens").get<size_t>() * 4;
  const size_t annotation = pieces.header.at("annotation_bytes").get<size_t>();
  const size_t annotation_at = rounded_up(kStart + json_bytes + ids, 64);
  const auto copy = [&](std::vector<uint8_t>& to, size_t at, size_t size) {
    const auto from = file.subspan(at, size);
    to.assign(from.begin(), from.end());
  };
  copy(pieces.ids, kStart + json_bytes, ids);
  copy(pieces.annotation, annotation_at, annotation);
  const auto data = file.subspan(rounded_up(annotation_at + annotation, 4096));
  pieces.data.assign(data.begin(), data.end());
  return pieces;
}

bool seal(PrefixPieces& pieces) {
  HParams hp;
  size_t tokens = 0, snapshots = 0;
  KvTypes types;
  try {
    auto& header = pieces.header;
    const auto& model = header.at("model");
    hp.n_layer = static_cast<int>(size_in(model, "n_layer", 1, 64));
    hp.n_head_kv = static_cast<int>(size_in(model, "n_head_kv", 1, 64));
    hp.d_head = static_cast<int>(size_in(model, "d_head", 1, 1024));
    tokens = size_in(header, "tokens", 1, 4096);
    types = {parse_kv_type(header.at("types").at("k").get<std::string>()),
             parse_kv_type(header.at("types").at("v").get<std::string>())};
    check_kv_types(hp, types);
    if (const auto recurrent = model.find("recurrent"); recurrent != model.end()) {
      hp.attention.resize(static_cast<size_t>(hp.n_layer));
      for (const auto& layer : recurrent->at("layers")) {
        if (!layer.is_number_integer()) return false;
        hp.attention.at(layer.get<size_t>()).recurrent = true;
      }
      hp.delta_net = {static_cast<int>(size_in(*recurrent, "key_heads", 1, 64)),
                      static_cast<int>(size_in(*recurrent, "heads", 1, 64)),
                      static_cast<int>(size_in(*recurrent, "d_head", 1, 64)),
                      static_cast<int>(size_in(*recurrent, "kernel", 2, 64))};
      snapshots = header.at("snapshots").size();
      if (snapshots > 64) return false;
    }
    const size_t bytes =
        PrefixBlock::bytes(hp, types, static_cast<int64_t>(tokens)) + snapshots * StateSnapshot::bytes(hp);
    if (bytes > 1 << 20 || !header.at("checksums").is_object()) return false;
    pieces.data.resize(bytes);
    pieces.ids.resize(tokens * 4);
    pieces.annotation.resize(size_in(header, "annotation_bytes", 0, 1 << 16));
  } catch (const std::exception&) {
    return false;
  }
  auto& sums = pieces.header["checksums"];
  sums = {{"ids", std::string(16, '0')},
          {"annotation", std::string(16, '0')},
          {"k", ordered_json::array()},
          {"v", ordered_json::array()}};
  size_t at = 0;
  const auto next = [&](size_t bytes) {
    at += bytes;
    return sum_of(pieces.data.data() + at - bytes, bytes);
  };
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    if (hp.recurrent(layer)) continue;
    for (auto [key, type] : {std::pair{"k", types.k}, {"v", types.v}})
      sums[key].push_back(next(PrefixBlock::tensor_bytes(hp, type, static_cast<int64_t>(tokens))));
  }
  if (!hp.attention.empty()) sums["snapshots"] = ordered_json::array();
  for (size_t i = 0; i < snapshots; ++i) sums["snapshots"].push_back(next(StateSnapshot::bytes(hp)));
  const auto json = pieces.header.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  const auto [ids, annotation] = padded(json.size(), pieces);
  sums["ids"] = sum_of(ids.data(), ids.size());
  sums["annotation"] = sum_of(annotation.data(), annotation.size());
  return true;
}

std::vector<uint8_t> put_together(std::string_view json, const PrefixPieces& pieces) {
  std::string text(json);
  text.resize(rounded_up(kStart + text.size(), 64) - kStart, ' ');
  std::vector<uint8_t> file(kStart);
  std::memcpy(file.data(), "WKVPREFX", 8);
  const auto& header_json = pieces.header;
  const bool recurrent = header_json.contains(ordered_json::json_pointer("/model/recurrent"));
  const uint32_t numbers[] = {0x01020304, recurrent ? 2U : 1U};
  const uint64_t header[] = {text.size(), Checksum::of(text.data(), text.size())};
  std::memcpy(file.data() + 8, numbers, sizeof numbers);
  std::memcpy(file.data() + 16, header, sizeof header);
  const auto [ids, annotation] = padded(json.size(), pieces);
  for (const auto& part : {std::vector<uint8_t>(text.begin(), text.end()), ids, annotation})
    file.insert(file.end(), part.begin(), part.end());
  file.insert(file.end(), pieces.data.begin(), pieces.data.end());
  return file;
}

}  // namespace windowkv::test
