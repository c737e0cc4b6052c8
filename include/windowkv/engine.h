#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "windowkv/device_traffic.h"
#include "windowkv/kv_pool.h"
#include "windowkv/kv_type.h"
#include "windowkv/model.h"
#include "windowkv/policy.h"
#include "windowkv/prefix_store.h"
#include "windowkv/vocab.h"

namespace windowkv {

class KvCache;
class Eviction;
class Recall;

struct EngineOptions {
  int chunk = 1024;  ///< prompt tokens that pass through a layer at once
  KvTypes kv;        ///< of the caches; the layer in prefill is held in F16
};

/// Times of one prefill, milliseconds.
struct PrefillTiming {
  double total = 0;      ///< all of it, selection included
  double selection = 0;  ///< scoring, choosing and gathering; what is repeated or drafted for that
};

/// Choices made after the prompt's.
struct LaterChoices {
  int64_t count = 0;
  double ms = 0;  ///< in all
};

/// Bytes of K and V, all layers, and in the place of both the states of recurrent layers.
struct KvBytes {
  int64_t kept = 0;  ///< of the kept prompt tokens, in the caches or in the prefix store
  int64_t padding =
      0;  ///< of rows that hold nothing, where KV heads of a layer keep different numbers of tokens
  int64_t full = 0;  ///< of all prompt tokens in F16, had they been kept; in the store, where it is read
  int64_t peak = 0;  ///< maximum bytes of K/V buffers held at once, measured from the buffers; without a
                     ///< prefix store
};

/// One prompt and what follows it. Belongs to the model whose engine prefilled it, which must outlive it, not
/// to that engine; used by one thread at a time.
class Sequence {
 public:
  Sequence();
  ~Sequence();
  Sequence(Sequence&&) noexcept;
  Sequence& operator=(Sequence&&) noexcept;

