#include "engine/prefill.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "engine/attention.h"
#include "engine/chunk_pass.h"
#include "engine/draft.h"
#include "engine/layer_selection.h"
#include "engine/query_moments.h"
#include "engine/recall.h"
#include "engine/row_attention.h"
#include "support/clock.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

/// One prefill under way. One layer's full K and V are held at a time, in a scratch that every layer reuses.
class Prefill {
 public:
  Prefill(LoadedModel& m, Scheduler& scheduler, int64_t chunk,
          std::span<const std::span<const Token>> prompts, const Replays& replays, std::span<Target> targets,
          const StoredPrefix& stored, const PrefillOptions& options)
      : m_(m),
        scheduler_(scheduler),
        prompts_(prompts),
        replays_(replays),
        targets_(targets),
        stored_(stored),
        past_(stored.past),
        options_(options),
        in_flight_(most_in_flight(targets, m.hp)),
        strides_(strides_of(targets, prompts.size())),
        pack_(*m.backends, m.hp, lengths(prompts, past_), most_observed(targets), in_flight_,
              joined(strides_), wants_moments(targets), past_, positions_behind(prompts, replays)),
        replay_rows_(replay_rows(replays, lengths(prompts, 0))),
        chunk_(std::min(chunk, std::max(pack_.tokens(), longest_replay(replays)))),
        pass_(m, scheduler, pack_, chunk_, most_rows()),
        steps_(prefill_steps(m.hp, pack_.tokens(), replays, chunk, options)) {
    for (auto prompt : prompts) tokens_.insert(tokens_.end(), prompt.begin() + past_, prompt.end());
  }

  ~Prefill() { scheduler_.wait(); }
  Prefill(const Prefill&) = delete;
  Prefill& operator=(const Prefill&) = delete;

