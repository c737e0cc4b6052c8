// Perplexity behind a compressed half, beside plain sums over all logits.
#include "eval/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "support/files.h"
#include "support/models.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

using eval::make_contender;

class Perplexity : public testing::Test {
 protected:
  static constexpr int64_t kLength = 200;

  std::unique_ptr<Model> model = load(minilong_path("f16"));
  Engine engine{*model};
  std::vector<std::string> names = {"sherlock", "again"};
  std::vector<std::string> texts = {data_text("sherlock.txt"), data_text("sherlock.txt").substr(0, 3000)};
  std::vector<eval::PerplexityDocument> documents =
      eval::cut_documents(*model, names, texts, kLength, /*limit=*/2);
  std::vector<eval::Contender> contenders = {
      make_contender("full", "100%", model->hparams().n_layer),
      make_contender("streaming-llm", "10%", model->hparams().n_layer)};

  /// Mean −log p of the second half's tokens but the first, where nothing is dropped.
  double plain(const std::vector<Token>& tokens) {
    double sum = 0;
    int64_t count = 0;
    PrefillOptions options;
    options.all_logits = [&](int64_t position, std::span<const float> logits) {
      if (position < kLength / 2 || position + 1 >= kLength) return;
      const double most = *std::ranges::max_element(logits);
      double all = 0;
      for (const float logit : logits) all += std::exp(logit - most);
      sum -= logits[static_cast<size_t>(tokens[static_cast<size_t>(position) + 1])] - most - std::log(all);
      ++count;
    };
    Sequence sequence;
    engine.prefill(sequence, tokens, *full_policy(), options);
    EXPECT_EQ(count, kLength / 2 - 1);
    return sum / static_cast<double>(count);
  }
};

TEST_F(Perplexity, TextsAreCutIntoDocumentsOfOneLength) {
  ASSERT_EQ(documents.size(), 2u);
  for (const auto& document : documents) EXPECT_EQ(std::ssize(document.tokens), kLength);
  EXPECT_NE(documents[0].tokens, documents[1].tokens);
  EXPECT_TRUE(texts[0].starts_with(documents[0].text.substr(documents[0].text.find_first_not_of(' '))));
  const auto all = eval::cut_documents(*model, names, texts, kLength, -1);
  EXPECT_GT(all.size(), 4u);
  EXPECT_TRUE(all.back().name.starts_with("again:"));
  EXPECT_THROW(eval::cut_documents(*model, names, texts, 3, -1), Error);
}

TEST_F(Perplexity, OfTheFullCacheIsThatOfPlainSums) {
  eval::JsonlLog log(temp_path("perplexity.jsonl"));
  eval::PerplexityOptions options;
  options.log = &log;
  const auto results = eval::run_perplexity(engine, documents, contenders, options);
  for (size_t d = 0; d < documents.size(); ++d) {
    EXPECT_EQ(results[0][d].tokens, kLength / 2 - 1);
    EXPECT_NEAR(results[0][d].nll, plain(documents[d].tokens), 2e-3);
    EXPECT_EQ(results[0][d].kept_share, 1);
    EXPECT_NEAR(results[1][d].kept_share, 0.1, 1e-3);
    EXPECT_GT(std::abs(results[1][d].nll - results[0][d].nll), 1e-3);
  }
  const auto summaries = eval::summarize_perplexity(results);
  EXPECT_NEAR(summaries[0].perplexity, std::exp((results[0][0].nll + results[0][1].nll) / 2), 1e-9);
  EXPECT_EQ(summaries[0].ratio.mean, 1);
  EXPECT_NEAR(summaries[1].ratio.mean, summaries[1].perplexity / summaries[0].perplexity, 1e-9);

  // What is in the log is not run again; what is not, alone.
  options.cancelled = [] { return true; };
  auto again = eval::run_perplexity(engine, documents, contenders, options);
  EXPECT_EQ(again[1][1].nll, results[1][1].nll);
  contenders.push_back(make_contender("snapkv", "10%", model->hparams().n_layer));
  again = eval::run_perplexity(engine, documents, contenders, options);
  EXPECT_FALSE(again[0][0].done || again[2][1].done);
  EXPECT_EQ(eval::summarize_perplexity(again)[0].documents, 0);
}

}  // namespace
}  // namespace windowkv::test
