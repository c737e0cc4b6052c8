#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "backend/graph.h"
#include "engine/query_moments.h"
#include "windowkv/model.h"
#include "windowkv/selection.h"
#include "windowkv/vocab.h"

/// Tensors that live as long as one prefill, or as its layers are on one device.
namespace windowkv {

/// The causal mask of every chunk in one tensor: `prefix` columns of zeros, then a triangle of `chunk`
/// columns. The mask of the chunk at position p starts prefix − p columns in, so that nothing is filled in
/// from chunk to chunk and layer to layer; where there is the CPU alone, it is read in place. With a window,
/// the columns before it are hidden too.
class CausalMask {
 public:
  CausalMask(const Backends& backends, int64_t n, int64_t chunk, size_t device, int64_t window)
      : in_place_(in_place(backends)),
        prefix_(prefix(n, chunk)),
        width_(prefix_ + chunk),
        storage_(backends, "the causal mask", 1, device) {
    // One row more than there are queries: views start inside the first row and end inside the last.
    tensor_ = storage_.add(GGML_TYPE_F16, width_, chunk + 1);
    storage_.allocate(/*clear=*/true);
    const ggml_fp16_t hidden = ggml_fp32_to_fp16(-INFINITY);
    for (int64_t row = 0; row + 1 < chunk; ++row) {
      std::vector<ggml_fp16_t> tail(static_cast<size_t>(chunk - 1 - row), hidden);
      ggml_backend_tensor_set(tensor_, tail.data(),
                              ggml_row_size(GGML_TYPE_F16, row * width_ + prefix_ + row + 1),
                              tail.size() * sizeof(ggml_fp16_t));
    }
    for (int64_t row = 0; row < chunk && window > 0; ++row) {
      std::vector<ggml_fp16_t> before(static_cast<size_t>(std::max<int64_t>(0, prefix_ + row + 1 - window)),
                                      hidden);
      ggml_backend_tensor_set(tensor_, before.data(), ggml_row_size(GGML_TYPE_F16, row * width_),
                              before.size() * sizeof(ggml_fp16_t));
    }
  }

  /// Of the `rows` tokens from `position` on, over keys from `first` on: [at least position + rows − first,
  /// rows].
  ggml_tensor* of(ggml_context* ctx, int64_t position, int64_t rows, int64_t first) const {
    const size_t offset = ggml_row_size(GGML_TYPE_F16, prefix_ - position + first);
    auto view = [&](int64_t keys) { return ggml_view_2d(ctx, tensor_, keys, rows, tensor_->nb[1], offset); };
    return in_place_ ? view(width_) : ggml_cont(ctx, view(position + rows - first));
  }

  /// Bytes of it and of the copy that is made of a chunk's part, for `n` tokens.
  static int64_t bytes(const Backends& backends, int64_t n, int64_t chunk) {
    const int64_t width = prefix(n, chunk) + chunk;
    return (width * (chunk + 1) + (in_place(backends) ? 0 : n * chunk)) *
           static_cast<int64_t>(sizeof(ggml_fp16_t));
  }

 private:
  /// No fewer columns than the last of n tokens has before it, which may begin a chunk as well as any.
  static int64_t prefix(int64_t n, int64_t chunk) { return (n + chunk - 1) / chunk * chunk; }
  /// Vulkan's flash attention takes a mask for one as wide as there are keys, at an aligned address; and
  /// large products of the CPU's layers are done on another device, the attention between them too.
  static bool in_place(const Backends& backends) { return backends.cpu_alone(); }

