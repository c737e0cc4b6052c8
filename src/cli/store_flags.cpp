#include "cli/store_flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>

#include "backend/free_memory.h"
#include "cache/prefix_parts.h"
#include "cache/snapshot_positions.h"
#include "cli/help.h"
#include "cli/output.h"
#include "support/host_memory.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

using Place = PrefixStoreOptions::Place;

constexpr std::array kPlaces = {"auto", "ram", "disk", "none"};

/// Free bytes where temporary files go; below 0: not known.
int64_t free_disk() {
  struct statvfs info {};
  if (statvfs(temporary_folder().c_str(), &info) != 0) return -1;
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

/// In memory where it takes less than a quarter of what is free, on disk where that has room.
std::optional<Place> best_place(int64_t bytes) {
  const int64_t memory = free_system_memory();
  if (memory < 0 || bytes < memory / 4) return Place::kMemory;
  if (bytes < free_disk()) return Place::kTemporaryFile;
  warn(fmt::format(
      "no prefix store: it needs {}, which is more than a quarter of the free memory ({}) and than the "
      "free disk space in {}; each question reads the whole prompt",
      bytes_text(bytes), bytes_text(memory), temporary_folder()));
  return std::nullopt;
}

}  // namespace

void StoreFlags::add_to(CLI::App& app) {
  auto* group = app.add_option_group("Prefix store");
  group
      ->add_option(
          "--store", place,
          "where the keys and values of all tokens are put aside, for further questions and for "
          "--recall: ram, disk (a temporary file in $TMPDIR or /tmp), none, or auto (ram if that takes "
          "less than a quarter of the free memory, else disk)")
      ->type_name("PLACE")
      ->check(CLI::IsMember(std::vector<std::string>(kPlaces.begin(), kPlaces.end())))
      ->capture_default_str();
  add_store_type(*group, type);
  add_store_snapshots(*group, snapshots);
  group
      ->add_option(
          "--prefix", load,
          "start from a saved prefix: tokens that the prompt begins with are not read again; chat without -f "
          "goes on with a conversation that /save wrote")
      ->type_name("FILE");
  group
      ->add_option("--save-prefix", save,
                   "save keys and values of the whole prompt (chat: of the document) for --prefix")
      ->type_name("FILE");
  show_in_short_help(*group, {"--prefix", "--save-prefix"});
}

std::optional<PrefixStore> StoreFlags::make(const Model& model, int64_t n, bool for_later) const {
  const auto one = store_type(model.hparams(), type);
  PrefixStoreOptions options{.types = {one, one}, .snapshots = for_later ? snapshots : 0};
  if (place == "none") {
    if (given()) throw Error("--prefix and --save-prefix need a prefix store; omit --store none");
    return std::nullopt;
  }
  if (place == "disk") options.place = Place::kTemporaryFile;
  if (place == "auto") {
    const auto best = best_place(PrefixParts::bytes(model.hparams(), options, n));
    if (!best) return std::nullopt;
    options.place = *best;
  }
  if (!load.empty()) {
    auto store = PrefixStore::load(model, load, options);
    if (type != "auto" && store.types() != options.types)
      warn(fmt::format("--store-type {} is not used: {} was saved as {}", type, load,
                       to_string(store.types().k)));
    return store;
  }
  return PrefixStore(model, options);
}

CLI::Option* add_store_type(CLI::App& group, std::string& type) {
  return group
      .add_option("--store-type", type,
                  fmt::format("how keys and values are stored there: {}, or auto (q8_0; f16 for heads that "
                              "are no multiple of 32 wide)",
                              fmt::join(kv_type_names(), ", ")))
      ->type_name("TYPE")
      ->capture_default_str();
}

CLI::Option* add_store_snapshots(CLI::App& group, int& snapshots) {
  return group
      .add_option("--store-snapshots", snapshots,
                  fmt::format("of models with recurrent layers (Qwen3.5): at most so many places of a prompt "
                              "whose states are stored, 0 to {}; a further question goes on from one of them",
                              kMostSnapshots))
      ->check(CLI::Range(0, kMostSnapshots).description(""))
      ->type_name("N")
      ->capture_default_str();
}

KvType store_type(const HParams& hp, const std::string& type) {
  if (type != "auto") try {
      return parse_kv_type(type);
    } catch (const Error&) {
      throw Error(
          fmt::format("--store-type {}: use one of: auto, {}", type, fmt::join(kv_type_names(), ", ")));
    }
  bool divides = true;
  for (int layer = 0; layer < hp.n_layer; ++layer) divides = divides && hp.heads(layer).d_head % 32 == 0;
  return divides ? KvType::kQ8_0 : KvType::kF16;
}

void warn_of_unused(const std::string& path, const PrefixStore& store, std::span<const Token> prompt,
                    bool recurrent) {
  const int64_t common = store.common_prefix(prompt);
  // Another question at the end of the same text is what they are saved for.
  if (common > std::ssize(store.tokens()) / 2) return;
  warn(fmt::format(
      "{}: the prompt begins with {} of the {} saved tokens{}, and all of it that follows is read; for a "
      "question about the saved text give the same -f again",
      path, common, store.tokens().size(),
      recurrent ? fmt::format(", {} of which it goes on from", store.reusable_prefix(prompt)) : ""));
}

std::string describe(const PrefixStore& store) {
  const auto snapshots = store.snapshots().size();
  return fmt::format("{} {}, {}{}", bytes_text(store.bytes()),
                     store.place() == Place::kMemory ? "in memory" : "in a temporary file",
                     to_string(store.types().k),
                     snapshots > 0 ? fmt::format(", {} snapshots of recurrent layers", snapshots) : "");
}

}  // namespace windowkv::cli
