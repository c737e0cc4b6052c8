#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/selection.h"

struct ggml_context;
struct ggml_tensor;

/// Policies: what is kept of a prompt's full K and V.
namespace windowkv {

/// The shape of the prompt a policy decides about, known before anything is computed.
struct PromptShape {
  int64_t n = 0;  ///< prompt tokens
  int n_layer = 0;
  int n_head = 0;
  int n_head_kv = 0;
  int d_head = 0;
  std::span<const double> layer_shares = {};  ///< of the model, see HParams
};

/// Tokens at the prompt's beginning whose queries LayerView::moments leaves out.
inline constexpr int64_t kMomentSinks = 4;

/// Which dimensions of a head RoPE rotates together: of the first `dims`, i and i + dims / 2, or,
/// interleaved, 2 i and 2 i + 1.
struct RopePairs {
  int dims = 0;
  bool interleaved = false;
};

/// Tokens at the prompt's beginning that a repetition's attention is shared with in any case, see Replay.
inline constexpr int64_t kReplaySinks = 4;

/// How the model repeats the prompt once it has read it, part by part, so that a policy sees what it attends
/// to on the way. A repetition is an instruction and the part's tokens, at the positions behind the prompt's.
/// It sees the whole prompt and itself, no other repetition, and nothing of it stays.
struct Replay {
  int64_t part = 0;  ///< tokens of the prompt that are repeated at a time; 0: none are
  /// Instructions before the first part and before others, which the `quoted` tokens before the part follow:
  /// plain text, without BOS. Left out, and nothing quoted, where the model has no vocabulary. What they view
  /// must outlive the policy.
  std::string_view first = {};
  std::string_view later = {};
  int64_t quoted = 0;
  bool operator==(const Replay&) const = default;
};

/// One layer after the whole prompt has passed through it.
struct LayerView {
  int layer = 0;
  /// [d_head, observation(), n_head] F32, RoPE applied: the last queries of the prompt; behind it the newest
  /// ones, at most as many.
  ggml_tensor* q = nullptr;
  /// [n_head, observation()] F32: log Σ exp(score) of each of these over the keys that it sees, or null where
  /// they are not known.
  ggml_tensor* log_sums = nullptr;
  ggml_tensor* k = nullptr;   ///< [d_head, n, n_head_kv], RoPE applied: F16 or F32, a view of the scratch
                              ///< cache; behind the prompt also quantized, a view of a prefix store
  ggml_tensor* v = nullptr;   ///< [d_head, n, n_head_kv], as k
  ggml_tensor* wo = nullptr;  ///< [n_head·d_head, n_embd]: the output projection, to be multiplied with
  ggml_tensor* k_after = nullptr;  ///< keys that follow those of k, of tokens behind the prompt, which are
                                   ///< chosen among too; null: none
  /// [n, n_head] F32: the attention each token received, summed over the queries of every stride()-th token
  /// of the prompt that was computed, not read from a prefix store; null where stride() is 0, and behind the
  /// prompt.
  ggml_tensor* accumulated = nullptr;
  /// Of queries before RoPE, for each query head the sum of q·qᵀ, d_head columns, of q, and of q's lengths
  /// (build_pair_lengths), the rest of that column 0: [d_head, d_head + 2, n_head] F32. The queries are all
  /// of the prompt, without those of its first kMomentSinks tokens, or, behind it, those in q. Null unless
  /// Selector::ahead().
  ggml_tensor* moments = nullptr;
  int64_t moment_queries = 0;  ///< how many they are
  /// Beside them, the mean over Selector::ahead() of what RoPE does to a query: [d_head, d_head] F32, column
  /// i of it to the i-th unit vector.
  ggml_tensor* rotation = nullptr;
  ggml_tensor* rope_stretch = nullptr;  ///< [1] F32: by how much RoPE lengthens what it rotates (YaRN)
  RopePairs rope_pairs;
  /// [n, n_head_kv] F32: the most attention that a query gave a token while the part it is in was repeated,
  /// of any query head that shares the KV head: softmax over the prompt's first kReplaySinks tokens, the
  /// part's, and the repetition's own up to the query's. Null unless Selector::replay().
  ggml_tensor* replayed = nullptr;
  /// How many of the queries, the last ones, are those of tokens behind the prompt, which see all of its
  /// keys.
  int64_t after_prompt = 0;
  bool on_cpu = false;   ///< whether the CPU computes the layer, so that functions of one's own
                         ///< (ggml_custom_4d) run where the tensors lie
  float scale = 1.0f;    ///< factor on q·k, 1/√d_head
  float softcap = 0.0f;  ///< HParams::attention_softcap
};

/// Kept token positions of a layer, ascending: one list for all KV heads, or one per KV head, which may
/// differ in length. Not all may be empty unless the layer's capacity is 0.
using KeptTokens = std::vector<std::vector<int32_t>>;

/// What was kept in a range of layers, for the trace and the reports.
struct GroupSelection {
  Group group;
  int64_t budget = 0;            ///< review tokens per layer given to the group
  std::vector<int32_t> windows;  ///< kept windows, ascending; empty for policies without windows
  std::vector<TokenRange> kept;  ///< token positions that all KV heads keep, or, where heads choose for
                                 ///< themselves, that any keeps
  std::vector<std::vector<TokenRange>> kept_by_head;  ///< by KV head; empty where all keep the same
};

/// A policy's decisions for one prompt. Made by Policy::start; the engine asks it layer by layer, lowest
/// first.
class Selector {
 public:
  virtual ~Selector() = default;