  /// Drops every token after the prompt, so that another continuation can be tried. Throws Error where some
  /// of the prompt was dropped while decoding (Policy::total); a fork made before is not affected.
  void rewind();

  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;  ///< the prompt's first, whose K and V came from a prefix store
  int64_t position = 0;       ///< of the next token: prompt_tokens, then one more per token
  std::vector<int64_t> kept;  ///< prompt tokens kept, by layer: what each token reads of the prompt
  bool reads_store = false;   ///< they are read in the prefix store, and chosen again (Policy::recall); the
                              ///< caches hold generated tokens, and a sixteenth of the prompt at most
  std::vector<GroupSelection> groups;  ///< of layers that have rows
  KvTypes kv_types;                    ///< of the caches
  KvBytes bytes;
  PrefillTiming timing;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<Recall> recall;      ///< null: what was chosen once stays
  LaterChoices recalls;                ///< Policy::recall
  std::unique_ptr<Eviction> eviction;  ///< null: no total
  LaterChoices evictions;              ///< Policy::total
};

struct PrefillOptions {
  /// Number of generated tokens that fit in the caches before they must grow; 0: the first one makes them
  /// grow. Growing copies all rows. In a sequence's own memory it goes layer by layer, so that at most one
  /// layer is held twice (MemoryPlan::kv_growth); in a pool it takes a second segment for the whole sequence
  /// before the first is returned, which must be free in one piece, or decode throws PoolFull. Caches grow by
  /// 64 tokens first, then by twice as many each time.
  int64_t reserve = 0;
  /// Where the caches are allocated; empty: in their own memory.
  KvPool pool;
  /// For a single prompt only. K and V of the tokens that the prompt's beginning has in common with the store
  /// are read from it, except for the observation window and at least the last token; those of the other
  /// tokens are added to it, so that it holds the prompt in the end. Up to the rounding of the store's types
  /// the result is that without a store. A prefill that throws leaves the store with the common tokens. A
  /// policy that needs the attention of all queries (h2o) reads nothing, but fills the store. Policies that
  /// choose again (Policy::recall) need one, whose memory the sequence shares.
  PrefixStore* store = nullptr;
  /// How many of the prompt's first tokens a later one that uses the store is expected to begin with; 0: not
  /// known. Of recurrent layers the store then holds the states there (PrefixStoreOptions::snapshots).
  int64_t expected_common = 0;
  /// Called as chunks pass; done and total count (layer, chunk) steps. May decode other sequences, so that
  /// they need not wait for the whole prompt.
  std::function<void(int64_t done, int64_t total)> progress;
  /// If set, asked before each of these steps how many of the next `most` tokens pass at once, 1 to `most`,
  /// where less must be computed between two calls of `progress`, which then tells the same `done` more than
  /// once. Changes results by rounding alone.
  std::function<int64_t(int64_t most)> step_tokens;
  /// Called between chunks; returning true makes prefill throw Cancelled.
  std::function<bool()> cancelled;
  /// For a single prompt only. If set, the last layer computes every position that is not read from a store
  /// and this receives its logits [n_vocab], in order. For comparisons; costs what the last layer otherwise
  /// saves.
  std::function<void(int64_t position, std::span<const float> logits)> all_logits;
};

/// One of several prompts that are prefilled together.
struct PrefillRequest {
  Sequence* sequence = nullptr;
  std::span<const Token> prompt;
  const Policy* policy = nullptr;
};

/// Memory a prefill takes in addition to the weights, in bytes.
struct MemoryPlan {
  int64_t kv_kept = 0;     ///< K/V of the kept prompt tokens, all layers, and recurrent layers' states
  int64_t kv_reserve = 0;  ///< K/V room for generated tokens, all layers
  int64_t kv_states = 0;   ///< of these states once more, as the prompt left them (Sequence::rewind)
  int64_t kv_scratch = 0;  ///< K/V of one layer in full, F16, of more where layers wait to be settled, and
                           ///< once more with the longest repetition (Replay); 0 where in each layer some
                           ///< cache keeps everything as it is, and nothing is repeated
  int64_t kv_growth = 0;   ///< what the first growth past the reserve takes beside both, in memory of a
                           ///< sequence's own: the largest layer once more, and 64 rows in each
  int64_t kv_full = 0;     ///< K/V of all prompt tokens in all layers in F16, had they been kept, and states
  int64_t store = 0;       ///< K/V that a prefix store takes, wherever it lies, or without one what is put
                           ///< aside until an answer is drafted (Policy::draft)
  int64_t hidden = 0;      ///< hidden states of all prompt tokens, and of repetitions
  int64_t mask = 0;        ///< causal mask of one chunk, or on the CPU its attention's results
  int64_t compute = 0;     ///< intermediate results of one chunk or of scoring; an estimate
  int64_t recall = 0;      ///< intermediate results of choosing again while decoding; an estimate
  /// Adds a prefill that comes after this one, whose caches stay.
  void add(const MemoryPlan& next);
  int64_t peak_kv() const { return kv_kept + kv_reserve + kv_states + kv_scratch; }
  /// Most of it held at once: in the prefill, or when the caches grow once it is done.
  int64_t total() const;
};

/// Memory a prefill takes on one device.
struct DevicePlan {
  std::string device;  ///< "RPC0 (127.0.0.1:50052), layers 0-5"
  MemoryPlan memory;
  int64_t available = 0;  ///< free bytes on the device; below 0: unknown
};

/// One sequence's part of a decode step.
struct Step {
  Sequence* sequence = nullptr;
  Token token = 0;  ///< appended to it
};

/// Runs a model over per-layer caches. One call at a time, but for plans, which any thread may ask for;
/// engines of one model may be called each in a thread of its own, and then compute in turns. The model must
/// outlive the engine, and every Sequence and KvPool that its engines filled or made: an engine may go before
/// those. What `progress` may call is said there.
class Engine {
 public:
  explicit Engine(const Model& model, const EngineOptions& options = {});
  ~Engine();

  /// The memory that prefilling n tokens under the policy takes. Throws Error, as all plans do, for n below 1
  /// or above 2^31 − 1, a negative reserve, and more tokens than the policy can score.
  MemoryPlan plan(int64_t n, const Policy& policy, int64_t reserve = 0) const;
  /// The same for a prefill under several policies at once. Of the options, only the reserve and whether
  /// all_logits and store are set matter; of a store nothing is read in it yet.
  MemoryPlan plan(int64_t n, std::span<const Policy* const> policies,
                  const PrefillOptions& options = {}) const;
  /// The same for each device that holds layers. Their scratches and hidden states are not held at the same
  /// time.
  std::vector<DevicePlan> plan_devices(int64_t n, const Policy& policy, int64_t reserve = 0) const;

