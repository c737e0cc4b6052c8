#include "server/prefix_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cache/prefix_parts.h"
#include "server/json.h"
#include "support/hash.h"
#include "windowkv/error.h"

namespace windowkv::server {

namespace fs = std::filesystem;
using Seconds = std::chrono::duration<double>;

namespace {

constexpr const char* kSuffix = ".wkv";
/// A conversation that goes on replaces its prefix with the next turn: only what has been left alone for so
/// long is worth writing.
constexpr std::chrono::seconds kSettled{3};

/// Fewer first tokens are read again: a prefix that shares them with a long text would hold all of that in
/// memory, whatever becomes of the text itself.
constexpr std::ptrdiff_t kFewestShared = 32;

std::string id_of(const std::string& owner, std::span<const Token> tokens) {
  const auto hash = fnv1a64_step(kFnvStart, owner);
  return hash_text(
      fnv1a64_step(hash, {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(Token)}));
}

bool begins_with(std::span<const Token> all, std::span<const Token> start) {
  return start.size() <= all.size() && std::ranges::equal(start, all.first(start.size()));
}

bool is_in_memory(const PrefixStore& store) {
  return std::ranges::any_of(store.parts().memories(),
                             [](const auto& memory) { return memory->is_anonymous(); });
}

}  // namespace

/// While it is there, no other server uses the folder.
class PrefixCache::FolderLock {
 public:
  explicit FolderLock(const std::string& folder) {
    const auto path = (fs::path(folder) / ".lock").string();
    file_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file_ < 0) throw Error(fmt::format("{}: cannot write there: {}", folder, std::strerror(errno)));
    if (flock(file_, LOCK_EX | LOCK_NB) == 0) return;
    close(file_);
    throw Error(folder + ": another server uses this folder; give each its own --store-dir");
  }
  ~FolderLock() { close(file_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int file_ = -1;
};

struct PrefixCache::Entry {
  std::string id;
  std::string owner;
  PrefixStore store;
  int64_t file_bytes = 0;  ///< 0: not in the folder
  bool pinned = false;
  bool unwritable = false;  ///< it was tried
  int64_t uses = 0;
  std::chrono::steady_clock::time_point used = std::chrono::steady_clock::now();
};

PrefixCache::PrefixCache(const Model& model, PrefixCacheOptions options)
    : model_(model), options_(std::move(options)) {
  if (options_.folder.empty()) return;
  std::error_code failed;
  // What is stored has the text of prompts in it.
  if (fs::create_directories(options_.folder, failed))
    fs::permissions(options_.folder, fs::perms::owner_all, failed);
  if (failed) throw Error(fmt::format("{}: cannot make the folder: {}", options_.folder, failed.message()));
  lock_ = std::make_unique<FolderLock>(options_.folder);
  load_folder();
  writer_ = std::jthread([this](const std::stop_token& stop) { write_in_background(stop); });
}

PrefixCache::~PrefixCache() {
  if (options_.folder.empty()) return;
  writer_.request_stop();
  changed_.notify_all();
  writer_.join();
  std::unique_lock lock(mutex_);
  std::vector<std::pair<std::string, std::string>> unwritten;
  for (const auto& entry : entries_)
    if (entry.file_bytes == 0) unwritten.emplace_back(entry.owner, entry.id);
  for (const auto& [owner, id] : unwritten) try {
      write(lock, owner, id);
    } catch (const Error& e) {
      options_.warning(e.what());
    }
}

void PrefixCache::load_folder() {
  struct Found {
    fs::file_time_type time;
    fs::path path;
  };
  std::vector<Found> found;
  for (const auto& file : fs::directory_iterator(options_.folder))
    if (file.is_regular_file() && file.path().extension() == kSuffix)
      found.push_back({file.last_write_time(), file.path()});
  std::ranges::sort(found, std::greater{}, &Found::time);
  for (const auto& [time, path] : found) try {
      auto store = PrefixStore::load(model_, path.string(), options_.store);
      const auto note = Json::parse(store.annotation()).at("server");
      Entry entry{.id = path.stem().string(), .owner = note.at("owner"), .store = std::move(store)};
      entry.pinned = note.at("pinned");
      entry.file_bytes = static_cast<int64_t>(fs::file_size(path));
      if (entry.id == id_of(entry.owner, entry.store.tokens())) entries_.push_back(std::move(entry));
    } catch (const std::exception& e) {
      options_.warning(fmt::format("not used: {}", e.what()));
    }
}

PrefixCache::Entries::iterator PrefixCache::find_entry(const std::string& owner, const std::string& id) {
  return std::ranges::find_if(entries_, [&](const Entry& e) { return e.id == id && e.owner == owner; });
}

PrefixCache::Entries::iterator PrefixCache::best(const std::string& owner, std::span<const Token> prompt) {
  auto found = entries_.end();
  std::pair<int64_t, int64_t> most = {0, 0};
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (it->owner != owner) continue;
    const std::pair use = {it->store.reusable_prefix(prompt), it->store.common_prefix(prompt)};
    if (use.second >= std::min(kFewestShared, std::ssize(prompt)) && use > most) {
      most = use;
      found = it;
    }
  }
  return found;
}

void PrefixCache::use(Entries::iterator entry) {
  entry->used = std::chrono::steady_clock::now();
  entries_.splice(entries_.begin(), entries_, entry);
}

PrefixStore PrefixCache::find(const std::string& owner, std::span<const Token> prompt) {
  const std::scoped_lock lock(mutex_);
  const auto entry = best(owner, prompt);
  if (entry == entries_.end()) return PrefixStore(model_, options_.store);
  ++entry->uses;
  use(entry);
  auto store = entry->store.fork();
  store.cut(store.common_prefix(prompt));
  return store;
}

int64_t PrefixCache::reusable_prefix(const std::string& owner, std::span<const Token> prompt) {
  const std::scoped_lock lock(mutex_);
  const auto entry = best(owner, prompt);
  return entry != entries_.end() ? entry->store.reusable_prefix(prompt) : 0;
}

void PrefixCache::note_memories(const PrefixStore& store) {
  for (const auto& memory : store.parts().memories())
    if (memory->is_anonymous()) memories_.emplace_back(memory);
}

int64_t PrefixCache::memory_held() const {
  std::set<const HostMemory*> seen;
  int64_t bytes = 0;
  std::erase_if(memories_, [&](const auto& weak) {
    const auto memory = weak.lock();
    if (!memory || !seen.insert(memory.get()).second) return true;
    bytes += static_cast<int64_t>(memory->size());
    return false;
  });
  return bytes;
}

int64_t PrefixCache::memory_bytes() const {
  const std::scoped_lock lock(mutex_);
  return memory_held();
}

int64_t PrefixCache::disk_bytes() const {
  const std::scoped_lock lock(mutex_);
  int64_t bytes = 0;
  for (const auto& entry : entries_) bytes += entry.file_bytes;
  return bytes;
}

void PrefixCache::remove_file(Entry& entry) {
  std::error_code ignored;
  if (entry.file_bytes > 0) fs::remove(path_of(entry.id), ignored);
  entry.file_bytes = 0;
}

void PrefixCache::drop(Entries::iterator entry) {
  remove_file(*entry);
  entries_.erase(entry);
}

bool PrefixCache::push_out(Entries::iterator entry) {
  if (!is_in_memory(entry->store)) return false;
  if (entry->file_bytes > 0) try {
      entry->store = PrefixStore::load(model_, path_of(entry->id), options_.store);
      return true;
    } catch (const Error& e) {
      options_.warning(e.what());
      entry->file_bytes = 0;
    }
  if (entry->pinned) return false;
  drop(entry);
  return true;
}

bool PrefixCache::make_room(int64_t bytes) {
  if (bytes > options_.memory) return false;
  std::unique_lock lock(mutex_);
  while (memory_held() + bytes > options_.memory) {
    // Some blocks are held by prompts under way, and stay: try all entries before giving up.
    bool pushed = false;
    for (auto it = entries_.end(); it != entries_.begin() && !pushed;) {
      --it;
      if (!is_in_memory(it->store) || (it->pinned && it->file_bytes == 0 && options_.folder.empty()))
        continue;
      const auto owner = it->owner;
      const auto id = it->id;
      if (it->file_bytes == 0 && !options_.folder.empty() && !it->unwritable) {
        try {
          write(lock, owner, id);
        } catch (const Error& e) {
          options_.warning(e.what());
        }
        it = find_entry(owner, id);
        if (it == entries_.end()) {
          pushed = true;  // it went meanwhile
          break;
        }
      }
      pushed = push_out(it);
    }
    if (!pushed) return false;
  }
  return true;
}

void PrefixCache::put(const std::string& owner, const PrefixStore& store) {
  if (store.tokens().empty()) return;
  {
    const std::scoped_lock lock(mutex_);
    note_memories(store);
    for (auto it = entries_.begin(); it != entries_.end();) {
      const auto entry = it++;
      if (entry->owner != owner) continue;
      if (begins_with(entry->store.tokens(), store.tokens())) return use(entry);
      if (!entry->pinned && begins_with(store.tokens(), entry->store.tokens())) drop(entry);
    }
    entries_.push_front(Entry{.id = id_of(owner, store.tokens()), .owner = owner, .store = store.fork()});
  }
  changed_.notify_all();
}

std::vector<PrefixInfo> PrefixCache::list(const std::string& owner) const {
  const std::scoped_lock lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  std::vector<PrefixInfo> all;
  for (const auto& entry : entries_)
    if (entry.owner == owner)
      all.push_back({entry.id, std::ssize(entry.store.tokens()), entry.store.shown_bytes(),
                     is_in_memory(entry.store), entry.file_bytes > 0, entry.pinned, entry.uses,
                     Seconds(now - entry.used).count()});
  return all;
}

bool PrefixCache::pin(const std::string& owner, const std::string& id, bool pinned) {
  const std::scoped_lock lock(mutex_);
  const auto entry = find_entry(owner, id);
  if (entry == entries_.end()) return false;
  if (entry->pinned != pinned && entry->file_bytes > 0) {
    // The file says whether it is pinned: it is written anew.
    if (!is_in_memory(entry->store)) entry->store = PrefixStore::load(model_, path_of(id), options_.store);
    remove_file(*entry);
  }
  entry->pinned = pinned;
  changed_.notify_all();
  return true;
}

bool PrefixCache::remove(const std::string& owner, const std::string& id) {
  const std::scoped_lock lock(mutex_);
  const auto entry = find_entry(owner, id);
  if (entry == entries_.end()) return false;
  drop(entry);
  return true;
}

bool PrefixCache::save(const std::string& owner, const std::string& id) {
  std::unique_lock lock(mutex_);
  if (options_.folder.empty()) throw Error("prefixes are not saved: the server has no --store-dir");
  const auto entry = find_entry(owner, id);
  if (entry == entries_.end()) return false;
  if (entry->file_bytes == 0) write(lock, owner, id);
  return true;
}

std::string PrefixCache::path_of(const std::string& id) const {
  return (fs::path(options_.folder) / (id + kSuffix)).string();
}

void PrefixCache::make_disk_room(int64_t bytes) {
  int64_t held = bytes;
  for (const auto& entry : entries_) held += entry.file_bytes;
  for (auto it = entries_.end(); it != entries_.begin() && held > options_.disk;) {
    --it;
    if (it->file_bytes == 0 || it->pinned) continue;
    held -= it->file_bytes;
    if (is_in_memory(it->store)) {
      remove_file(*it);
      it->unwritable = true;
    } else {
      const auto gone = it++;
      drop(gone);
    }
  }
  if (held > options_.disk)
    throw Error(
        fmt::format("{}: a prefix of {} MiB does not fit in its limit", options_.folder, bytes >> 20));
}

void PrefixCache::write(std::unique_lock<std::mutex>& lock, const std::string& owner, const std::string& id) {
  const auto entry = find_entry(owner, id);
  if (entry == entries_.end()) return;
  const auto store = entry->store.fork();
  const auto note = Json{{"server", {{"owner", owner}, {"pinned", entry->pinned}}}}.dump();
  entry->unwritable = true;  // until it is
  make_disk_room(store.bytes());
  const auto path = path_of(id);
  lock.unlock();  // writing takes long
  try {
    store.save(path, note);
  } catch (...) {
    lock.lock();
    throw;
  }
  lock.lock();
  const auto written = find_entry(owner, id);
  std::error_code failed;
  if (written == entries_.end()) {
    fs::remove(path, failed);
    return;
  }
  written->unwritable = false;
  written->file_bytes = static_cast<int64_t>(fs::file_size(path, failed));
}

void PrefixCache::write_in_background(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    const auto now = std::chrono::steady_clock::now();
    const auto entry = std::ranges::find_if(entries_, [&](const Entry& e) {
      return e.file_bytes == 0 && !e.unwritable && now - e.used >= kSettled;
    });
    if (entry == entries_.end()) {
      changed_.wait_for(lock, stop, kSettled, [] { return false; });
      continue;
    }
    const auto owner = entry->owner;
    const auto id = entry->id;
    try {
      write(lock, owner, id);
    } catch (const Error& e) {
      options_.warning(e.what());
    }
  }
}

}  // namespace windowkv::server
