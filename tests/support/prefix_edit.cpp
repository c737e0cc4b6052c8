#include "support/prefix_edit.h"

#include <ggml.h>

#include <cstring>

#include "cache/kv_type.h"
#include "cache/prefix_block.h"
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

/// Ids and the zeros behind them, behind so much JSON.
std::vector<uint8_t> padded_ids(size_t json_bytes, const PrefixPieces& pieces) {
  const size_t at = rounded_up(kStart + json_bytes, 64);
  auto ids = pieces.ids;
  ids.resize(rounded_up(at + ids.size(), 4096) - at);
  return ids;
}

/// Throws what json or windowkv throw where there are none.
size_t size_in(const ordered_json& object, const char* key, size_t most) {
  const auto& value = object.at(key);
  // By itself the JSON library makes sizes of 1e300, with undefined behaviour.
  if (!value.is_number_integer()) throw Error("not a size");
  const auto size = value.get<size_t>();
  if (size < 1 || size > most) throw Error("too large");
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
                   {"checksums", ordered_json::object()}};
  for (uint8_t id = 1; id < 4; ++id) pieces.ids.insert(pieces.ids.end(), {id, 0, 0, 0});
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
  const auto rest = file.subspan(kStart + json_bytes);
  pieces.ids.assign(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(ids));
  const auto data = file.subspan(rounded_up(kStart + json_bytes + ids, 4096));
  pieces.data.assign(data.begin(), data.end());
  return pieces;
}

bool seal(PrefixPieces& pieces) {
  HParams hp;
  size_t tokens = 0;
  KvTypes types;
  try {
    auto& header = pieces.header;
    const auto& model = header.at("model");
    hp.n_layer = static_cast<int>(size_in(model, "n_layer", 64));
    hp.n_head_kv = static_cast<int>(size_in(model, "n_head_kv", 64));
    hp.d_head = static_cast<int>(size_in(model, "d_head", 1024));
    tokens = size_in(header, "tokens", 4096);
    types = {parse_kv_type(header.at("types").at("k").get<std::string>()),
             parse_kv_type(header.at("types").at("v").get<std::string>())};
    check_kv_types(hp, types);
    const size_t bytes = PrefixBlock::bytes(hp, types, static_cast<int64_t>(tokens));
    if (bytes > 1 << 20 || !header.at("checksums").is_object()) return false;
    pieces.data.resize(bytes);
    pieces.ids.resize(tokens * 4);
  } catch (const std::exception&) {
    return false;
  }
  auto& sums = pieces.header["checksums"];
  sums = {{"ids", std::string(16, '0')}, {"k", ordered_json::array()}, {"v", ordered_json::array()}};
  size_t at = 0;
  const auto next = [&](KvType type) {
    const size_t bytes = PrefixBlock::tensor_bytes(hp, type, static_cast<int64_t>(tokens));
    at += bytes;
    return sum_of(pieces.data.data() + at - bytes, bytes);
  };
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    sums["k"].push_back(next(types.k));
    sums["v"].push_back(next(types.v));
  }
  const auto json = pieces.header.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  const auto ids = padded_ids(json.size(), pieces);
  sums["ids"] = sum_of(ids.data(), ids.size());
  return true;
}

std::vector<uint8_t> put_together(std::string_view json, const PrefixPieces& pieces) {
  std::string text(json);
  text.resize(rounded_up(kStart + text.size(), 64) - kStart, ' ');
  std::vector<uint8_t> file(kStart);
  std::memcpy(file.data(), "WKVPREFX", 8);
  const uint32_t numbers[] = {0x01020304, 1};
  const uint64_t header[] = {text.size(), Checksum::of(text.data(), text.size())};
  std::memcpy(file.data() + 8, numbers, sizeof numbers);
  std::memcpy(file.data() + 16, header, sizeof header);
  const auto ids = padded_ids(json.size(), pieces);
  file.insert(file.end(), text.begin(), text.end());
  file.insert(file.end(), ids.begin(), ids.end());
  file.insert(file.end(), pieces.data.begin(), pieces.data.end());
  return file;
}

}  // namespace windowkv::test