  /// Number of last queries of the prompt (rows of Q) that build() needs.
  virtual int64_t observation() const = 0;

  /// The maximum number of tokens this layer keeps; n means nothing is dropped, and the layer needs no
  /// scratch.
  virtual int64_t capacity(int layer) const = 0;

  /// Whether KV heads of a layer may keep different numbers of tokens.
  virtual bool heads_differ() const { return false; }

  /// Whether this layer's own attention is scored. Where none of the layers that are decided together is
  /// scored, they keep what the layer below them keeps, or what needs no scores.
  virtual bool decides(int layer) const = 0;

  /// The layer, `layer` or one above it, after which it is known what `layer` keeps. Until then its K and
  /// V wait in full. Never decreases from one layer to the next.
  virtual int settled_at(int layer) const { return layer; }

  /// Every how many tokens a query's attention is summed in LayerView::accumulated; 0: none. The attention of
  /// these queries is computed once more for it.
  virtual int64_t stride() const { return 0; }

  /// Positions behind the newest token, 0 the next one, over which LayerView::rotation is the mean; empty:
  /// build() needs no moments.
  virtual std::vector<TokenRange> ahead() const { return {}; }
  /// Whether it needs them.
  bool query_moments() const { return !ahead().empty(); }

  /// How the prompt is repeated for LayerView::replayed, which takes about as long again as reading it, or
  /// twice as long. Also where it comes from a prefix store, whose keys are enough.
  virtual Replay replay() const { return {}; }

  /// Whether no part of the prompt may come from a prefix store, because build() needs all of its queries.
  bool needs_all_queries() const { return stride() == 1 || query_moments(); }

  /// Whether build() serves behind the prompt too, where there are keys and the newest queries alone.
  virtual bool chooses_again() const { return stride() == 0 && !query_moments() && replay().part == 0; }

  /// Why it should not be done every few tokens, to be read behind the policy's name; empty: it may be.
  virtual std::string_view against_recall() const {
    return chooses_again() ? "" : "needs more than keys and the newest queries";
  }

  /// Adds to the graph the scoring of layers that are decided together. `views`: those of them that decide,
  /// lowest first, at least one. Returns an I32 tensor for choose().
  virtual ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const = 0;

  /// What `layer` keeps, at most capacity(layer) tokens per head; `picked` is the content of build()'s
  /// tensor, empty where no layer decided.
  virtual KeptTokens choose(int layer, std::span<const int32_t> picked) = 0;

  /// Called before choose() is called for every layer again, behind the prompt.
  virtual void restart() {}

  /// What was kept first, after choose() was called for every layer.
  virtual std::vector<GroupSelection> groups() const = 0;
};

/// A method of choosing what a cache keeps. Stateless and safe to share between sequences.
class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::string_view name() const = 0;
  virtual std::unique_ptr<Selector> start(const PromptShape& shape) const = 0;
  /// The method's parameters, for WindowKV policies; null for others.
  virtual const SelectionConfig* config() const { return nullptr; }
  /// The requested budget; nullopt for policies without one.
  virtual std::optional<Budget> budget() const { return std::nullopt; }
  /// Decoded tokens after which what is kept of the prompt is chosen again, each time, from the keys in a
  /// prefix store (PrefillOptions::store) and the newest queries; 0: chosen once.
  virtual int recall() const { return 0; }
  /// Tokens of a draft of the answer, decoded greedily from what is chosen first, whose queries choose what
  /// is kept in its stead, once, before the answer begins; 0: none. K and V of the whole prompt are put aside
  /// until then, in all layers.
  virtual int draft() const { return 0; }
  /// Tokens of prompt and answer together that a layer holds at most while an answer is decoded: where it
  /// holds as many, again() chooses what stays, and the others are dropped for good; 0: no limit.
  virtual int64_t total() const { return 0; }
  /// With recall(), draft() or total(): the policy that chooses again, which may outlive this one. It is
  /// asked for a Selector for the prompt. With recall(), it is asked again whenever generated tokens join
  /// what it chooses among: for as many tokens as there are then. With draft(), it sees the queries of the
  /// prompt's last observation() tokens, where start()'s Selector observes as many, and of the draft; it must
  /// keep as many tokens in every layer as that, the same number for all KV heads. With total(), it is asked
  /// for a Selector for so many tokens, once for every choice.
  virtual std::shared_ptr<const Policy> again() const { return nullptr; }
};

/// Everything a policy may be constructed from.
struct PolicyOptions {
  Budget budget;
  SelectionConfig config;
  int recall = 0;     ///< see Policy::recall
  int64_t total = 0;  ///< see Policy::total; with recall 0
};

/// The names that make_policy accepts.
std::vector<std::string> policy_names();

/// The smallest PolicyOptions::total.
inline constexpr int64_t kLeastTotal = 128;

/// Whether PolicyOptions::total may be set for it. Throws Error for an unknown name.
bool policy_chooses_again(std::string_view name);

/// Whether PolicyOptions::recall may be. Throws Error for an unknown name.
bool policy_recalls(std::string_view name);

/// Throws Error for an unknown name, and for recall or a total where it cannot choose again.
std::unique_ptr<Policy> make_policy(std::string_view name, const PolicyOptions& options);

}  // namespace windowkv
