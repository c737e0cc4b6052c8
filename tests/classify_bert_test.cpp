// Classifiers that people bring as GGUF, run by libllama.
#include <gtest/gtest.h>

#include <cmath>

#include "support/bert.h"
#include "support/files.h"
#include "support/gguf_edit.h"
#include "windowkv/classifier.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

double probability(const TinyBert& model, std::string_view text = "sum it up .",
                   const std::vector<std::string>& labels = {}) {
  return TaskClassifier::load(write_tiny_bert("bert.gguf", model), labels)->aggregation_probability(text);
}

TEST(BertClassifier, IsTheSoftmaxOfTheHeadsOutputs) {
  // The head's weights are zero: its outputs are its bias, and softmax(0.2, 1.5) is known.
  const double expected = std::exp(1.5) / (std::exp(1.5) + std::exp(0.2));
  EXPECT_NEAR(probability({.bias = {0.2f, 1.5f}}), expected, 1e-6);
  EXPECT_NEAR(probability({.labels = {"aggregation", "localization"}, .bias = {0.2f, 1.5f}}), 1 - expected,
              1e-6);
}

TEST(BertClassifier, TakesLabelsWhereTheFileHasNone) {
  const TinyBert unnamed{.labels = {"LABEL_0", "LABEL_1"}, .bias = {0, 2}};
  const double expected = 1 / (1 + std::exp(-2.0));
  EXPECT_THROW(probability(unnamed), Error);
  EXPECT_NEAR(probability(unnamed, "a", {"localization", "aggregation"}), expected, 1e-6);
  EXPECT_NEAR(probability(unnamed, "a", {"Aggregation", "LOCALIZATION"}), 1 - expected, 1e-6);
  EXPECT_THROW(probability(unnamed, "a", {"aggregation", "aggregation"}), Error);
  EXPECT_THROW(probability(unnamed, "a", {"aggregation"}), Error);
}

TEST(BertClassifier, ReadsBothEndsAndNothingBetween) {
  const auto classifier = TaskClassifier::load(write_tiny_bert("bert.gguf", {.head_deviation = 1}));
  std::string filler;
  for (int i = 0; i < 6000; ++i) filler += " the";
  const auto p = [&](const std::string& text) { return classifier->aggregation_probability(text); };
  const double plain = p("who is it ?" + filler + " sum up");
  EXPECT_NE(plain, p("sum it up ." + filler + " sum up"));
  EXPECT_NE(plain, p("who is it ?" + filler + " who ?"));
  EXPECT_EQ(plain, p("who is it ?" + filler + " a b a b" + filler + " sum up"));
  EXPECT_EQ(plain, p("who is it ?" + filler + " sum up")) << "a call changes the next";
}

TEST(BertClassifier, TakesAnyBytes) {
  const auto classifier = TaskClassifier::load(write_tiny_bert("bert.gguf", {.head_deviation = 1}));
  for (const std::string& text : {std::string(1, '\xff'), std::string(100000, '\0'),
                                  std::string(3000, '\xf0'), std::string(1 << 20, 'x'), std::string("?")}) {
    const double p = classifier->aggregation_probability(text);
    EXPECT_GE(p, 0);
    EXPECT_LE(p, 1);
  }
  EXPECT_EQ(classifier->aggregation_probability(""), 0.5);
  EXPECT_EQ(decide_task(*classifier, " \n").source, DecisionSource::kNeutral);
  EXPECT_TRUE(classifier->reasons("a", 3).empty());
}

TEST(BertClassifier, RefusesWhatItCannotRun) {
  const auto good = write_tiny_bert("good.gguf", {});
  EXPECT_THROW(TaskClassifier::load("missing.gguf"), Error);
  EXPECT_THROW(TaskClassifier::load(write_bytes("text.gguf", std::vector<uint8_t>(100, 'x'))), Error);
  EXPECT_THROW(TaskClassifier::load(write_tiny_bert("headless.gguf", {.head = false})), Error);
  EXPECT_THROW(
      TaskClassifier::load(write_tiny_bert("three.gguf", {.labels = {"a", "b", "c"}, .bias = {0, 0, 0}})),
      Error);
  EXPECT_THROW(TaskClassifier::load(write_tiny_bert("llama.gguf", {.family = "llama"})), Error);
  auto bytes = read_bytes(good);
  bytes.resize(bytes.size() / 2);
  EXPECT_THROW(TaskClassifier::load(write_bytes("cut.gguf", bytes)), Error);
  const auto edited = [&](const std::function<void(GgufEdit&)>& edit) {
    EXPECT_THROW(TaskClassifier::load(edit_gguf(good, "edited.gguf", edit)), Error);
  };
  edited([](GgufEdit& e) { gguf_set_val_u32(e.meta, "bert.attention.head_count", 0); });
  edited([](GgufEdit& e) { gguf_set_val_u32(e.meta, "bert.attention.head_count", 5); });
  edited([](GgufEdit& e) { gguf_set_val_u32(e.meta, "bert.block_count", 0); });
  edited([](GgufEdit& e) { gguf_set_val_u32(e.meta, "bert.block_count", 3); });
  edited([](GgufEdit& e) { gguf_set_val_u32(e.meta, "bert.context_length", 4096); });
  edited([](GgufEdit& e) { gguf_set_val_u32(e.meta, "tokenizer.ggml.cls_token_id", 999); });
  edited([](GgufEdit& e) { gguf_remove_key(e.meta, "tokenizer.ggml.tokens"); });
  edited([](GgufEdit& e) { gguf_remove_key(e.meta, "bert.embedding_length"); });
  edited([](GgufEdit& e) { e.remove_tensor("blk.1.ffn_up.weight"); });
  edited([](GgufEdit& e) { e.replace_tensor("position_embd.weight", {32, 8}); });
  edited([](GgufEdit& e) { e.replace_tensor("token_embd.weight", {32, 7}); });
}

}  // namespace
}  // namespace windowkv::test
