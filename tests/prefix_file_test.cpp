// Saved prefixes: what is read is what was written, and everything else is refused with an Error.
#include "cache/prefix_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <thread>

#include "cache/saved_prefix.h"
#include "support/file.h"
#include "support/files.h"
#include "support/gguf_edit.h"
#include "support/models.h"
#include "support/prefix_edit.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr KvTypes kQ8 = {KvType::kQ8_0, KvType::kQ8_0};

RandomModel small() {
  RandomModel m;
  m.n_layer = 3;
  m.n_embd = 128;
  m.d_head = 32;
  return m;
}

const Model& model() {
  static const auto loaded = load(random_model_path("prefix", small()));
  return *loaded;
}

/// K or V of one token and head.
std::string_view row_of(const ggml_tensor* tensor, int64_t token, int64_t head) {
  return {static_cast<const char*>(tensor->data) + static_cast<size_t>(token) * tensor->nb[1] +
              static_cast<size_t>(head) * tensor->nb[2],
          tensor->nb[1]};
}

/// Appends a part of `count` tokens, in a block of `in_block`, whose K and V are random bytes.
void append(const PrefixStore& store, int64_t count, int64_t in_block, uint64_t seed) {
  auto& parts = store.parts();
  const auto block = parts.make_block(in_block);
  std::mt19937_64 random(seed);
  for (int layer = 0; layer < parts.hparams().n_layer; ++layer)
    for (auto* tensor : {block->k(layer), block->v(layer)})
      for (size_t i = 0; i < ggml_nbytes(tensor); ++i)
        static_cast<uint8_t*>(tensor->data)[i] = static_cast<uint8_t>(random());
  const auto before = static_cast<int64_t>(parts.tokens().size());
  parts.append(block, random_tokens(in_block, parts.hparams().n_vocab, seed));
  parts.cut(before + count);
}

PrefixStore filled(const Model& of, KvTypes types = kQ8) {
  PrefixStore store(of, {.types = types});
  append(store, 7, 9, 1);
  append(store, 1, 1, 2);
  append(store, 12, 12, 3);
  return store;
}

/// One row after another, over all parts.
std::vector<std::string_view> rows_of(const PrefixStore& store) {
  std::vector<std::string_view> rows;
  const auto& parts = store.parts();
  for (int layer = 0; layer < parts.hparams().n_layer; ++layer)
    for (const bool key : {true, false})
      for (int head = 0; head < parts.hparams().n_head_kv; ++head)
        for (const auto& [block, count] : parts.all())
          for (int64_t token = 0; token < count; ++token)
            rows.push_back(row_of(key ? block->k(layer) : block->v(layer), token, head));
  return rows;
}

void expect_same(const PrefixStore& a, const PrefixStore& b) {
  EXPECT_TRUE(std::ranges::equal(a.tokens(), b.tokens()));
  EXPECT_EQ(a.types(), b.types());
  EXPECT_TRUE(rows_of(a) == rows_of(b));
}

/// The message of the Error that `what` throws; "" where it throws none.
std::string error_of(const std::function<void()>& what) {
  try {
    what();
    return "";
  } catch (const Error& e) {
    EXPECT_EQ(std::string_view(e.what()).find('\n'), std::string_view::npos) << e.what();
    return e.what();
  }
}

std::string load_error(const std::string& path, const Model& of = model()) {
  return error_of([&] { PrefixStore::load(of, path); });
}

void expect_refused(const std::string& path, std::string_view reason, const Model& of = model()) {
  const auto error = load_error(path, of);
  EXPECT_TRUE(error.starts_with(path + ": ")) << error;
  EXPECT_NE(error.find(reason), std::string::npos) << "no \"" << reason << "\" in: " << error;
}

std::string save(const PrefixStore& store, std::string_view name) {
  auto path = temp_path(name);
  store.save(path);
  return path;
}

TEST(PrefixFile, HoldsTheStore) {
  for (const KvTypes types :
       {kQ8, KvTypes{}, KvTypes{KvType::kQ4_0, KvType::kF16}, KvTypes{KvType::kBf16, KvType::kQ4_0}}) {
    SCOPED_TRACE(to_string(types.k));
    const auto store = filled(model(), types);
    const auto path = save(store, "a.prefix");
    const auto loaded = PrefixStore::load(model(), path);
    expect_same(loaded, store);
    ASSERT_EQ(loaded.parts().all().size(), 1U);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(loaded.parts().all()[0].block->k(0)->data) % 4096, 0U);
    // The same tokens give the same bytes, whatever their parts.
    EXPECT_EQ(read_bytes(save(loaded, "b.prefix")), read_bytes(path));
  }
}

