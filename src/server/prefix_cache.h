#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "windowkv/prefix_store.h"

namespace windowkv {
class HostMemory;
}

namespace windowkv::server {

struct PrefixCacheOptions {
  PrefixStoreOptions store;
  int64_t memory = 0;  ///< most bytes of memory for all prefixes together
  std::string folder;  ///< where prefixes are written, and found after a restart; empty: nowhere
  int64_t disk = 0;    ///< most bytes there
  /// Receives a line about each file that cannot be used or written.
  std::function<void(const std::string& line)> warning;
};

/// What list() says of a prefix.
struct PrefixInfo {
  std::string id;  ///< 16 hex digits
  int64_t tokens = 0;
  int64_t bytes = 0;  ///< of its tokens, also of those that it shares with others
  bool in_memory = false;
  bool on_disk = false;
  bool pinned = false;
  int64_t uses = 0;         ///< prompts that began with it
  double idle_seconds = 0;  ///< since the last of them
};

/// The stored prefixes of all conversations: K and V of what was read before, for prompts that begin with the
/// same tokens. The least recently used ones leave the memory, where a folder is named they stay in a file
/// there, and leave that once it is full too. Each belongs to an owner, and serves no other. Safe to use from
/// several threads.
class PrefixCache {
 public:
  /// Takes what the folder has of this model. Throws Error where the folder cannot be made.
  PrefixCache(const Model& model, PrefixCacheOptions options);
  /// Writes what is not yet in the folder.
  ~PrefixCache();

  /// A store with the prefix of the prompt of which most need not be read again, of those that the owner has;
  /// an empty one where there is none.
  PrefixStore find(const std::string& owner, std::span<const Token> prompt);
  /// How many tokens of the prompt need not be read again with what find() gives.
  int64_t reusable_prefix(const std::string& owner, std::span<const Token> prompt);
  /// Has prefixes leave the memory until `bytes` more fit; false where they do not, as others are in use.
  bool make_room(int64_t bytes);
  /// Adds what was stored of a prompt; prefixes that it continues are no longer needed.
  void put(const std::string& owner, const PrefixStore& store);

  std::vector<PrefixInfo> list(const std::string& owner) const;
  /// A pinned prefix stays, in memory or its file. False where the owner has none of that id.
  bool pin(const std::string& owner, const std::string& id, bool pinned);
  bool remove(const std::string& owner, const std::string& id);
  /// Writes it to the folder now. False where the owner has none of that id. Throws Error without a folder,
  /// and where it cannot be written.
  bool save(const std::string& owner, const std::string& id);

  /// Bytes of memory and of files.
  int64_t memory_bytes() const;
  int64_t disk_bytes() const;

 private:
  struct Entry;
  class FolderLock;
  using Entries = std::list<Entry>;

  Entries::iterator find_entry(const std::string& owner, const std::string& id);
  /// The one of which most can be used for the prompt, or which else has most in common with it; end() where
  /// none has anything.
  Entries::iterator best(const std::string& owner, std::span<const Token> prompt);
  void use(Entries::iterator entry);
  void note_memories(const PrefixStore& store);
  int64_t memory_held() const;
  void remove_file(Entry& entry);
  void drop(Entries::iterator entry);
  /// Out of memory: into its file, or away.
  bool push_out(Entries::iterator entry);
  void load_folder();
  std::string path_of(const std::string& id) const;
  void write(std::unique_lock<std::mutex>& lock, const std::string& owner, const std::string& id);
  void make_disk_room(int64_t bytes);
  void write_in_background(const std::stop_token& stop);

  const Model& model_;
  PrefixCacheOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::unique_ptr<FolderLock> lock_;
  Entries entries_;  ///< most recently used first
  /// That may still be held, by whomever.
  mutable std::vector<std::weak_ptr<const HostMemory>> memories_;
  std::jthread writer_;
};

}  // namespace windowkv::server
