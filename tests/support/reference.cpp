#include "support/reference.h"

#include <llama.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "backend/backend.h"

namespace windowkv::test {

Logits decoded_logits(Engine& engine, Sequence& sequence, std::span<const Token> tokens) {
  Logits out;
  for (const Token token : tokens) {
    const auto logits = engine.decode(sequence, token);
    out.emplace_back(logits.begin(), logits.end());
  }
  return out;
}

Reference::Reference(const std::string& path) {
  capture_ggml_logs();
  ggml_backend_load_all();
  if (auto* blas = ggml_backend_reg_by_name("BLAS")) ggml_backend_unload(blas);
  auto params = llama_model_default_params();
  params.n_gpu_layers = 0;
  const GgmlErrors errors;
  model_.reset(llama_model_load_from_file(path.c_str(), params));
  if (!model_) throw std::runtime_error("libllama does not load " + path + errors.in_brackets());
}

Logits Reference::all_logits(std::span<const Token> tokens, size_t batch_size, size_t known, bool flash,
                             std::span<const int32_t> kept, std::span<const Dropped> dropped) {
  auto params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(tokens.size());
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(batch_size);
  params.n_threads = params.n_threads_batch = 1;
  params.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_AUTO : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  const GgmlErrors errors;
  const llama_context_ptr ctx(llama_init_from_model(model_.get(), params));
  if (!ctx) throw std::runtime_error("libllama makes no context" + errors.in_brackets());
  const auto n_vocab = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model_.get())));

  const auto drop = [&](llama_pos begin, llama_pos end) {
    if (!llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, begin, end))
      throw std::runtime_error("libllama does not drop tokens of this model");
  };

  Logits out;
  llama_batch batch = llama_batch_init(static_cast<int32_t>(batch_size), 0, 1);
  for (size_t first = 0; first < tokens.size(); first += static_cast<size_t>(batch.n_tokens)) {
    if (first == known && !kept.empty())
      for (llama_pos p = 0; p < static_cast<llama_pos>(known); ++p)
        if (std::ranges::find(kept, p) == kept.end()) drop(p, p + 1);
    for (const auto& range : dropped)
      if (range.before == first) drop(range.first, range.end);
    batch.n_tokens = first < known ? static_cast<int32_t>(std::min(batch_size, known - first)) : 1;
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
      batch.token[i] = tokens[first + static_cast<size_t>(i)];
      batch.pos[i] = static_cast<llama_pos>(first) + i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    if (llama_decode(ctx.get(), batch) != 0) {
      llama_batch_free(batch);
      throw std::runtime_error("libllama does not decode" + errors.in_brackets());
    }
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
      const float* logits = llama_get_logits_ith(ctx.get(), i);
      out.emplace_back(logits, logits + n_vocab);
    }
  }
  llama_batch_free(batch);
  return out;
}

double relative_error(std::span<const float> ours, std::span<const float> theirs) {
  if (ours.size() != theirs.size()) return std::numeric_limits<double>::infinity();
  double difference = 0;
  double largest = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double d = std::abs(static_cast<double>(ours[i]) - theirs[i]);
    // NaN would be lost in max().
    if (!std::isfinite(d)) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, d);
    largest = std::max(largest, std::abs(static_cast<double>(theirs[i])));
  }
  return difference / largest;
}

Difference compare(const Logits& ours, const Logits& theirs) {
  Difference d;
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  if (ours.size() != theirs.size() || ours.empty()) return {kInfinite, kInfinite, 0, 0};
  auto top = [](const std::vector<float>& v) { return std::max_element(v.begin(), v.end()) - v.begin(); };
  std::vector<double> errors;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double error = relative_error(ours[i], theirs[i]);
    errors.push_back(error);
    d.worst = std::max(d.worst, error);
    d.mean += error / static_cast<double>(ours.size());
    d.top1 += (top(ours[i]) == top(theirs[i]) ? 1.0 : 0.0) / static_cast<double>(ours.size());
  }
  std::ranges::sort(errors);
  d.most = errors[(errors.size() - 1) * 9 / 10];
  return d;
}

}  // namespace windowkv::test