TEST(PrefixFile, GrowsOverItself) {
  const auto path = save(filled(model()), "grows.prefix");
  auto store = PrefixStore::load(model(), path);
  append(store, 30, 30, 4);
  store.save(path);
  const auto grown = PrefixStore::load(model(), path);
  EXPECT_EQ(grown.tokens().size(), 50U);
  expect_same(grown, store);
  store.cut(5);
  store.save(path);
  expect_same(PrefixStore::load(model(), path), store);
  EXPECT_EQ(grown.tokens().size(), 50U);
  EXPECT_EQ(rows_of(grown).size(), 50U * 12);
}

TEST(PrefixFile, AddedTokensLieWhereTheOptionsSay) {
  const auto path = save(filled(model()), "place.prefix");
  const auto store = PrefixStore::load(model(), path, {.place = PrefixStoreOptions::Place::kTemporaryFile});
  EXPECT_EQ(store.parts().options().place, PrefixStoreOptions::Place::kTemporaryFile);
  append(store, 3, 3, 5);
  expect_same(PrefixStore::load(model(), save(store, "place2.prefix")), store);
}

TEST(PrefixFile, TellsOfItself) {
  const auto store = filled(model(), {KvType::kQ8_0, KvType::kF16});
  const auto path = save(store, "info.prefix");
  const auto info = read_prefix_info(path);
  EXPECT_EQ(info.fingerprint, model().hparams().fingerprint);
  EXPECT_EQ(info.model, "random 1");
  EXPECT_EQ(info.family, "llama");
  EXPECT_EQ(info.weight_type, "f16");
  EXPECT_EQ(info.types, store.types());
  EXPECT_EQ(info.n_layer, 3);
  EXPECT_EQ(info.n_head_kv, 2);
  EXPECT_EQ(info.d_head, 32);
  EXPECT_EQ(info.bytes, static_cast<int64_t>(fs::file_size(path)));
  EXPECT_TRUE(std::ranges::equal(info.tokens, store.tokens()));
}

#if defined(__has_feature)
constexpr bool kAddressSanitizer = __has_feature(address_sanitizer);
#else
constexpr bool kAddressSanitizer = false;
#endif

TEST(PrefixFile, TruncatedAnywhere) {
  const auto path = save(filled(model()), "truncated.prefix");
  const auto whole = fs::file_size(path);
  const auto data_at = static_cast<uintmax_t>(PrefixHeader::decode(read_bytes(path), "").data_at);
  for (auto size = whole; size-- > 0;) {
    // All sizes take minutes there, and those that end in K and V differ in nothing.
    if (kAddressSanitizer && size > data_at && size % 13 != 0) continue;
    fs::resize_file(path, size);
    const auto error = load_error(path);
    const bool told = error.find(size < 8 ? "not a saved prefix" : "truncated: ") != std::string::npos;
    ASSERT_TRUE(told) << size << " of " << whole << " bytes: " << error;
    ASSERT_EQ(error_of([&] { read_prefix_info(path); }), error);
  }
  fs::resize_file(path, 0);
  EXPECT_NE(load_error(path), "");
}

TEST(PrefixFile, BytesBehindItsEnd) {
  const auto path = save(filled(model()), "longer.prefix");
  fs::resize_file(path, fs::file_size(path) + 1);
  expect_refused(path, "damaged: 1 bytes follow its end");
}

TEST(PrefixFile, AnyByteChanged) {
  const auto bytes = read_bytes(save(filled(model()), "changed.prefix"));
  const auto data_at = PrefixHeader::decode(bytes, "").data_at;
  const auto path = write_bytes("changed.prefix", bytes);
  std::FILE* file = std::fopen(path.c_str(), "r+b");
  const auto put = [&](size_t at, uint8_t byte) {
    ASSERT_EQ(pwrite(fileno(file), &byte, 1, static_cast<off_t>(at)), 1);
  };
  // Everything before K and V, and every thirteenth byte of those: each is in some checksum.
  for (size_t at = 0; at < bytes.size(); at += at < data_at ? 1 : 13)
    for (const uint8_t bits : {0x01, 0x80}) {
      put(at, bytes[at] ^ bits);
      ASSERT_NE(load_error(path), "") << "byte " << at;
      put(at, bytes[at]);
    }
  std::fclose(file);
  EXPECT_EQ(load_error(path), "");
}

