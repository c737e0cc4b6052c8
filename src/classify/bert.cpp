#include "classify/bert.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <llama-cpp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <thread>

#include "backend/backend.h"
#include "classify/excerpt.h"
#include "classify/linear_model.h"
#include "model/gguf_file.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

constexpr std::array<std::string_view, 6> kFamilies = {"bert",         "nomic-bert",   "nomic-bert-moe",
                                                       "jina-bert-v2", "jina-bert-v3", "modern-bert"};
constexpr int kLongest = 512;          // tokens, [CLS] and [SEP] included: 256 of each end
constexpr size_t kExcerptRoom = 4096;  // bytes of each end that are tokenized
constexpr unsigned kMostThreads = 4;

/// Sizes that libllama divides by or trusts.
void check_sizes(const GgufFile& file, const std::string& family) {
  const auto get = [&](const char* key) { return file.get_int(family + "." + key); };
  const int heads = get("attention.head_count");
  const int width = get("embedding_length");
  if (get("block_count") < 1 || get("block_count") > 1024) file.fail(family + ".block_count is out of range");
  if (heads < 1 || width < 1 || width % heads != 0)
    file.fail(fmt::format("{} heads do not divide a width of {}", heads, width));
  if (get("context_length") < 8) file.fail("the classifier reads fewer than 8 tokens");
  const auto tokens = file.find_array_size("tokenizer.ggml.tokens");
  if (!tokens) file.fail("the classifier has no vocabulary");
  for (const char* name : {"unknown", "seperator", "separator", "padding", "cls", "mask", "bos", "eos"})
    if (const auto id = file.find_int(fmt::format("tokenizer.ggml.{}_token_id", name)); id && *id >= *tokens)
      file.fail(fmt::format("the {} token's id {} is outside the vocabulary of {}", name, *id, *tokens));
  const auto embedding = file.find_tensor("token_embd.weight");
  if (!embedding || embedding->ne[0] != width || embedding->ne[1] != *tokens)
    file.fail(fmt::format("the vocabulary has {} tokens, the embedding a different number", *tokens));
  if (const auto positions = file.find_tensor("position_embd.weight");
      positions && positions->ne[1] < get("context_length"))
    file.fail("the context has more tokens than there are position embeddings");
}

std::unique_ptr<llama_model, decltype(&llama_model_free)> load_model(const GgufFile& file) {
  const auto family = file.find_string("general.architecture").value_or("");
  if (std::find(kFamilies.begin(), kFamilies.end(), family) == kFamilies.end())
    file.fail(fmt::format("a classifier must be of a BERT family ({}), this is \"{}\"",
                          fmt::join(kFamilies, ", "), family));
  check_sizes(file, family);
  if (!file.find_tensor("cls.output.weight"))
    file.fail("the model has no classification head (cls.output.weight)");
  load_backends();
  const GgmlErrors errors;
  auto params = llama_model_default_params();
  params.n_gpu_layers = 0;
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model(
      llama_model_load_from_file(file.path().c_str(), params), llama_model_free);
  if (!model) file.fail("libllama cannot load the classifier" + errors.in_brackets());
  return model;
}

