#include "cache/prefix_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "cache/kv_type.h"
#include "cache/prefix_block.h"
#include "cache/snapshot_positions.h"
#include "cache/state_snapshot.h"
#include "support/checksum.h"
#include "support/hash.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::string_view kMagic = "WKVPREFX";
constexpr uint32_t kByteOrder = 0x01020304, kOtherByteOrder = 0x04030201;
/// Files of models without recurrent layers are of the first version.
constexpr uint32_t kVersion = 1, kVersionWithStates = 2;
constexpr size_t kDataAlignment = 4096;  // a page's, so that a mapped block begins with one
/// Of a header with 1,024 layers, 43 KiB are checksums.
constexpr size_t kMaxJson = 256 << 10;
constexpr int kMaxDepth = 4;
constexpr size_t kMaxText = 256;
constexpr int64_t kMaxAnnotation = int64_t{1} << 30;
// As read_common (src/model/hparams.cpp) has them. The sizes of a layer fit into 64 bits with these.
constexpr int kMaxLayers = 1024, kMaxHeads = 1 << 12, kMaxHeadSize = 1024;
constexpr int kMaxKernel = 64, kMaxStateSize = 512;
constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();  // positions are 32 bits

/// What lies before the JSON.
struct Start {
  char magic[8];
  uint32_t byte_order;
  uint32_t version;
  uint64_t json_bytes;
  uint64_t json_checksum;
};
static_assert(sizeof(Start) == 32);

/// A name as a file may hold it: one line, not endless.
std::string plain(std::string_view text) {
  std::string out(text.substr(0, kMaxText / 3));  // a byte that is not UTF-8 becomes three
  for (auto& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return out;
}

std::vector<std::string> hex(const std::vector<uint64_t>& checksums) {
  std::vector<std::string> out;
  out.reserve(checksums.size());
  for (const auto checksum : checksums) out.push_back(hash_text(checksum));
  return out;
}

/// An object of the header; what it lacks, or has in another form, is a damage.
class Fields {
 public:
  Fields(const json& object, std::string name, const std::string& path)
      : object_(object), name_(std::move(name)), path_(path) {
    if (!object.is_object())
      refuse_damaged(path, name_.empty() ? "its header is no JSON object"
                                         : fmt::format("\"{}\" in its header is no object", name_));
  }

  Fields object(const char* key) const { return {at(key), named(key), path_}; }

  int64_t integer(const char* key, int64_t least, int64_t most) const {
    const auto& value = at(key);
    // By itself the JSON library makes negative numbers of what is too large.
    const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= static_cast<uint64_t>(most)
                                                 : value.is_number_integer() && value.get<int64_t>() <= most;
    if (!fits || value.get<int64_t>() < least) fail(key);
    return value.get<int64_t>();
  }

  int small(const char* key, int least, int most) const {
    return static_cast<int>(integer(key, least, most));
  }

  float number(const char* key) const {
    const auto& value = at(key);
    if (!value.is_number()) fail(key);
    const auto number = value.get<double>();
    if (!(std::abs(number) <= std::numeric_limits<float>::max())) fail(key);
    return static_cast<float>(number);
  }

  /// One line of text.
  std::string text(const char* key) const {
    const auto& value = at(key);
    if (!value.is_string()) fail(key);
    auto text = value.get<std::string>();
    if (text.size() > kMaxText ||
        std::ranges::any_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }))
      fail(key);
    return text;
  }

  KvType type(const char* key) const {
    const auto name = text(key);
    const auto known = kv_type_names();
    if (std::ranges::find(known, name) == known.end()) fail(key);
    return parse_kv_type(name);
  }

  uint64_t checksum(const char* key) const { return checksum(at(key), key); }

  /// A list of ascending numbers.
  std::vector<int64_t> ascending(const char* key, int64_t least, int64_t most, size_t most_of_them) const {
    const auto& list = at(key);
    if (!list.is_array() || list.size() > most_of_them) fail(key);
    std::vector<int64_t> out;
    for (const auto& one : list) {
      if (!one.is_number_unsigned() || one.get<uint64_t>() > static_cast<uint64_t>(most)) fail(key);
      const auto number = one.get<int64_t>();
      if (number < (out.empty() ? least : out.back() + 1)) fail(key);
      out.push_back(number);
    }
    return out;
  }

  std::vector<uint64_t> checksums(const char* key, size_t count) const {
    const auto& list = at(key);
    if (!list.is_array() || list.size() != count) fail(key);
    std::vector<uint64_t> out;
    for (const auto& one : list) out.push_back(checksum(one, key));
    return out;
  }

 private:
  [[noreturn]] void fail(const char* key) const {
    refuse_damaged(path_, fmt::format("\"{}\" in its header is not as this program writes it", named(key)));
  }

  std::string named(const char* key) const { return name_.empty() ? key : name_ + "." + key; }

  const json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) refuse_damaged(path_, fmt::format("its header has no \"{}\"", named(key)));
    return *found;
  }

  uint64_t checksum(const json& value, const char* key) const {
    uint64_t out = 0;
    const auto* digits = value.is_string() ? value.get_ptr<const std::string*>() : nullptr;
    if (digits == nullptr || digits->size() != 16) fail(key);
    const auto* last = digits->data() + digits->size();
    const auto [end, error] = std::from_chars(digits->data(), last, out, 16);
    if (error != std::errc() || end != last) fail(key);
    return out;
  }

  const json& object_;
  std::string name_;
  const std::string& path_;
};