TEST(PrefixFile, SaysWhatIsDamaged) {
  const auto original = read_bytes(save(filled(model()), "which.prefix"));
  const auto header = PrefixHeader::decode(original, "");
  const SavedPrefix saved(original, "");
  const auto expect = [&](size_t at, std::string_view reason) {
    auto bytes = original;
    bytes[at] ^= 4;
    expect_refused(write_bytes("which.prefix", bytes), reason);
  };
  const auto at = [&](std::span<const uint8_t> tensor) {
    return static_cast<size_t>(tensor.data() - original.data()) + 5;
  };
  expect(0, "not a saved prefix");
  expect(8, "damaged: an unknown byte order");
  expect(12, "saved by a newer version (5; this program reads 2); update windowkv");
  expect(18, "damaged: it claims a header of");
  expect(30, "damaged: the checksum of its header does not match");
  expect(40, "damaged: the checksum of its header does not match");
  expect(header.ids_at, "damaged: the checksum of the token ids does not match");
  expect(header.annotation_at - 1, "damaged: the checksum of the token ids does not match");
  expect(header.data_at - 1, "damaged: the checksum of its annotation does not match");
  expect(at(saved.k(0)), "damaged: the checksum of K of layer 0 does not match");
  expect(at(saved.v(2)), "damaged: the checksum of V of layer 2 does not match");
}

TEST(PrefixFile, OtherVersionsAndMachines) {
  auto bytes = read_bytes(save(filled(model()), "version.prefix"));
  const uint32_t swapped = 0x04030201, newer = 3, none = 0;
  std::memcpy(&bytes[12], &newer, 4);
  expect_refused(write_bytes("version.prefix", bytes), "saved by a newer version (3; this program reads 2)");
  std::memcpy(&bytes[12], &none, 4);
  expect_refused(write_bytes("version.prefix", bytes), "damaged: an unknown version, 0");
  std::memcpy(&bytes[8], &swapped, 4);
  expect_refused(write_bytes("version.prefix", bytes), "written on a machine of other byte order");
}

TEST(PrefixFile, OfAnotherModel) {
  const auto path = save(filled(model()), "model.prefix");
  const auto refused = [&](std::string_view name, std::string_view reason,
                           const std::function<void(RandomModel&)>& change) {
    auto other = small();
    change(other);
    expect_refused(path, reason, *load(random_model_path(name, other)));
  };
  refused("prefix_seed", "made with another model (\"random 1\"", [](auto& m) { m.seed = 2; });
  refused("prefix_layers", "made with another model (\"random 1\"", [](auto& m) { m.n_layer = 2; });
  refused("prefix_heads", "made with another model (\"random 1\"", [](auto& m) { m.n_head_kv = 4; });
  refused("prefix_rope", "made with other RoPE settings (base 10000", [](auto& m) { m.rope_base = 5e5f; });
  refused("prefix_weights", "made with f16 weights, the model has q8_0; use the model's f16 file",
          [](auto& m) { m.type = GGML_TYPE_Q8_0; });
  refused("prefix_vocab", "made with another model: it has a token of id", [](auto& m) { m.n_vocab = 64; });
}

TEST(PrefixFile, OfAnotherVocabulary) {
  const auto mine = load(minilong_path("q8_0"));
  const auto other = load(edit_gguf(minilong_path("q8_0"), "renamed.gguf", [](GgufEdit& e) {
    const char* key = "tokenizer.ggml.tokens";
    const auto id = gguf_find_key(e.meta, key);
    std::vector<std::string> tokens;
    for (size_t i = 0; i < gguf_get_arr_n(e.meta, id); ++i)
      tokens.emplace_back(gguf_get_arr_str(e.meta, id, i));
    tokens.back() += "!";
    std::vector<const char*> pointers;
    for (const auto& token : tokens) pointers.push_back(token.c_str());
    gguf_set_arr_str(e.meta, key, pointers.data(), pointers.size());
  }));
  const auto path = save(filled(*mine), "vocabulary.prefix");
  EXPECT_EQ(load_error(path, *mine), "");
  expect_refused(path, "made with another vocabulary", *other);
}

const PrefixPieces& saved_pieces() {
  static const auto pieces = take_apart(read_bytes(save(filled(model()), "original.prefix")));
  return pieces;
}

/// Expects an Error for the file with another header whose checksum matches.
void expect_header_refused(std::string_view reason, const std::function<void(ordered_json&)>& edit) {
  auto pieces = saved_pieces();
  edit(pieces.header);
  SCOPED_TRACE(pieces.header.dump(-1, ' ', false, ordered_json::error_handler_t::replace));
  const auto path = write_bytes("header.prefix", put_together(pieces));
  expect_refused(path, reason);
  error_of([&] { read_prefix_info(path); });
}