/// Which of the two outputs is aggregation.
size_t aggregation_output(const GgufFile& file, const llama_model* model,
                          std::span<const std::string> labels) {
  std::vector<std::string> names(labels.begin(), labels.end());
  const uint32_t outputs = llama_model_n_cls_out(model);
  if (outputs != 2) file.fail(fmt::format("the classifier has {} outputs; it must have 2", outputs));
  if (names.empty())
    for (uint32_t i = 0; i < outputs; ++i) {
      const char* label = llama_model_cls_label(model, i);
      names.emplace_back(label != nullptr ? label : "");
    }
  for (auto& name : names)
    for (auto& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  const std::array<std::string, 2> tasks = {std::string(to_string(Task::kLocalization)),
                                            std::string(to_string(Task::kAggregation))};
  for (size_t first = 0; first < 2; ++first)
    if (names.size() == 2 && names[first] == tasks[0] && names[1 - first] == tasks[1]) return 1 - first;
  file.fail(
      fmt::format("the labels are \"{}\"; name them in the order of the outputs: localization,aggregation or "
                  "aggregation,localization",
                  fmt::join(names, ",")));
}

class BertClassifier : public TaskClassifier {
 public:
  BertClassifier(const GgufFile& file, std::span<const std::string> labels)
      : name_(file.path()), model_(load_model(file)) {
    aggregation_ = aggregation_output(file, model_.get(), labels);
    longest_ = std::min(kLongest, llama_model_n_ctx_train(model_.get()));
    auto params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = static_cast<uint32_t>(longest_);
    params.n_seq_max = 1;
    params.embeddings = true;
    params.pooling_type = LLAMA_POOLING_TYPE_RANK;
    params.n_threads = params.n_threads_batch =
        static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kMostThreads));
    const GgmlErrors errors;
    context_.reset(llama_init_from_model(model_.get(), params));
    if (!context_) file.fail("libllama cannot run the classifier" + errors.in_brackets());
  }

  std::string_view name() const override { return name_; }

  double aggregation_probability(std::string_view text) const override {
    auto tokens = tokens_of(text);
    if (tokens.empty()) return 0.5;
    const std::lock_guard lock(mutex_);
    llama_memory_clear(llama_get_memory(context_.get()), true);
    auto batch = llama_batch_get_one(tokens.data(), static_cast<int32_t>(tokens.size()));
    if (llama_encode(context_.get(), batch) != 0) throw Error(name_ + ": libllama fails on the text");
    const float* logits = llama_get_embeddings_seq(context_.get(), 0);
    if (logits == nullptr) throw Error(name_ + ": libllama gives no result");
    const double odds =
        static_cast<double>(logits[aggregation_]) - static_cast<double>(logits[1 - aggregation_]);
    if (!std::isfinite(odds)) throw Error(name_ + ": the classifier's result is not a number");
    return sigmoid(odds);
  }

 private:
  std::vector<llama_token> tokenize(const std::string& text) const {
    const auto* vocab = llama_model_get_vocab(model_.get());
    std::vector<llama_token> tokens(text.size() + 8);
    const int count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                                     static_cast<int32_t>(tokens.size()), /*add_special=*/false,
                                     /*parse_special=*/false);
    tokens.resize(static_cast<size_t>(std::max(count, 0)));
    return tokens;
  }

  /// [CLS], the text or the two ends of it, [SEP].
  std::vector<llama_token> tokens_of(std::string_view text) const {
    const auto excerpt = take_excerpt(text, kExcerptRoom);
    const auto room = static_cast<size_t>(longest_ - 2);
    auto head = tokenize(excerpt.head);
    if (head.empty()) return {};
    const bool whole = text.size() <= kExcerptRoom && head.size() <= room;
    if (!whole) {
      const auto tail = tokenize(excerpt.tail);
      const size_t half = room / 2;
      head.resize(std::min(head.size(), half));
      head.insert(head.end(), tail.end() - static_cast<std::ptrdiff_t>(std::min(tail.size(), half)),
                  tail.end());
    }
    const auto* vocab = llama_model_get_vocab(model_.get());
    if (const auto cls = llama_vocab_bos(vocab); cls >= 0) head.insert(head.begin(), cls);
    if (const auto sep = llama_vocab_sep(vocab); sep >= 0) head.push_back(sep);
    return head;
  }

  std::string name_;
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model_;
  llama_context_ptr context_;
  size_t aggregation_ = 0;
  int longest_ = 0;
  mutable std::mutex mutex_;  // a llama_context serves one call at a time
};

}  // namespace

std::unique_ptr<TaskClassifier> load_bert_classifier(const std::string& path,
                                                     std::span<const std::string> labels) {
  const GgufFile file(path);
  return std::make_unique<BertClassifier>(file, labels);
}

}  // namespace windowkv
