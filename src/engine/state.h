#pragma once

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "engine/decode_graph.h"
#include "engine/draft.h"
#include "engine/prefill.h"
#include "model/loaded_model.h"
#include "windowkv/engine.h"

namespace windowkv {

struct Engine::State {
  State(const Model& model, const EngineOptions& engine_options)
      : m(model.loaded()),
        options(engine_options),
        prefill_scheduler(*m.backends, std::max<size_t>(4096, chunk_nodes(m, kMostPacked)), Products::kBlas) {
  }

  /// A cache to fill: with what the policy keeps of one of the prompts.
  struct Wanted {
    Sequence* sequence;
    const Policy* policy;
    size_t prompt = 0;
  };
  /// What the policies have repeated of prompts of these lengths. Throws Error where they differ about one.
  Replays replays_of(std::span<const int64_t> lengths, std::span<const Wanted> wanted) const;
  /// What a prefill of prompts of these lengths that share chunks takes of the layers of `run`, which are one
  /// device's: from sizes alone.
  /// `stored`: what is read from a store, and not computed.
  MemoryPlan plan(const LayerRun& run, std::span<const int64_t> lengths, std::span<const Wanted> wanted,
                  const PrefillOptions& prefill, const StoredPrefix& stored = {}) const;
  MemoryPlan plan(const LayerRun& run, int64_t n, const Policy& policy, int64_t reserve) const;

  /// Prompts that share chunks, and what becomes of them.
  struct Job {
    std::vector<std::span<const Token>> prompts;
    StoredPrefix stored;
    std::vector<Wanted> wanted;
    std::vector<std::unique_ptr<Selector>> selectors;  ///< by wanted
    Replays replays;                                   ///< by prompt
    std::vector<std::unique_ptr<Draft>> drafts;        ///< by wanted; null where there is none
    std::vector<Sequence> next;                        ///< by wanted: what *wanted.sequence becomes
    double setup_ms = 0;                               ///< taken by prepare()
    std::vector<int64_t> lengths() const;
  };
  /// Of the host's memory, for a store, or what is put aside for drafts.
  int64_t stored_bytes(const Job& job) const;
  /// Whether some of them draft an answer (Policy::draft) to prompts of these lengths.
  bool drafts_any(std::span<const int64_t> lengths, std::span<const Wanted> wanted) const;
  /// Drafts the answer to the prompt of wanted[index] and chooses anew. `last_logits`: of all prompts.
  void draft_answer(Job& job, size_t index, std::span<const float> last_logits,
                    const PrefillOptions& prefill);
  /// Finds what a prompt has in common with a store. Throws Error for a store of another model.
  StoredPrefix match(PrefixStore& store, std::span<const Token> prompt,
                     std::span<const Policy* const> policies, int64_t expected_common) const;
  /// Throws Error where a device has not the memory for its layers of all jobs, which run one after another
  /// and whose caches stay.
  void check_memory(std::span<const Job> jobs, const PrefillOptions& prefill) const;
  /// Makes the jobs' caches, so that nothing is computed where one finds no room.
  void prepare(std::span<Job> jobs, const PrefillOptions& prefill) const;
  /// Has a sequence of a prompt of n tokens, which the store holds, choose again.
  void attach_recall(const StoredPrefix& stored, int64_t n, Sequence& sequence);
  /// Prefills, and fills the sequences once all is done. Returns the logits of each prompt's last position,
  /// [n_vocab, prompts].
  std::vector<float> run(Job& job, const PrefillOptions& prefill);

  /// Decodes one token of each; decode_graph then holds the result, column c that of steps[columns.order[c]].
  void step(std::span<const Step> steps, DecodeGraph::Result result);

  LoadedModel& m;
  EngineOptions options;
  Scheduler prefill_scheduler;
  size_t decode_nodes = 0;  ///< that decode_scheduler takes
  std::unique_ptr<Scheduler> decode_scheduler;
  DeviceTraffic earlier_decode_traffic;  ///< of schedulers that were too small
  std::set<std::string> earlier_decode_strays;
  std::unique_ptr<DecodeGraph> decode_graph;  ///< allocated in decode_scheduler
  int64_t graphs_built = 0;
  /// The step's columns; kept so that a token allocates nothing.
  struct {
    std::vector<size_t> order;  ///< indices of steps
    std::vector<const KvCache*> caches;
    std::vector<int32_t> tokens;
    std::vector<int32_t> positions;
  } columns;
  std::vector<float> logits;
  std::vector<Token> ids;
};

}  // namespace windowkv