  bool in_place_;
  int64_t prefix_;
  int64_t width_;
  Storage storage_;
  ggml_tensor* tensor_;
};

/// The hidden states of one prompt or of several that share chunks, one after another, and what goes with
/// them. All lies on the device of the layer that is computed; between devices the hidden states move once,
/// and what later layers do not need goes.
class Pack {
 public:
  /// `lengths`: tokens of each prompt; `observation`: rows of each kept aside for scoring at most, of
  /// `in_flight` layers at once; `strides`: of queries whose attention is summed, each once; `moments`: room
  /// for those of all queries; `position`: of each one's first token; `behind`: positions of runs of tokens
  /// that follow those of all prompts and belong to none, repetitions of prompts (Replay).
  Pack(const Backends& backends, const HParams& hp, std::vector<int64_t> lengths, int64_t observation,
       int64_t in_flight, std::vector<int64_t> strides, bool moments, int64_t position = 0,
       std::vector<TokenRange> behind = {})
      : backends_(backends),
        hp_(hp),
        lengths_(std::move(lengths)),
        n_(std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0})),
        observation_(observation),
        in_flight_(in_flight),
        strides_(std::move(strides)),
        has_moments_(moments),
        position_(position),
        with_log_sums_(static_cast<size_t>(in_flight), -1),
        behind_(std::move(behind)),
        parts_(backends.device_count()) {
    enter(backends.device_of(0));
  }

  /// Makes `layer` the one that is computed; returns the bytes moved to its device.
  int64_t go_to(int layer) {
    const size_t device = backends_.device_of(layer);
    if (device == device_) return 0;
    auto* from = hidden;
    const auto storage = std::move(part().hidden_storage);  // freed once it is copied
    enter(device);
    copy_rows(from, hidden);
    return static_cast<int64_t>(ggml_nbytes(from));
  }

  /// Until what was computed of the hidden states is there. A server's work is done when something is read of
  /// it, and would be taken for that of what reads first.
  void wait() const {
    float value = 0;
    if (backends_.is_remote(device_)) ggml_backend_tensor_get(hidden, &value, 0, sizeof value);
  }

  /// A run of one prompt's tokens: [first, first + count) of its own, from `row` on of all.
  struct Run {
    size_t prompt;
    int64_t first;
    int64_t row;
    int64_t count;
  };
  /// Rows [first, first + count) of all, by prompt.
  std::vector<Run> runs(int64_t first, int64_t count) const {
    std::vector<Run> runs;
    int64_t begin = 0;
    for (size_t prompt = 0; prompt < lengths_.size(); begin += lengths_[prompt++]) {
      const int64_t from = std::max(first, begin);
      const int64_t to = std::min(first + count, begin + lengths_[prompt]);
      if (from < to) runs.push_back({prompt, from - begin, from, to - from});
    }
    return runs;
  }
  /// The last token of each prompt.
  std::vector<Run> ends() const {
    auto ends = runs(0, n_);
    for (auto& run : ends) run = {run.prompt, run.count - 1, run.row + run.count - 1, 1};
    return ends;
  }

  ggml_tensor* hidden_at(ggml_context* ctx, int64_t first, int64_t count) const {
    return ggml_view_2d(ctx, hidden, hidden->ne[0], count, hidden->nb[1],
                        static_cast<size_t>(first) * hidden->nb[1]);
  }
  /// Their positions in the text.
  ggml_tensor* positions_at(ggml_context* ctx, int64_t first, int64_t count) const {
    return numbers_at(ctx, part().positions, first, count);
  }

  /// Tells the ids of tokens that pass, which layers with embeddings of their own (HParams::n_embd_layer) ask
  /// for.
  void set_tokens(int64_t first, std::span<const Token> tokens) {
    if (ids_.empty()) return;
    std::ranges::copy(tokens, ids_.begin() + first);
    ggml_backend_tensor_set(part().ids, tokens.data(), static_cast<size_t>(first) * sizeof(Token),
                            tokens.size_bytes());
  }
  ggml_tensor* tokens_at(ggml_context* ctx, int64_t first, int64_t count) const {
    return numbers_at(ctx, part().ids, first, count);
  }

  /// Makes the last token of each prompt the pack's first columns, in the prompts' order, where they are all
  /// that passes further.
  void keep_ends() {
    std::vector<uint8_t> column(hidden->nb[1]);
    int64_t to = 0;
    for (const auto& end : ends()) {
      const auto row = static_cast<size_t>(end.row);
      ggml_backend_tensor_get(hidden, column.data(), row * column.size(), column.size());
      ggml_backend_tensor_set(hidden, column.data(), static_cast<size_t>(to) * column.size(), column.size());
      const auto position = static_cast<int32_t>(position_ + end.first);
      ggml_backend_tensor_set(part().positions, &position, static_cast<size_t>(to) * sizeof position,
                              sizeof position);
      if (!ids_.empty()) set_tokens(to, std::span(&ids_[row], 1));
      ++to;
    }
  }

  const std::vector<int64_t>& lengths() const { return lengths_; }
  /// Of all prompts.
  int64_t tokens() const { return n_; }
  /// Rows kept aside: 0 where no layer observes.
  int64_t observation() const { return observation_; }
  /// Where `layer`'s queries of a prompt's tokens [first, first + count) are kept aside, which are some of
  /// the last observation(): [d_head·n_head, count]. Layers share places in turn.
  ggml_tensor* observed(ggml_context* ctx, size_t prompt, int layer, int64_t first, int64_t count) const {
    return observed_of(ctx, parts_[backends_.device_of(layer)]->observed, prompt, layer, first, count);
  }
  /// Where the log sums of their scores are kept aside, [n_head, count], if they are: note_log_sums().
  ggml_tensor* log_sums(ggml_context* ctx, size_t prompt, int layer, int64_t first, int64_t count) const {
    return observed_of(ctx, parts_[backends_.device_of(layer)]->log_sums, prompt, layer, first, count);
  }
  void note_log_sums(int layer) { with_log_sums_[place_in_flight(layer)] = layer; }
  bool has_log_sums(int layer) const { return with_log_sums_[place_in_flight(layer)] == layer; }
  const std::vector<int64_t>& strides() const { return strides_; }
  /// What each token of a prompt received in `layer` from the queries of every stride-th one, so far:
  /// [tokens, n_head] F32, those before the pack included. Layers share places in turn.
  ggml_tensor* received(ggml_context* ctx, size_t prompt, int layer, int64_t stride) const {
    const auto which = static_cast<size_t>(std::ranges::find(strides_, stride) - strides_.begin());
    return of_prompt(ctx, parts_[backends_.device_of(layer)]->received[which], prompt, layer, hp_.n_head);
  }
  bool has_moments() const { return has_moments_; }
  /// LayerView::moments of a prompt in `layer`, so far. Layers share places in turn.
  ggml_tensor* moments(ggml_context* ctx, size_t prompt, int layer) const {
    auto* all = parts_[backends_.device_of(layer)]->moments;
    const auto place = static_cast<size_t>(hp_.row_layer(layer) % in_flight_) * lengths_.size() + prompt;
    const int64_t d = hp_.d_head;
    const int64_t columns = moment_columns(d);
    return ggml_view_3d(ctx, all, d, columns, hp_.n_head, all->nb[1],
                        all->nb[1] * static_cast<size_t>(columns),
                        all->nb[1] * static_cast<size_t>(columns * hp_.n_head) * place);
  }
  /// LayerView::replayed of a prompt in `layer`, so far. Layers share places in turn.
  ggml_tensor* replayed(ggml_context* ctx, size_t prompt, int layer) const {
    auto* all = parts_[backends_.device_of(layer)]->replayed;
    return of_prompt(ctx, all, prompt, layer, hp_.n_head_kv);
  }
  /// Sets what is received in `layer`, its moments and what is replayed to 0.
  void forget_sums(int layer) const {
    if (has_moments_) {
      auto* all = parts_[backends_.device_of(layer)]->moments;
      const size_t bytes = ggml_nbytes(all) / static_cast<size_t>(in_flight_);
      ggml_backend_tensor_memset(all, 0, bytes * static_cast<size_t>(hp_.row_layer(layer) % in_flight_),
                                 bytes);
    }
    auto forget = [&](ggml_tensor* values, int64_t columns) {
      ggml_backend_tensor_memset(values, 0, place_of(layer, values, columns),
                                 values->nb[1] * static_cast<size_t>(columns));
    };
    const auto& part = *parts_[backends_.device_of(layer)];
    for (auto* sums : part.received) forget(sums, hp_.n_head);
    if (part.replayed != nullptr) forget(part.replayed, hp_.n_head_kv);
  }

  /// [n_embd, n and the tokens behind] F32: the current layer's input, chunk by chunk its output
  ggml_tensor* hidden = nullptr;

 private:
  ggml_tensor* numbers_at(ggml_context* ctx, ggml_tensor* all, int64_t first, int64_t count) const {
    const size_t offset = static_cast<size_t>(first) * sizeof(int32_t);
    auto* numbers = ggml_view_1d(ctx, all, count, offset);
    // Vulkan's kernels read them from the aligned address below, and say nothing.
    return offset % backends_.alignment(device_) == 0 ? numbers : ggml_cont(ctx, numbers);
  }

  /// What lies on one device. The rest outlives the hidden states, for layers that wait for ones above.
  struct Part {
    Part(const Backends& backends, size_t device, size_t strides)
        : hidden_storage(std::make_unique<Storage>(backends, "the hidden states", 1, device)),
          storage(backends, "the observed queries", 6 + strides, device) {}

    std::unique_ptr<Storage> hidden_storage;
    Storage storage;
    ggml_tensor* positions = nullptr;
    ggml_tensor* ids = nullptr;  ///< of the tokens; null where no layer asks for them
    /// [d_head·n_head, observation · prompts · layers in flight] F32: queries of the last tokens
    ggml_tensor* observed = nullptr;
    ggml_tensor* log_sums = nullptr;  ///< [n_head, as many] F32: of their scores
    ggml_tensor* moments = nullptr;  ///< [d_head, moment_columns · n_head · prompts · layers in flight] F32
    std::vector<ggml_tensor*>
        received;                     ///< by stride: [tokens of all prompts, n_head · layers in flight] F32
    ggml_tensor* replayed = nullptr;  ///< [tokens of all prompts, n_head_kv · layers in flight] F32
  };

  size_t place_in_flight(int layer) const { return static_cast<size_t>(hp_.row_layer(layer) % in_flight_); }

  /// Of columns for each observed query, those of a prompt's tokens [first, first + count) in `layer`.
  ggml_tensor* observed_of(ggml_context* ctx, ggml_tensor* columns, size_t prompt, int layer, int64_t first,
                           int64_t count) const {
    const size_t place = place_in_flight(layer) * lengths_.size() + prompt;
    const int64_t column = static_cast<int64_t>(place + 1) * observation_ - (lengths_[prompt] - first);
    return ggml_view_2d(ctx, columns, columns->ne[0], count, columns->nb[1],
                        static_cast<size_t>(column) * columns->nb[1]);
  }

  /// Where the layer's values are among [tokens of all prompts, columns · layers in flight].
  size_t place_of(int layer, const ggml_tensor* values, int64_t columns) const {
    return values->nb[1] * static_cast<size_t>(hp_.row_layer(layer) % in_flight_ * columns);
  }

  /// Of these, a prompt's: [its tokens, columns].
  ggml_tensor* of_prompt(ggml_context* ctx, ggml_tensor* values, size_t prompt, int layer,
                         int64_t columns) const {
    const int64_t before =
        std::accumulate(lengths_.begin(), lengths_.begin() + static_cast<ptrdiff_t>(prompt),
                        static_cast<int64_t>(prompt) * position_);
    return ggml_view_2d(ctx, values, position_ + lengths_[prompt], columns, values->nb[1],
                        place_of(layer, values, columns) + static_cast<size_t>(before) * values->nb[0]);
  }

  void enter(size_t device) {
    device_ = device;
    auto& p = parts_[device].emplace(backends_, device, strides_.size());
    int64_t columns = n_;
    for (auto [first, end] : behind_) columns += end - first;
    hidden = p.hidden_storage->add(GGML_TYPE_F32, hp_.n_embd, columns);
    p.hidden_storage->allocate(/*clear=*/false);
    p.positions = p.storage.add(GGML_TYPE_I32, columns, 1);
    if (hp_.n_embd_layer > 0) p.ids = p.storage.add(GGML_TYPE_I32, columns, 1);
    if (observation_ > 0) {
      const int64_t queries = observation_ * in_flight_ * static_cast<int64_t>(lengths_.size());
      p.observed = p.storage.add(GGML_TYPE_F32, int64_t{hp_.d_head} * hp_.n_head, queries);
      p.log_sums = p.storage.add(GGML_TYPE_F32, hp_.n_head, queries);
    }
    const int64_t all = n_ + position_ * static_cast<int64_t>(lengths_.size());
    for (size_t i = 0; i < strides_.size(); ++i)
      p.received.push_back(p.storage.add(GGML_TYPE_F32, all, hp_.n_head * in_flight_));
    if (!behind_.empty()) p.replayed = p.storage.add(GGML_TYPE_F32, all, int64_t{hp_.n_head_kv} * in_flight_);
    if (has_moments_)
      p.moments = p.storage.add(
          GGML_TYPE_F32, hp_.d_head,
          moment_columns(hp_.d_head) * hp_.n_head * in_flight_ * static_cast<int64_t>(lengths_.size()));
    p.storage.allocate(/*clear=*/false);
    std::vector<int32_t> numbers(static_cast<size_t>(columns));
    auto next = numbers.begin();
    auto count_up = [&](int64_t first, int64_t count) {
      std::iota(next, next + count, static_cast<int32_t>(first));
      next += count;
    };
    for (auto length : lengths_) count_up(position_, length);
    for (auto [first, end] : behind_) count_up(first, end - first);
    ggml_backend_tensor_set(p.positions, numbers.data(), 0, ggml_nbytes(p.positions));
    if (p.ids == nullptr) return;
    ids_.resize(static_cast<size_t>(columns));
    ggml_backend_tensor_set(p.ids, ids_.data(), 0, ggml_nbytes(p.ids));
  }

  Part& part() { return *parts_[device_]; }
  const Part& part() const { return *parts_[device_]; }

  const Backends& backends_;
  const HParams& hp_;
  std::vector<int64_t> lengths_;
  int64_t n_;  ///< of all prompts
  int64_t observation_;
  int64_t in_flight_;
  std::vector<int64_t> strides_;
  bool has_moments_;
  int64_t position_;
  std::vector<int> with_log_sums_;  ///< the layer, for each in flight; -1: none
  std::vector<TokenRange> behind_;
  std::vector<Token> ids_;  ///< of all tokens; none where no layer asks for them
  size_t device_ = 0;
  std::vector<std::optional<Part>> parts_;  ///< by device
};

}  // namespace windowkv