TEST(PrefixFile, PiecesGiveTheFile) {
  const auto bytes = read_bytes(save(filled(model()), "pieces.prefix"));
  auto pieces = take_apart(bytes);
  EXPECT_EQ(put_together(pieces), bytes);
  ASSERT_TRUE(seal(pieces));
  EXPECT_EQ(put_together(pieces), bytes);
}

TEST(PrefixFile, HeadersWithFieldsMissingOrOfOtherTypes) {
  const auto& header = saved_pieces().header;
  const auto flat = header.flatten();
  std::vector<ordered_json::json_pointer> fields;
  for (const auto& [pointer, value] : flat.items()) {
    const ordered_json::json_pointer field(pointer);
    fields.push_back(field);
    for (auto above = field.parent_pointer(); !above.empty(); above = above.parent_pointer())
      fields.push_back(above);
  }
  const auto values = ordered_json::parse(
      R"([null, true, -1, 0, 1.5, 1e300, "", "a b", "x", "\n", 18446744073709551615, -9223372036854775808,
          [], [1], {}, {"a": 1}])");
  EXPECT_GT(fields.size(), 40U);
  for (const auto& field : fields) {
    SCOPED_TRACE(field.to_string());
    expect_header_refused("", [&](auto& json) {
      auto& parent = json[field.parent_pointer()];
      if (parent.is_array())
        parent.erase(std::stoul(field.back()));
      else
        parent.erase(field.back());
    });
    for (const auto& value : values) {
      // What is as it was, and names, which may be any line of text.
      const bool fine = header[field] == value ||
                        (field.to_string() == "/model/name" && value.is_string() && value != "\n");
      if (!fine) expect_header_refused("", [&](auto& json) { json[field] = value; });
    }
  }
}

TEST(PrefixFile, HeadersThatSayTheImpossible) {
  expect_header_refused("damaged: \"tokens\" in its header is not", [](auto& j) { j["tokens"] = 0; });
  expect_header_refused("truncated: ", [](auto& j) { j["tokens"] = 2000; });
  expect_header_refused("bytes follow its end", [](auto& j) { j["tokens"] = 19; });
  expect_header_refused("truncated: ", [](auto& j) { j["tokens"] = INT32_MAX; });
  expect_header_refused("\"tokens\"", [](auto& j) { j["tokens"] = int64_t{INT32_MAX} + 1; });
  expect_header_refused("\"tokens\"", [](auto& j) { j["tokens"] = UINT64_MAX; });
  expect_header_refused("no file holds what its header says", [](auto& j) {
    j["tokens"] = INT32_MAX;
    j["model"]["n_layer"] = 1024;
    j["model"]["n_head_kv"] = 4096;
    j["model"]["d_head"] = 1024;
    j["types"] = {{"k", "f16"}, {"v", "f16"}};
    j["checksums"]["k"] = j["checksums"]["v"] = std::vector<std::string>(1024, std::string(16, '0'));
  });
  expect_header_refused("\"model\" in its header is no object", [](auto& j) { j["model"] = 7; });
  expect_header_refused("its header has no \"model.rope\"", [](auto& j) { j["model"].erase("rope"); });
  expect_header_refused("\"model.n_layer\"", [](auto& j) { j["model"]["n_layer"] = 1 << 20; });
  expect_header_refused("\"model.d_head\"", [](auto& j) { j["model"]["d_head"] = 0; });
  expect_header_refused("heads of 33 elements in q8_0", [](auto& j) { j["model"]["d_head"] = 33; });
  expect_header_refused("\"types.k\"", [](auto& j) { j["types"]["k"] = "f32"; });
  expect_header_refused("\"checksums.k\"", [](auto& j) { j["checksums"]["k"].push_back("0"); });
  expect_header_refused("\"checksums.v\"", [](auto& j) { j["checksums"]["v"][1] = "0x23456789abcdef"; });
  expect_header_refused("\"model.rope.base\"", [](auto& j) { j["model"]["rope"]["base"] = 1e39; });
  expect_header_refused("\"model.name\"", [](auto& j) { j["model"]["name"] = std::string(1000, 'n'); });
  expect_header_refused("\"model.name\"", [](auto& j) { j["model"]["name"] = "two\nlines"; });
}