/// The numbers before the JSON, checked.
Start read_start(std::span<const uint8_t> file, const std::string& path) {
  if (file.size() < kMagic.size() || std::memcmp(file.data(), kMagic.data(), kMagic.size()) != 0)
    throw Error(fmt::format("{}: not a saved prefix", path));
  const auto refuse_truncated = [&](size_t needed) {
    throw Error(fmt::format("{}: truncated: {} bytes of a header of {}; copy or save it again", path,
                            file.size(), needed));
  };
  Start start{};
  if (file.size() < sizeof start) refuse_truncated(sizeof start);
  std::memcpy(&start, file.data(), sizeof start);
  if (start.byte_order == kOtherByteOrder)
    throw Error(
        fmt::format("{}: written on a machine of other byte order; save the prefix again on this one", path));
  if (start.byte_order != kByteOrder) refuse_damaged(path, "an unknown byte order");
  if (start.version > kVersionWithStates)
    throw Error(
        fmt::format("{}: saved by a newer version ({}; this program reads {}); update windowkv, or "
                    "save the prefix again",
                    path, start.version, kVersionWithStates));
  if (start.version < kVersion) refuse_damaged(path, fmt::format("an unknown version, {}", start.version));
  // Padded to where the ids begin.
  if (start.json_bytes > kMaxJson || (sizeof start + start.json_bytes) % PrefixBlock::kAlignment != 0)
    refuse_damaged(path, fmt::format("it claims a header of {} bytes", start.json_bytes));
  if (file.size() - sizeof start < start.json_bytes) refuse_truncated(sizeof start + start.json_bytes);
  return start;
}

json parse_json(std::string_view text, const std::string& path) {
  // Not after parsing: what is nested as deep as the header is long takes a hundred times its memory.
  const auto shallow = [&](int depth, json::parse_event_t, const json&) {
    if (depth > kMaxDepth) refuse_damaged(path, "its header is nested too deep");
    return true;
  };
  auto parsed = json::parse(text, shallow, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) refuse_damaged(path, "its header is not JSON");
  return parsed;
}

/// Which layers are recurrent, and their sizes.
void read_recurrent(const Fields& model, HParams& hp, const std::string& path) {
  const auto fields = model.object("recurrent");
  const auto layers = fields.ascending("layers", 0, hp.n_layer - 1, static_cast<size_t>(hp.n_layer));
  if (layers.empty() || std::ssize(layers) == hp.n_layer)
    refuse_damaged(path, "none of its layers is recurrent, or all are");
  hp.attention.resize(static_cast<size_t>(hp.n_layer));
  for (const auto layer : layers) hp.attention[static_cast<size_t>(layer)].recurrent = true;
  hp.delta_net = {fields.small("key_heads", 1, kMaxHeads), fields.small("heads", 1, kMaxHeads),
                  fields.small("d_head", 1, kMaxStateSize), fields.small("kernel", 2, kMaxKernel)};
}

ordered_json recurrent_json(const HParams& hp) {
  auto layers = ordered_json::array();
  for (int layer = 0; layer < hp.n_layer; ++layer)
    if (hp.recurrent(layer)) layers.push_back(layer);
  const auto& net = hp.delta_net;
  return {{"layers", layers},
          {"key_heads", net.key_heads},
          {"heads", net.heads},
          {"d_head", net.d_head},
          {"kernel", net.kernel}};
}

}  // namespace

void refuse_damaged(const std::string& path, const std::string& what) {
  throw Error(fmt::format("{}: damaged: {}; copy or save it again", path, what));
}

void PrefixHeader::place(size_t header_bytes) {
  ids_at = header_bytes;
  annotation_at = GGML_PAD(ids_at + static_cast<size_t>(tokens) * sizeof(int32_t), PrefixBlock::kAlignment);
  data_at = GGML_PAD(annotation_at + static_cast<size_t>(annotation_bytes), kDataAlignment);
  snapshots_at = data_at + PrefixBlock::bytes(hp, types, tokens);
  end = snapshots_at + snapshots.size() * StateSnapshot::bytes(hp);
}

