// Saved prefixes. What begins with "WKVP" is the file; anything else is a list of changes to a small one,
// whose checksums are made to match again where its header makes sense, so that they get past them.
#include <fuzzer/FuzzedDataProvider.h>

#include <array>
#include <cstring>
#include <tuple>
#include <vector>

#include "cache/prefix_block.h"
#include "cache/saved_prefix.h"
#include "cache/state_snapshot.h"
#include "input.h"
#include "support/prefix_edit.h"

using namespace windowkv;

namespace {

using nlohmann::ordered_json;

const std::string kPath = "a.prefix";
constexpr size_t kMaxBytes = 1 << 21;  // of a file that is made

constexpr std::array kFields = {
    "/model",
    "/model/name",
    "/model/family",
    "/model/fingerprint",
    "/model/weight_type",
    "/model/vocabulary",
    "/model/n_layer",
    "/model/n_head_kv",
    "/model/d_head",
    "/model/recurrent",
    "/model/recurrent/layers",
    "/model/recurrent/layers/1",
    "/model/recurrent/key_heads",
    "/model/recurrent/heads",
    "/model/recurrent/d_head",
    "/model/recurrent/kernel",
    "/model/rope",
    "/model/rope/n_rot",
    "/model/rope/mode",
    "/model/rope/base",
    "/model/rope/freq_scale",
    "/model/rope/ext_factor",
    "/model/rope/attn_factor",
    "/model/rope/n_ctx_orig",
    "/types",
    "/types/k",
    "/types/v",
    "/tokens",
    "/annotation_bytes",
    "/checksums",
    "/checksums/ids",
    "/checksums/annotation",
    "/checksums/k",
    "/checksums/v",
    "/checksums/k/0",
    "/checksums/v/1",
    "/checksums/snapshots",
    "/checksums/snapshots/0",
    "/snapshots",
    "/snapshots/0",
    "/other",
};

ordered_json value_of(FuzzedDataProvider& in) {
  switch (in.ConsumeIntegralInRange(0, 9)) {
    case 0:
      return nullptr;
    case 1:
      return in.ConsumeBool();
    case 2:
      return in.ConsumeIntegral<uint64_t>();
    case 3:
      return in.ConsumeIntegral<int64_t>();
    case 4:
      return in.ConsumeFloatingPoint<double>();
    case 5:
      return in.ConsumeRandomLengthString(300);
    case 6:
      return ordered_json::array({in.ConsumeIntegral<int8_t>()});
    case 7:
      return in.PickValueInArray({"f16", "bf16", "q8_0", "q4_0", "f32", "0123456789abcdef"});
    default:  // what sizes mostly are
      return in.ConsumeIntegral<uint8_t>();
  }
}

void change_field(ordered_json& header, FuzzedDataProvider& in) {
  const ordered_json::json_pointer field(in.PickValueInArray(kFields));
  const bool remove = in.ConsumeIntegralInRange(0, 3) == 0;
  auto value = value_of(in);
  try {
    if (!remove)
      header[field] = std::move(value);
    else if (auto& parent = header.at(field.parent_pointer()); parent.is_object())
      parent.erase(field.back());
  } catch (const ordered_json::exception&) {  // the field's parent is gone, or no object
  }
}

void change_bytes(std::vector<uint8_t>& bytes, FuzzedDataProvider& in) {
  if (bytes.empty()) return;
  bytes[in.ConsumeIntegral<uint32_t>() % bytes.size()] ^= in.ConsumeIntegral<uint8_t>();
}

/// Behind the checksums: nothing makes these match.
void change_file(std::vector<uint8_t>& file, FuzzedDataProvider& in) {
  switch (in.ConsumeIntegralInRange(0, 3)) {
    case 0:
      return file.resize(in.ConsumeIntegralInRange<size_t>(0, file.size()));
    case 1:
      return file.resize(file.size() + in.ConsumeIntegral<uint8_t>());
    case 2:
      if (file.size() > 32) file[in.ConsumeIntegral<uint8_t>() % 32] ^= in.ConsumeIntegral<uint8_t>();
      return;
    default:
      return change_bytes(file, in);
  }
}

std::vector<uint8_t> changed_file(FuzzedDataProvider& in) {
  auto pieces = test::small_prefix();
  bool seal = true;
  std::string json;
  int later = 0;
  for (int changes = 0; in.remaining_bytes() > 0 && changes < 16; ++changes) {
    switch (in.ConsumeIntegralInRange(0, 9)) {
      case 0:
        change_bytes(pieces.ids, in);
        break;
      case 1:
        change_bytes(pieces.data, in);
        break;
      case 2:
        seal = false;
        break;
      case 3:
        json = in.ConsumeRandomLengthString(400);
        break;
      case 4:
        ++later;
        break;
      case 5:
        pieces = test::small_recurrent_prefix();
        break;
      default:
        change_field(pieces.header, in);
    }
  }
  if (seal) test::seal(pieces);
  auto file = json.empty() ? test::put_together(pieces) : test::put_together(json, pieces);
  for (; later > 0; --later) change_file(file, in);
  return file;
}

auto fields_of(const PrefixHeader& h) {
  // Without names, which are cut when written.
  return std::tuple(h.hp.fingerprint, h.weight_type, h.vocabulary, h.hp.n_layer, h.hp.n_head_kv, h.hp.d_head,
                    h.hp.n_rot, h.hp.rope_mode, h.hp.rope_base, h.hp.rope_freq_scale, h.hp.rope_ext_factor,
                    h.hp.rope_attn_factor, h.hp.rope_n_ctx_orig, h.types, h.tokens, h.annotation_bytes,
                    h.checksums.ids, h.checksums.annotation, h.checksums.k, h.checksums.v,
                    h.checksums.snapshots, h.snapshots, h.hp.attention, h.hp.delta_net);
}

/// A header that was read is written so that it is read the same.
void write_again(PrefixHeader header) {
  const auto before = fields_of(header);
  const auto start = header.encode();
  if (header.end > kMaxBytes) return;
  std::vector<uint8_t> file(header.end);
  fuzz::require(start.size() == header.ids_at && start.size() < file.size(),
                "the ids are not behind the header");
  std::ranges::copy(start, file.begin());
  fuzz::require(fields_of(PrefixHeader::decode(file, kPath)) == before, "a header is read otherwise");
}

/// K and V, as the engine reads them, are those that were checked.
void show_block(const SavedPrefix& saved, std::span<const uint8_t> file) {
  const auto& header = saved.header();
  if (file.size() > kMaxBytes) return;
  auto memory = HostMemory::anonymous(file.size());
  std::memcpy(memory.data(), file.data(), file.size());
  const auto block = std::make_shared<const PrefixBlock>(header.hp, header.types, header.tokens,
                                                         std::move(memory), header.data_at);
  const auto check = [](const ggml_tensor* tensor, std::span<const uint8_t> bytes) {
    fuzz::require(ggml_nbytes(tensor) <= bytes.size() &&
                      std::memcmp(tensor->data, bytes.data(), ggml_nbytes(tensor)) == 0,
                  "a block shows other bytes");
  };
  for (int layer = 0; layer < header.hp.n_layer; ++layer) {
    if (header.hp.recurrent(layer)) continue;
    check(block->k(layer), saved.k(layer));
    check(block->v(layer), saved.v(layer));
  }
  for (size_t i = 0; i < header.snapshots.size(); ++i) {
    const auto bytes = saved.snapshot(i);
    const StateSnapshot state(header.hp, {block, &block->memory()},
                              header.snapshots_at + i * StateSnapshot::bytes(header.hp));
    fuzz::require(std::memcmp(state.data(), bytes.data(), bytes.size()) == 0, "a snapshot shows other bytes");
  }
}

void read(std::span<const uint8_t> file) {
  const SavedPrefix saved(file, kPath);
  const auto& header = saved.header();
  fuzz::require(header.end == file.size() && header.data_at % 4096 == 0, "another size");
  write_again(header);

  static const auto small = [] {
    const auto bytes = test::put_together(test::small_prefix());
    return PrefixHeader::decode(bytes, kPath);
  }();
  fuzz::refuse_or([&] { saved.check_model(small.hp, small.weight_type); });
  fuzz::refuse_or([&] { saved.check_vocabulary(small.vocabulary); });
  fuzz::refuse_or([&] {
    for (const Token id : saved.read_ids(256))
      fuzz::require(id >= 0 && id < 256, "an id that the model does not have");
  });
  const auto ids = saved.read_ids();
  fuzz::require(ids.size() == static_cast<size_t>(header.tokens), "another number of ids");
  for (const Token id : ids) fuzz::require(id >= 0, "a negative id");
  fuzz::require(saved.read_annotation().size() == static_cast<size_t>(header.annotation_bytes),
                "another annotation");
  saved.check_data();
  show_block(saved, file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (fuzz::text_of(data, size).starts_with("WKVP")) {
    fuzz::refuse_or([&] { read({data, size}); });
    return 0;
  }
  FuzzedDataProvider in(data, size);
  const auto file = changed_file(in);
  fuzz::refuse_or([&] { read(file); });
  return 0;
}