TEST(PrefixFile, HeadersThatAreNoJson) {
  const auto& pieces = saved_pieces();
  const auto expect = [&](std::string_view json, std::string_view reason) {
    expect_refused(write_bytes("json.prefix", put_together(json, pieces)), reason);
  };
  expect("", "its header is not JSON");
  expect("{\"model\":", "its header is not JSON");
  expect(pieces.header.dump() + "}", "its header is not JSON");
  expect("\"\xff\"", "its header is not JSON");
  expect("[]", "its header is no JSON object");
  expect("7", "its header is no JSON object");
  expect(std::string(200'000, '['), "nested too deep");
  expect(std::string(1 << 20, ' '), "a header of 1048");
}

TEST(PrefixFile, IdsThatNoModelHas) {
  auto pieces = saved_pieces();
  const auto with_id = [&](int32_t id) {
    std::memcpy(&pieces.ids[4], &id, 4);
    EXPECT_TRUE(seal(pieces));
    return write_bytes("ids.prefix", put_together(pieces));
  };
  EXPECT_EQ(load_error(with_id(255)), "");
  auto path = with_id(256);
  expect_refused(path, "made with another model: it has a token of id 256, this model has 256 tokens");
  EXPECT_EQ(read_prefix_info(path).tokens[1], 256);
  path = with_id(-1);
  expect_refused(path, "damaged: it has a token of id -1");
  EXPECT_NE(error_of([&] { read_prefix_info(path); }), "");
}

TEST(PrefixFile, NotFilesAtAll) {
  expect_refused(temp_path("nothing"), "cannot open");
  expect_refused(fs::path(temp_path("x")).parent_path().string(), "is not a file");
  const auto fifo = temp_path("fifo.prefix");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  expect_refused(fifo, "is not a file");
  expect_refused(minilong_path("q8_0"), "not a saved prefix");
}

/// Names in the folder of temporary files that begin with a dot: what a failed write would leave.
size_t unfinished() {
  size_t count = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(temp_path("x")).parent_path()))
    count += entry.path().filename().string().starts_with('.') ? 1 : 0;
  return count;
}

TEST(PrefixFile, WhereItCannotBeWritten) {
  const auto store = filled(model());
  const auto refused = [&](const PrefixStore& of, const std::string& path, std::string_view reason) {
    const auto error = error_of([&] { of.save(path); });
    EXPECT_NE(error.find(reason), std::string::npos) << error;
  };
  refused(PrefixStore(model()), temp_path("empty.prefix"), "there are no tokens to save");
  EXPECT_FALSE(fs::exists(temp_path("empty.prefix")));
  refused(store, "/nonexistent/a.prefix", "cannot write");
  refused(store, "/proc/a.prefix", "cannot write");
  if (access("/dev/full", W_OK) == 0) refused(store, "/dev/full", "No space left");
  // A file that can be written, in a folder that cannot: it is not overwritten in place.
  const auto name = read_file("/proc/self/comm");
  refused(store, "/proc/self/comm", "cannot write");
  EXPECT_EQ(read_file("/proc/self/comm"), name);
}

TEST(PrefixFile, AFailedSaveKeepsTheOldFile) {
  const auto path = save(filled(model()), "kept.prefix");
  const auto before = read_bytes(path);
  auto store = PrefixStore::load(model(), path);
  append(store, 100, 100, 6);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit little{before.size(), old.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &little);
  const auto error = error_of([&] { store.save(path); });
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(error.find("kept.prefix: cannot write: File too large"), std::string::npos) << error;
  EXPECT_EQ(read_bytes(path), before);
  EXPECT_EQ(unfinished(), 0U);
  store.save(path);
  expect_same(PrefixStore::load(model(), path), store);
}

TEST(PrefixFile, GoesIntoStreams) {
  const auto store = filled(model());
  const auto path = save(store, "file.prefix");
  const auto copy = temp_path("stream.prefix");
  std::FILE* file = std::fopen(copy.c_str(), "wb");
  store.save(fmt::format("/dev/fd/{}", fileno(file)));
  std::fclose(file);
  EXPECT_EQ(read_bytes(copy), read_bytes(path));
}

TEST(PrefixFile, LoadsWhileItIsSavedOver) {
  const auto first = filled(model());
  const auto path = save(first, "shared.prefix");
  auto second = filled(model());
  append(second, 40, 40, 7);
  const auto mapped = PrefixStore::load(model(), path);
  std::atomic<bool> done = false;
  std::thread saver([&] {
    for (int i = 0; i < 50; ++i) (i % 2 == 0 ? second : first).save(path);
    done = true;
  });
  int loads = 0;
  do {
    const auto store = PrefixStore::load(model(), path);
    expect_same(store, store.tokens().size() == first.tokens().size() ? first : second);
    ++loads;
  } while (!done);
  saver.join();
  EXPECT_GT(loads, 0);
  expect_same(mapped, first);
}

}  // namespace
}  // namespace windowkv::test