std::string PrefixHeader::encode() {
  ordered_json fields = {{"model",
                          {{"name", plain(hp.name)},
                           {"family", plain(hp.family)},
                           {"fingerprint", hp.fingerprint},
                           {"weight_type", weight_type},
                           {"vocabulary", vocabulary},
                           {"n_layer", hp.n_layer},
                           {"n_head_kv", hp.n_head_kv},
                           {"d_head", hp.d_head},
                           {"rope",
                            {{"n_rot", hp.n_rot},
                             {"mode", hp.rope_mode},
                             {"base", hp.rope_base},
                             {"freq_scale", hp.rope_freq_scale},
                             {"ext_factor", hp.rope_ext_factor},
                             {"attn_factor", hp.rope_attn_factor},
                             {"n_ctx_orig", hp.rope_n_ctx_orig}}}}},
                         {"types", {{"k", to_string(types.k)}, {"v", to_string(types.v)}}},
                         {"tokens", tokens},
                         {"annotation_bytes", annotation_bytes},
                         {"checksums",
                          {{"ids", hash_text(checksums.ids)},
                           {"annotation", hash_text(checksums.annotation)},
                           {"k", hex(checksums.k)},
                           {"v", hex(checksums.v)}}}};
  if (hp.recurrent()) {
    fields["model"]["recurrent"] = recurrent_json(hp);
    fields["snapshots"] = snapshots;
    fields["checksums"]["snapshots"] = hex(checksums.snapshots);
  }
  auto text = fields.dump(-1, ' ', /*ensure_ascii=*/false, ordered_json::error_handler_t::replace);
  Start start{};
  text.resize(GGML_PAD(sizeof start + text.size(), PrefixBlock::kAlignment) - sizeof start, ' ');
  std::ranges::copy(kMagic, start.magic);
  start.byte_order = kByteOrder;
  start.version = hp.recurrent() ? kVersionWithStates : kVersion;
  start.json_bytes = text.size();
  start.json_checksum = Checksum::of(text.data(), text.size());
  place(sizeof start + text.size());
  return std::string(reinterpret_cast<const char*>(&start), sizeof start) + text;
}

PrefixHeader PrefixHeader::decode(std::span<const uint8_t> file, const std::string& path) {
  const auto start = read_start(file, path);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof start, start.json_bytes);
  if (Checksum::of(text.data(), text.size()) != start.json_checksum)
    refuse_damaged(path, "the checksum of its header does not match");

  const auto parsed = parse_json(text, path);
  const Fields fields(parsed, "", path);
  PrefixHeader out;
  auto& hp = out.hp;
  const auto model = fields.object("model");
  hp.name = model.text("name");
  hp.family = model.text("family");
  hp.fingerprint = model.text("fingerprint");
  out.weight_type = model.text("weight_type");
  out.vocabulary = model.text("vocabulary");
  hp.n_layer = model.small("n_layer", 1, kMaxLayers);
  hp.n_head_kv = model.small("n_head_kv", 1, kMaxHeads);
  hp.d_head = model.small("d_head", 1, kMaxHeadSize);
  const auto rope = model.object("rope");
  constexpr int kMost = std::numeric_limits<int>::max();
  hp.n_rot = rope.small("n_rot", 0, kMost);
  hp.rope_mode = rope.small("mode", 0, kMost);
  hp.rope_base = rope.number("base");
  hp.rope_freq_scale = rope.number("freq_scale");
  hp.rope_ext_factor = rope.number("ext_factor");
  hp.rope_attn_factor = rope.number("attn_factor");
  hp.rope_n_ctx_orig = rope.small("n_ctx_orig", -kMost, kMost);
  const auto types = fields.object("types");
  out.types = {types.type("k"), types.type("v")};
  for (const auto type : {out.types.k, out.types.v})
    if (hp.d_head % ggml_blck_size(to_ggml(type)) != 0)
      refuse_damaged(path, fmt::format("heads of {} elements in {}", hp.d_head, to_string(type)));
  out.tokens = fields.integer("tokens", 1, kMaxTokens);
  out.annotation_bytes = fields.integer("annotation_bytes", 0, kMaxAnnotation);
  if (start.version == kVersionWithStates) {
    read_recurrent(model, hp, path);
    out.snapshots = fields.ascending("snapshots", 1, out.tokens, kMostSnapshots);
  }
  const auto checksums = fields.object("checksums");
  const auto layers = static_cast<size_t>(out.row_layers());
  out.checksums = {checksums.checksum("ids"), checksums.checksum("annotation"),
                   checksums.checksums("k", layers), checksums.checksums("v", layers)};
  if (out.hp.recurrent()) out.checksums.snapshots = checksums.checksums("snapshots", out.snapshots.size());

  // All layers together may not fit into 64 bits, where no file is that large.
  const size_t layer = PrefixBlock::tensor_bytes(hp, out.types.k, out.tokens) +
                       PrefixBlock::tensor_bytes(hp, out.types.v, out.tokens);
  if (layer > (size_t{1} << 62) / static_cast<size_t>(hp.n_layer))
    refuse_damaged(path, "no file holds what its header says");
  out.place(sizeof start + text.size());
  if (file.size() < out.end)
    throw Error(
        fmt::format("{}: truncated: {} of {} bytes; copy or save it again", path, file.size(), out.end));
  if (file.size() > out.end)
    refuse_damaged(path, fmt::format("{} bytes follow its end", file.size() - out.end));
  return out;
}

}  // namespace windowkv