  /// How many sequences of n prompt tokens under the policy, each with room for `reserve` generated tokens,
  /// fit in `kv_bytes` of K and V memory. Throws Error for negative ones.
  PoolPlan plan_pool(int64_t kv_bytes, int64_t n, const Policy& policy, int64_t reserve) const;
  /// Allocates `bytes` of K and V memory. Throws Error where that fails.
  KvPool make_pool(int64_t bytes);

  /// Reads the prompt layer by layer and keeps what the policy chooses. Returns the last position's logits
  /// [n_vocab], valid until the next call. Throws Error before any work if the prompt is empty, contains ids
  /// outside the vocabulary, or does not fit the device's free memory; PoolFull if the pool has no room.
  std::span<const float> prefill(Sequence& sequence, std::span<const Token> prompt, const Policy& policy,
                                 const PrefillOptions& options = {});

  /// Prefills once and keeps for sequences[i] what *policies[i] chooses: the result of separate prefills
  /// for the cost of one plus the selections. For comparisons; the scratch counts towards the first
  /// sequence's peak, and every timing.total is that of the whole.
  std::span<const float> prefill(std::span<Sequence> sequences, std::span<const Token> prompt,
                                 std::span<const Policy* const> policies, const PrefillOptions& options = {});

  /// Prefills several prompts, each under its own policy. Consecutive short prompts share
  /// chunks, up to 16 prompts and as many tokens as a chunk holds, so that the weights are read once for all.
  /// Returns the last logits of each, [n_vocab, requests]. All must fit together: throws like the others,
  /// before any work; if it is cancelled, sequences whose chunks are done stay prefilled. timing.total is
  /// that of all prompts sharing chunks.
  std::span<const float> prefill(std::span<const PrefillRequest> requests,
                                 const PrefillOptions& options = {});

  /// Appends one token to every layer and returns the logits [n_vocab] for the one after it, valid until the
  /// next call.
  std::span<const float> decode(Sequence& sequence, Token token);

  /// The same for many sequences at once, each with its own policy and lengths; the weights are read once for
  /// all. Sequences may join and leave from step to step. Returns [n_vocab] logits per step, in the steps'
  /// order. Throws Error before any work for a sequence that appears twice, was not prefilled, or was
  /// prefilled by an engine of another model or other KV types, and for an id outside the vocabulary;
  /// PoolFull, with the steps' indices, if a pool has no room for all the caches that must grow. Every
  /// sequence is then unchanged, and the other steps can be taken.
  std::span<const float> decode(std::span<const Step> steps);

  /// Like decode(), but returns the most probable tokens, found on the device: one id per step.
  std::span<const Token> decode_greedy(std::span<const Step> steps);

  /// Appends tokens that are known in advance and computes all their positions together: up to rounding, what
  /// decoding them one by one would give, at prefill speed; where the policy chooses again, they are decoded.
  /// `logits` receives each token's [n_vocab], for the token after it, in order; valid until the callback
  /// returns. Throws Error before any work, like decode().
  void follow(Sequence& sequence, std::span<const Token> tokens,
              const std::function<void(int64_t index, std::span<const float> logits)>& logits);

  /// Number of decode graphs built so far; all other steps reused one.
  int64_t graphs_built() const;
  /// A copy of the sequence, with its caches and their free room, for a second continuation. Throws Error, as
  /// compose() does, for a sequence or a pool of another model or other KV types.
  Sequence fork(const Sequence& sequence, const KvPool& pool = {});
  /// What one prefill would give under a policy that keeps in layer i what by_layer[i] keeps there: a copy of
  /// each layer's cache. All must come from the same prompt and engine, and be rewound to it. `groups` stays
  /// empty.
  Sequence compose(std::span<const Sequence* const> by_layer, const KvPool& pool = {});

  /// Traffic between devices in all prefills and decode steps so far.
  DeviceTraffic prefill_traffic() const;
  DeviceTraffic decode_traffic() const;
  /// Operations of prefills and decode steps that the CPU computed for another device which has them not, by
  /// ggml's names.
  std::set<std::string> stray_operations() const;

  /// Bytes of compute buffers held for prefill and decode.
  int64_t compute_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace windowkv
