#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "windowkv/kv_type.h"
#include "windowkv/model.h"
#include "windowkv/vocab.h"

namespace windowkv {

class PrefixParts;

struct PrefixStoreOptions {
  KvTypes types = {KvType::kQ8_0, KvType::kQ8_0};  ///< of K and of V
  enum class Place {
    kMemory,         ///< of this process
    kTemporaryFile,  ///< without a name, in $TMPDIR or /tmp; the system keeps in memory what it has room for
  };
  Place place = Place::kMemory;
  /// For models with recurrent layers: at most so many places in the text, 0 to 15, whose states are held
  /// (HParams::state_bytes each). A prompt goes on from the last of them before it leaves the stored one;
  /// with none every prompt is read from its beginning.
  int snapshots = 8;
};

/// K and V of all tokens of a prompt, in every layer, beside the caches, which keep a part of them: a later
/// prompt that begins with the same tokens is prefilled from there (PrefillOptions::store), as if it were
/// new. Of recurrent layers, states at some places in the text (snapshots). Lies in the host's memory or in a
/// file. Used by one thread at a time; forks share memory that never changes, and may be used each in a
/// thread of its own. The model need not outlive it.
class PrefixStore {
 public:
  /// An empty one for prompts of a model. Throws Error for types that its heads cannot be stored in.
  explicit PrefixStore(const Model& model, const PrefixStoreOptions& options = {});
  /// What save() wrote, mapped read-only; what is added later lies where the options say, in the file's
  /// types, whatever those of the options. Throws Error with the reason for a file that is truncated,
  /// altered, or not of this model. The file may be saved over, renamed and removed meanwhile; once another
  /// program makes it shorter, reading it raises SIGBUS.
  static PrefixStore load(const Model& model, const std::string& path,
                          const PrefixStoreOptions& options = {});
  ~PrefixStore();
  PrefixStore(PrefixStore&&) noexcept;
  PrefixStore& operator=(PrefixStore&&) noexcept;

  /// A second store with the same tokens, which shares their memory.
  PrefixStore fork() const;
  /// Drops all tokens but the first `count`. Their memory is freed with the last that was prefilled with
  /// them.
  void cut(int64_t count);
  /// Writes a file that appears under its name once it is complete; stores that were loaded from an earlier
  /// one keep what that held. `annotation`: text of the caller's that is kept with it. Throws Error where
  /// that fails, and for an empty store.
  void save(const std::string& path, const std::string& annotation = "") const;
  /// Of the file that this was loaded from; "" without one.
  const std::string& annotation() const;

  /// Ids of the tokens, token i at position i.
  std::span<const Token> tokens() const;
  /// How many tokens a prompt has in common with it from the first on.
  int64_t common_prefix(std::span<const Token> prompt) const;
  /// How many of them need not be read again: all of them, or of a model with recurrent layers those before
  /// the last snapshot.
  int64_t reusable_prefix(std::span<const Token> prompt) const;
  /// Numbers of tokens after which recurrent layers' states are held, ascending.
  std::vector<int64_t> snapshots() const;
  const PrefixStoreOptions& options() const;
  KvTypes types() const;
  /// Where tokens that are added lie.
  PrefixStoreOptions::Place place() const;
  void set_place(PrefixStoreOptions::Place place);
  /// Of K, V and states, wherever they lie.
  int64_t bytes() const;
  /// Of these what its tokens take, without rows that were cut off and are still held.
  int64_t shown_bytes() const;
  /// What `count` tokens take that are read at once.
  int64_t bytes(int64_t count) const;
  /// What prefilling the prompt adds.
  int64_t bytes_to_add(std::span<const Token> prompt) const;

  /// For the engine.
  PrefixParts& parts() const { return *parts_; }

 private:
  explicit PrefixStore(std::unique_ptr<PrefixParts> parts);
  std::unique_ptr<PrefixParts> parts_;
};

/// What a saved prefix says of itself.
struct PrefixFileInfo {
  std::string fingerprint;  ///< HParams::fingerprint of its model
  std::string model;        ///< general.name, may be empty
  std::string family;
  std::string weight_type;
  KvTypes types;
  int n_layer = 0;
  int n_head_kv = 0;
  int d_head = 0;
  int64_t bytes = 0;  ///< of the file
  std::vector<Token> tokens;
  std::vector<int64_t> snapshots;  ///< PrefixStore::snapshots
};

/// Reads a saved prefix without its model, and verifies its checksums. Throws Error, as PrefixStore::load.
PrefixFileInfo read_prefix_info(const std::string& path);

}  // namespace windowkv