  /// Returns the logits of each prompt's last position, [n_vocab, prompts]. Of what lies above the last layer
  /// that has K and V of its own nothing stays: where no other logits are wanted, only those positions pass
  /// it.
  std::vector<float> run() {
    for_chunks([&](int64_t first, int64_t count) {
      pass_.embed(first, std::span(tokens_).subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
    });
    embed_replays();
    std::vector<float> logits;
    const int last = m_.hp.own_layers() - 1;
    for (int layer = 0; layer < m_.hp.n_layer; ++layer) {
      pass_.go_to(layer);
      if (layer > last) {
        if (options_.all_logits)
          for_steps([&](int64_t first, int64_t count) {
            run_chunk(layer, first, count, {.queries = false, .output = true});
          });
        settle(layer);
        continue;
      }
      const bool decides = std::any_of(targets_.begin(), targets_.end(),
                                       [&](const Target& t) { return t.selector->decides(layer); }) &&
                           pack_.observation() > 0;
      pack_.forget_sums(layer);
      const bool recurrent = m_.hp.recurrent(layer);
      if (past_ > 0 && recurrent)
        state_of(0).start(layer, stored_.start->layer(layer));
      else if (past_ > 0)
        restore_rows(scheduler_, *stored_.parts, layer, 0, past_, rows_for(layer, 0));
      const ChunkParts parts{.queries = decides, .output = layer < last || options_.all_logits};
      for_steps([&](int64_t first, int64_t count) {
        if (recurrent)
          recur(layer, first, count);
        else
          run_chunk(layer, first, count, parts);
      });
      if (recurrent) end_prompts(layer);
      if (stored_.added && !recurrent)
        store_rows(scheduler_, m_.hp, rows_for(layer, 0), stored_.common, layer, *stored_.added);
      if (layer == last && !options_.all_logits) logits = finish();
      run_replays(layer);
      pack_.wait();
      for (const auto& target : targets_)
        if ((target.recall != nullptr || target.draft != nullptr) && target.selector->decides(layer))
          keep_last(layer, target);
      settle(layer);
    }
    return options_.all_logits ? report_all() : logits;
  }

 private:
  void settle(int layer) {
    for (auto& target : targets_) {
      const auto start = Clock::now();
      settle_layers(
          m_, scheduler_, pack_, layer, [&](int l) -> const KvRows& { return rows_for(l, target.prompt); },
          target);
      target.selection_ms += ms_since(start);
    }
  }

  static std::vector<int64_t> lengths(std::span<const std::span<const Token>> prompts, int64_t past) {
    std::vector<int64_t> lengths;
    lengths.reserve(prompts.size());
    for (auto prompt : prompts) lengths.push_back(static_cast<int64_t>(prompt.size()) - past);
    return lengths;
  }

  static int64_t most_observed(std::span<const Target> targets) {
    int64_t most = 0;
    for (const auto& target : targets) most = std::max(most, target.selector->observation());
    return most;
  }

  /// Positions of what is repeated, prompt by prompt.
  static std::vector<TokenRange> positions_behind(std::span<const std::span<const Token>> prompts,
                                                  const Replays& replays) {
    std::vector<TokenRange> positions;
    for (size_t prompt = 0; prompt < replays.size(); ++prompt)
      for (const auto& part : replays[prompt]) {
        const auto n = static_cast<int64_t>(prompts[prompt].size());
        positions.emplace_back(n, n + part.length());
      }
    return positions;
  }

  static bool wants_moments(std::span<const Target> targets) {
    return std::ranges::any_of(targets, [](const Target& t) { return t.selector->query_moments(); });
  }

  static int most_in_flight(std::span<const Target> targets, const HParams& hp) {
    int most = 1;
    for (const auto& target : targets) most = std::max(most, layers_in_flight(*target.selector, hp));
    return most;
  }

  /// Of each prompt's targets.
  static std::vector<std::set<int64_t>> strides_of(std::span<const Target> targets, size_t prompts) {
    std::vector<std::set<int64_t>> strides(prompts);
    for (const auto& target : targets)
      if (const int64_t stride = target.selector->stride(); stride > 0) strides[target.prompt].insert(stride);
    for (const auto& of_prompt : strides)
      if (of_prompt.size() > kMostStrides)
        throw Error(
            fmt::format("policies that choose together sum the attention of every so many-th token, {} "
                        "different ones; at most {}",
                        of_prompt.size(), kMostStrides));
    return strides;
  }

  static std::vector<int64_t> joined(const std::vector<std::set<int64_t>>& sets) {
    std::set<int64_t> all;
    for (const auto& set : sets) all.insert(set.begin(), set.end());
    return {all.begin(), all.end()};
  }

  /// Rows of a prompt in a layer: one for each of its tokens.
  int64_t rows_of(size_t prompt) const { return past_ + pack_.lengths()[prompt]; }

  /// The most rows that a token attends to.
  int64_t most_rows() const { return std::max(past_ + std::ranges::max(pack_.lengths()), replay_rows_); }

  /// The target whose cache keeps all of a prompt in that layer as it is, if any.
  const Target* whole_target(int layer, size_t prompt) const {
    for (const auto& target : targets_)
      if (target.prompt == prompt && !(target.recall != nullptr && Recall::in_place(m_)) &&
          keeps_whole(*target.selector, layer, rows_of(prompt), target.cache->types()))
        return &target;
    return nullptr;
  }

  /// Where the K and V of all tokens of a prompt that the layer reads go: straight into a cache that keeps
  /// all of them as they are, else into the scratch, whose places the layers use in turn. A layer that is
  /// read further up has a place of its own, as long as there are layers.
  const KvRows& rows_for(int layer, size_t prompt) {
    layer = m_.hp.rows_layer(layer);
    if (const auto* target = whole_target(layer, prompt)) return target->cache->layer(layer).rows;
    const size_t device = m_.backends->device_of(layer);
    if (m_.hp.read_above(layer)) {
      auto& place = lasting_[layer];
      if (!place.rows) place = make_scratch(device, scratch_capacities({layer, layer}, layer), layer);
      return place.rows->layer(static_cast<int>(prompt));
    }
    auto& place = scratch_[static_cast<size_t>(m_.hp.row_layer(layer) % in_flight_)];
    if (place.device != device) place.rows.reset();
    if (const int widest = m_.hp.widest_layer(); !place.rows)
      place = make_scratch(device, scratch_capacities(m_.backends->layer_runs()[device], widest), widest);
    return place.rows->layer_as(static_cast<int>(prompt), m_.hp.row_units(layer));
  }

  /// The layer's K and V of a prompt once more, with room behind them for a repetition.
  const KvRows& rows_to_repeat(int layer, size_t prompt) {
    const size_t device = m_.backends->device_of(layer);
    if (replay_scratch_.device != device) replay_scratch_.rows.reset();
    if (const int widest = m_.hp.widest_layer(); !replay_scratch_.rows)
      replay_scratch_ = make_scratch(
          device, {KvArena::rounded_up(*m_.backends, m_.hp, KvTypes{}, replay_rows_, device, widest)},
          widest);
    const auto& to = replay_scratch_.rows->layer_as(0, m_.hp.row_units(layer));
    const auto& from = rows_for(layer, prompt);
    Graph graph(16);
    for (auto [source, target] : {std::pair{from.k(), to.k()}, {from.v(), to.v()}})
      graph.add(ggml_cpy(graph.ctx(), KvRows::slice(graph.ctx(), source, 0, rows_of(prompt)),
                         KvRows::slice(graph.ctx(), target, 0, rows_of(prompt))));
    scheduler_.run(graph);
    return to;
  }

  /// Rows of each prompt in a scratch for layers of one device, as long as those of `widest`: none where none
  /// of them needs it.
  std::vector<int64_t> scratch_capacities(const LayerRun& run, int widest) const {
    std::vector<int64_t> capacities(pack_.lengths().size(), 0);
    for (size_t prompt = 0; prompt < capacities.size(); ++prompt)
      for (int layer = run.first; layer <= run.last && capacities[prompt] == 0; ++layer)
        if (m_.hp.has_rows(layer) && (!m_.hp.read_above(layer) || run.count() == 1) &&
            whole_target(layer, prompt) == nullptr)
          capacities[prompt] = KvArena::rounded_up(*m_.backends, m_.hp, KvTypes{}, rows_of(prompt),
                                                   m_.backends->device_of(layer), widest);
    return capacities;
  }

  /// K and V of a layer in full, by prompt, on the device of the layer that has it now.
  struct Scratch {
    std::unique_ptr<KvSegment> rows;
    size_t device = 0;
  };

  /// Of rows of that layer: others take of them what they need.
  Scratch make_scratch(size_t device, const std::vector<int64_t>& capacities, int widest) {
    std::vector<KvSegment::Run> runs;
    std::vector<int64_t> units(m_.backends->device_count(), 0);
    const int64_t row = m_.hp.row_units(widest);
    for (const int64_t capacity : capacities) {
      runs.push_back({capacity, row, device});
      units[device] += capacity * row;
    }
    return {std::make_unique<KvSegment>(std::make_shared<KvMemory>(*m_.backends, m_.hp, KvTypes{}, units),
                                        runs, targets_[0].cache->meter()),
            device};
  }

  template <typename F>
  void for_chunks(F&& f) {
    for (int64_t first = 0; first < pack_.tokens(); first += chunk_) {
      if (options_.cancelled && options_.cancelled()) throw Cancelled();
      f(first, std::min(chunk_, pack_.tokens() - first));
    }
  }

  /// The same with chunks as small as the caller wants them.
  template <typename F>
  void for_steps(F&& f) {
    for (int64_t first = 0; first < pack_.tokens();) {
      if (options_.cancelled && options_.cancelled()) throw Cancelled();
      int64_t count = std::min(chunk_, pack_.tokens() - first);
      if (options_.step_tokens) count = std::clamp<int64_t>(options_.step_tokens(count), 1, count);
      f(first, count);
      first += count;
    }
    scheduler_.wait();
  }

  /// What is wanted of a layer's chunks beside K and V.
  struct ChunkParts {
    bool queries;  ///< those of the observation windows
    bool output;   ///< attention and feed-forward
  };

  void run_chunk(int layer, int64_t first, int64_t count, ChunkParts parts) {
    const auto runs = pack_.runs(first, count);
    Graph graph(chunk_nodes(m_, runs.size()));
    auto* ctx = graph.ctx();
    auto* x = pack_.hidden_at(ctx, first, count);
    const bool all_queries = parts.output || !pack_.strides().empty() || pack_.has_moments();
    const bool own = m_.hp.has_rows(layer);
    auto qkv =
        m_.family->attention_inputs(ctx, m_.hp, m_.weights, layer, x, pack_.positions_at(ctx, first, count),
                                    !own          ? Family::kQ
                                    : all_queries ? Family::kQkv
                                                  : Family::kKv);
    std::vector<ggml_tensor*> attention;
    for (const auto& run : runs) {
      const auto& rows = rows_for(layer, run.prompt);
      const auto part = columns_of(ctx, qkv, run.row - first, run.count);
      if (own) store_kv(graph, rows, past_ + run.first, part);
      if (parts.queries) keep_queries(graph, layer, run, part.q);
      if (pack_.has_moments() && m_.hp.full(layer))
        add_moments(graph, layer, run, part.q, pack_.positions_at(ctx, run.row, run.count));
      ggml_tensor* attended = nullptr;
      if (parts.output)
        attention.push_back(attended =
                                pass_.attend(graph, layer, part.q, rows, past_ + run.first, run.row - first));
      if (parts.queries && attended != nullptr) keep_log_sums(graph, layer, run, attended);
      for (const auto& s : sums_of(ctx, run.prompt, layer))
        pass_.add_received(graph, layer, part.q, rows, past_ + run.first, s, attended);
    }
    if (parts.output) {
      graph.add(pass_.finish_layer(ctx, layer, first, count,
                                   build_gated(ctx, join_columns(ctx, std::move(attention)), qkv.gate)));
    }
    // A device need not wait for the next chunk's graph, unless the caller measures chunks' time.
    const int64_t chunks = chunks_before(first + count) - chunks_before(first);
    if (options_.step_tokens) return run_step(graph, chunks);
    scheduler_.start(std::move(graph));
    report(chunks);
  }

  /// A chunk through a recurrent layer, in the last one too, where its state needs all tokens.
  void recur(int layer, int64_t first, int64_t count) {
    const auto runs = pack_.runs(first, count);
    Graph graph(chunk_nodes(m_, runs.size() + stored_.taken.size()));
    std::vector<Family::StateRun> states;
    for (const auto& run : runs) add_states(states, layer, run, run.row - first);
    pass_.recur(graph, layer, first, count, states);
    run_step(graph, chunks_before(first + count) - chunks_before(first));
    for (const auto& [tokens, state] : stored_.taken)
      if (tokens == past_ + first + count) state_of(0).take(layer, state->layer(layer));
  }

  /// The way of a run of columns from `column` on, through the state: what is taken on it is left where it is
  /// to be, and read from there. (What is taken of the run's end is copied once that is computed.)
  void add_states(std::vector<Family::StateRun>& states, int layer, const Pack::Run& run,
                  int64_t column) const {
    const auto& now = state_of(run.prompt).layer(layer);
    const auto* from = &now;
    int64_t done = 0;
    for (const auto& [tokens, state] : stored_.taken) {
      const int64_t end = tokens - past_ - run.first;
      if (end <= 0 || end >= run.count) continue;
      states.push_back(state_run(*from, state->layer(layer), column + done, end - done));
      from = &state->layer(layer);
      done = end;
    }
    states.push_back(state_run(*from, now, column + done, run.count - done));
  }

  /// Where a prompt's recurrent layers are computed: in the first cache that it is for.
  RecurrentState& state_of(size_t prompt) const {
    return *std::ranges::find(targets_, prompt, &Target::prompt)->cache->states();
  }

  /// All of the prompts have passed a recurrent layer.
  void end_prompts(int layer) const {
    for (size_t prompt = 0; prompt < prompts_.size(); ++prompt) state_of(prompt).end_prompt(layer);
    for (const auto& target : targets_)
      if (auto& first = state_of(target.prompt); &first != target.cache->states())
        target.cache->states()->copy(layer, first);
  }

  /// Whole chunks among the first `tokens`.
  int64_t chunks_before(int64_t tokens) const {
    return tokens == pack_.tokens() ? chunks_of(tokens, chunk_) : tokens / chunk_;
  }

  void run_step(const Graph& graph, int64_t chunks = 1) {
    scheduler_.run(graph);
    report(chunks);
  }

  void report(int64_t chunks) {
    done_ += chunks;
    if (options_.progress) options_.progress(done_, steps_);
  }

  /// Calls f(part, row) for all that is repeated of the prompt; `row`: of the pack, where its tokens begin.
  template <typename F>
  void for_replays(size_t prompt, F&& f) const {
    int64_t row = pack_.tokens();
    for (size_t before = 0; before < prompt; ++before)
      for (const auto& part : replays_[before]) row += part.length();
    for (const auto& part : replays_[prompt]) {
      f(part, row);
      row += part.length();
    }
  }

  /// Calls f(first, count) for chunks of `length` tokens, as equal as can be: a short one at the end would
  /// read the weights for little.
  template <typename F>
  void for_equal_chunks(int64_t length, F&& f) {
    const int64_t chunks = chunks_of(length, chunk_);
    const int64_t size = (length + chunks - 1) / chunks;
    for (int64_t first = 0; first < length; first += size) {
      if (options_.cancelled && options_.cancelled()) throw Cancelled();
      f(first, std::min(size, length - first));
    }
  }

  void embed_replays() {
    for (size_t prompt = 0; prompt < replays_.size(); ++prompt)
      for_replays(prompt, [&](const ReplayPart& part, int64_t row) {
        const auto tokens = part.tokens(prompts_[prompt]);
        for_equal_chunks(part.length(), [&](int64_t first, int64_t count) {
          pass_.embed(row + first,
                      std::span(tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
        });
      });
  }

  /// Once the layer's keys are there. A graph has tokens of one repetition: all take the same rows.
  void run_replays(int layer) {
    const auto start = Clock::now();
    for (size_t prompt = 0; prompt < replays_.size(); ++prompt) {
      if (replays_[prompt].empty()) continue;
      if (m_.hp.recurrent(layer)) {
        recur_replays(layer, prompt);
        continue;
      }
      const auto& rows = rows_to_repeat(layer, prompt);
      for_replays(prompt, [&](const ReplayPart& part, int64_t row) {
        for_equal_chunks(part.length(), [&](int64_t first, int64_t count) {
          Graph graph(chunk_nodes(m_, 1) + raise_nodes(m_.hp));
          const ReplayMaxima maxima{pack_.replayed(graph.ctx(), prompt, layer), part.part};
          pass_.pass(graph, layer, row + first, count,
                     {.rows = rows,
                      .end = rows_of(prompt) + first,
                      .replayed = &maxima,
                      .output = layer + 1 < m_.hp.own_layers()});
          run_step(graph);
        });
      });
    }
    for (auto& target : targets_)
      if (target.selector->replay().part > 0) target.selection_ms += ms_since(start);
  }

  /// Each finds the state that the prompt left.
  void recur_replays(int layer, size_t prompt) {
    auto& state = state_of(prompt);
    for_replays(prompt, [&](const ReplayPart& part, int64_t row) {
      for_equal_chunks(part.length(), [&](int64_t first, int64_t count) {
        Graph graph(chunk_nodes(m_, 1));
        const auto run = state_run(state.layer(layer), 0, count);
        pass_.recur(graph, layer, row + first, count, std::span(&run, 1));
        run_step(graph);
      });
      state.rewind(layer);
    });
  }

  static Family::Qkv columns_of(ggml_context* ctx, const Family::Qkv& qkv, int64_t first, int64_t count) {
    auto part = [&](ggml_tensor* t) { return t == nullptr ? t : token_columns(ctx, t, first, count); };
    return {part(qkv.q), part(qkv.k), part(qkv.v)};
  }

  /// Queries of the prompt's last tokens, which selection needs once all keys are there. `q`: the run's, or
  /// null where nothing else needs them.
  void keep_queries(Graph& graph, int layer, const Pack::Run& run, ggml_tensor* q) {
    auto* ctx = graph.ctx();
    const int64_t first = std::max(run.first, pack_.lengths()[run.prompt] - pack_.observation());
    const int64_t count = run.first + run.count - first;
    if (count <= 0) return;
    const int64_t skipped = first - run.first;
    if (q == nullptr)
      q = m_.family
              ->attention_inputs(ctx, m_.hp, m_.weights, layer,
                                 pack_.hidden_at(ctx, run.row + skipped, count),
                                 pack_.positions_at(ctx, run.row + skipped, count), Family::kQ)
              .q;
    else
      q = token_columns(ctx, q, skipped, count);
    auto* place = pack_.observed(ctx, run.prompt, layer, first, count);
    graph.add(ggml_cpy(ctx, ggml_reshape_2d(ctx, q, place->ne[0], count), place));
  }

  /// Log sums of the scores of those queries, where attention has found them.
  void keep_log_sums(Graph& graph, int layer, const Pack::Run& run, ggml_tensor* attended) {
    auto* ctx = graph.ctx();
    const int64_t first = std::max(run.first, pack_.lengths()[run.prompt] - pack_.observation());
    const int64_t count = run.first + run.count - first;
    auto* sums = count > 0 ? pass_.log_sums(layer, attended) : nullptr;
    if (sums == nullptr) return;
    graph.add(attended);  // which fills them
    graph.add(ggml_cpy(ctx, token_columns(ctx, sums, first - run.first, count),
                       pack_.log_sums(ctx, run.prompt, layer, first, count)));
    pack_.note_log_sums(layer);
  }

  /// Copies the queries of the target's last tokens to where those of generated ones follow them.
  void keep_last(int layer, const Target& target) {
    Graph graph(16);
    auto* ctx = graph.ctx();
    auto* to =
        target.draft != nullptr ? target.draft->observed_of(ctx, layer) : target.recall->queries().of(layer);
    const int64_t first = pack_.lengths()[target.prompt] - to->ne[1];
    graph.add(ggml_cpy(ctx, pack_.observed(ctx, target.prompt, layer, first, to->ne[1]), to));
    scheduler_.run(graph);
  }

  std::vector<ReceivedSum> sums_of(ggml_context* ctx, size_t prompt, int layer) const {
    std::vector<ReceivedSum> sums;
    if (!m_.hp.full(layer)) return sums;
    for (const int64_t stride : strides_[prompt])
      sums.push_back({stride, pack_.received(ctx, prompt, layer, stride)});
    return sums;
  }

  /// LayerView::moments. `q`: the run's, `positions` theirs.
  void add_moments(Graph& graph, int layer, const Pack::Run& run, ggml_tensor* q, ggml_tensor* positions) {
    auto* ctx = graph.ctx();
    const int64_t skipped = std::max<int64_t>(0, kMomentSinks - run.first);
    if (skipped >= run.count) return;
    auto* held = pack_.moments(ctx, run.prompt, layer);
    auto* own = build_moments(ctx, m_, layer, q, positions, skipped);
    graph.add(ggml_cpy(ctx, ggml_add(ctx, held, own), held));
  }

  /// Each prompt's last position alone, through what is left from the last layer with K and V of its own on.
  std::vector<float> finish() {
    const auto ends = pack_.ends();
    const auto count = static_cast<int64_t>(ends.size());
    pack_.keep_ends();
    for (int layer = m_.hp.own_layers() - 1;; ++layer) {
      pass_.go_to(layer);
      Graph graph(chunk_nodes(m_, ends.size()));
      auto* x = pack_.hidden_at(graph.ctx(), 0, count);
      if (!m_.hp.recurrent(layer)) x = finish_layer(graph, layer, ends);  // else all have passed it
      if (layer + 1 == m_.hp.n_layer) return pass_.logits(graph, x);
      graph.add(x);
      scheduler_.run(graph);
    }
  }

  /// A node that puts what the layer makes of the prompts' ends in the place of their hidden states.
  ggml_tensor* finish_layer(Graph& graph, int layer, std::span<const Pack::Run> ends) {
    auto* ctx = graph.ctx();
    const auto count = static_cast<int64_t>(ends.size());
    const auto qkv =
        m_.family->attention_inputs(ctx, m_.hp, m_.weights, layer, pack_.hidden_at(ctx, 0, count),
                                    pack_.positions_at(ctx, 0, count), Family::kQ);
    auto* attention = attend_ends(graph, layer, qkv.q, ends);
    return pass_.finish_layer(ctx, layer, 0, count, build_gated(ctx, attention, qkv.gate));
  }

  /// Attention of the prompts' last positions, whose queries q are in the prompts' order.
  ggml_tensor* attend_ends(Graph& graph, int layer, ggml_tensor* q, std::span<const Pack::Run> ends) {
    auto* ctx = graph.ctx();
    const auto how = m_.attention(layer);
    // As decode does where they pass many layers: ggml's kernel adds up in 16 bits where there is one query.
    if (m_.hp.shared_layers > 0 && m_.backends->is_cpu(m_.backends->device_of(layer)) &&
        row_kernels_take(GGML_TYPE_F16, q->ne[0])) {
      end_rows_ = {m_.hp.heads(layer).n_head_kv,
                   how.logits,
                   how.sinks != nullptr ? static_cast<const float*>(how.sinks->data) : nullptr,
                   {}};
      for (const auto& end : ends) {
        const auto& rows = rows_for(layer, end.prompt);
        end_rows_.columns.push_back({.k = host_rows(rows.k(), q->ne[0]),
                                     .v = host_rows(rows.v(), q->ne[0]),
                                     .length = past_ + end.first + 1,
                                     .window = how.window});
      }
      return attend_in_place(ctx, q, end_rows_);
    }
    std::vector<ggml_tensor*> attention;
    for (const auto& end : ends) {
      const auto& rows = rows_for(layer, end.prompt);
      const int64_t row = past_ + end.first;
      const auto column = static_cast<int64_t>(attention.size());
      auto* one = token_columns(ctx, q, column, 1);
      attention.push_back(how.window > 0 ? pass_.attend(graph, layer, one, rows, row, column)
                                         : attend(ctx, how, one, rows, 0, row + 1, nullptr));
    }
    return join_columns(ctx, std::move(attention));
  }

  std::vector<float> report_all() {
    std::vector<float> last;
    pass_.all_logits([&](int64_t index, std::span<const float> logits) {
      if (options_.cancelled && options_.cancelled()) throw Cancelled();
      options_.all_logits(past_ + index, logits);
      if (index + 1 == pack_.tokens()) last.assign(logits.begin(), logits.end());
    });
    return last;
  }

  LoadedModel& m_;
  Scheduler& scheduler_;
  std::span<const std::span<const Token>> prompts_;
  const Replays& replays_;
  std::vector<Token> tokens_;  ///< that are computed, of all prompts
  std::span<Target> targets_;
  const StoredPrefix& stored_;
  int64_t past_;  ///< tokens before those that are computed
  const PrefillOptions& options_;
  int in_flight_;                           ///< layers whose K and V are in full at once
  std::vector<std::set<int64_t>> strides_;  ///< of the queries whose attention is summed, by prompt
  Pack pack_;
  int64_t replay_rows_;  ///< of a prompt and a repetition of it
  int64_t chunk_;
  ChunkPass pass_;
  std::vector<Scratch> scratch_{static_cast<size_t>(in_flight_)};
  RowAttention end_rows_;           ///< of finish(), whose graphs read it
  std::map<int, Scratch> lasting_;  ///< by layer that is read further up
  Scratch replay_scratch_;
  int64_t steps_;
  int64_t done_ = 0;
};

}  // namespace

int64_t prefill_steps(const HParams& hp, int64_t tokens, const Replays& replays, int64_t chunk,
                      const PrefillOptions& options) {
  int64_t repeated = 0;
  for (const auto& of_prompt : replays)
    for (const auto& part : of_prompt) repeated += chunks_of(part.length(), chunk);
  return chunks_of(tokens, chunk) * (options.all_logits ? hp.n_layer : hp.own_layers()) +
         repeated * hp.own_layers();
}

std::vector<float> run_prefill(LoadedModel& m, Scheduler& scheduler, int64_t chunk,
                               std::span<const std::span<const Token>> prompts, const Replays& replays,
                               std::span<Target> targets, const StoredPrefix& stored,
                               const PrefillOptions& options) {
  return Prefill(m, scheduler, chunk, prompts, replays, targets, stored, options).run();
}

}  // namespace windowkv
