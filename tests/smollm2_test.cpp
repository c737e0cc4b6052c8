// A real chat model, SmolLM2-135M-Instruct, through the whole engine. Skipped where it has not been fetched.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "support/files.h"
#include "support/models.h"
#include "windowkv/classifier.h"
#include "windowkv/engine.h"
#include "windowkv/generate.h"

namespace windowkv::test {
namespace {

struct Outcome {
  Generation generation;
  Sequence sequence;
};

class SmolLM2 : public testing::Test {
 protected:
  void SetUp() override {
    const auto path = smollm2_path();
    if (path.empty()) GTEST_SKIP() << kNoSmolLM2;
    // Loaded once for all.
    if (model_ == nullptr) model_ = load(path).release();
  }

  static const Model& model() { return *model_; }

  static std::vector<Token> chat(const std::vector<ChatMessage>& messages) {
    return model().vocab().tokenize(model().vocab().apply_chat_template(messages));
  }

  static std::unique_ptr<Policy> policy(const std::string& budget, Task task) {
    if (budget == "full") return full_policy();
    return make_policy("windowkv",
                       {Budget::parse(budget), make_config("default", task, model().hparams().n_layer, {})});
  }

  /// The answers under several budgets, "full" being the full cache, after one prefill.
  static std::map<std::string, Outcome> answers(const std::vector<Token>& prompt,
                                                const std::vector<std::string>& budgets, int64_t max_tokens,
                                                Task task = Task::kLocalization) {
    std::vector<std::unique_ptr<Policy>> policies;
    std::vector<const Policy*> views;
    policies.reserve(budgets.size());
    views.reserve(budgets.size());
    for (const auto& budget : budgets) views.push_back(policies.emplace_back(policy(budget, task)).get());
    Engine engine(model());
    std::vector<Sequence> sequences(budgets.size());
    const auto last = engine.prefill(sequences, prompt, views, {.reserve = max_tokens});
    const std::vector<float> logits(last.begin(), last.end());
    EXPECT_TRUE(std::ranges::all_of(logits, [](float x) { return std::isfinite(x); }));
    std::map<std::string, Outcome> out;
    for (size_t i = 0; i < budgets.size(); ++i) {
      auto& outcome = out[budgets[i]];
      outcome.generation =
          generate(engine, &model().vocab(), sequences[i], logits, prompt, {.max_tokens = max_tokens});
      outcome.sequence = std::move(sequences[i]);
    }
    return out;
  }

 private:
  static inline const Model* model_ = nullptr;
};

const std::string kDefault(kDefaultBudget);

// Two paragraphs and a question.
constexpr const char* kTwoParagraphs =
    "The lighthouse on Gull Island was built in 1874 by the engineer Thomas Harrow. For ninety years its "
    "lamp "
    "was lit every evening by a keeper who lived in the tower with his family. The last keeper, Margaret "
    "Dunn, "
    "left in 1964, when the lamp was made automatic and the small school on the island was closed.\n\n"
    "Today the tower belongs to a society of volunteers, who paint it white each spring and open it to "
    "visitors "
    "on Sundays. From the gallery one sees the harbor of Port Ellis, four miles to the east, and on clear "
    "days "
    "the mountains behind it. A boat takes visitors across at ten in the morning and brings them back at "
    "four.\n\n"
    "Question: Who built the lighthouse?";

TEST_F(SmolLM2, KnowsAnAnswer) {
  const auto got = answers(chat({{"user", "Name the capital of France."}}), {"full"}, 24);
  EXPECT_NE(got.at("full").generation.text.find("Paris"), std::string::npos)
      << got.at("full").generation.text;
}

TEST_F(SmolLM2, ShortPromptsAreAnsweredAsByTheFullCache) {
  for (const auto& messages : std::vector<std::vector<ChatMessage>>{
           {{"user", "Name the capital of France."}},
           {{"user", "How many days are there in a week?"}},
           {{"user", "What is the boiling point of water in degrees Celsius?"}},
           {{"user", kTwoParagraphs}},
           {{"system", "You are a sailor. Answer in one short sentence."},
            {"user", "What is an anchor for?"}}}) {
    SCOPED_TRACE(messages.back().content.substr(0, 60));
    const auto prompt = chat(messages);
    const auto got = answers(prompt, {"full", kDefault}, 32);
    const auto& [theirs, theirs_kept] = got.at("full");
    const auto& [ours, ours_kept] = got.at(kDefault);
    EXPECT_FALSE(ours.text.empty());
    EXPECT_EQ(ours.tokens, theirs.tokens) << ours.text << "\nfull: " << theirs.text;
    for (const auto kept : ours_kept.kept) EXPECT_EQ(kept, static_cast<int64_t>(prompt.size()));
  }
}

TEST_F(SmolLM2, FindsANeedleAmongFourThousandTokens) {
  const auto text = read_bytes(WINDOWKV_DATA_DIR "/haystack/adventures-of-sherlock-holmes.txt");
  const std::string book(text.begin(), text.end());
  const auto start = book.find("To Sherlock Holmes she is always");
  ASSERT_NE(start, std::string::npos);
  auto story = book.substr(start, 16000);
  story.insert(story.find(". ", story.size() / 2) + 2, "The secret ingredient of the red soup is mint. ");
  const auto prompt =
      chat({{"user", story + "\n\nQuestion: What is the secret ingredient of the red soup?"}});
  ASSERT_GT(prompt.size(), 3500u);
  const auto got = answers(prompt, {"full", kDefault, "12%"}, 16);
  for (const auto& [budget, outcome] : got)
    EXPECT_NE(outcome.generation.text.find("mint"), std::string::npos)
        << budget << ": " << outcome.generation.text;
  const auto& bytes = got.at("12%").sequence.bytes;
  EXPECT_LE(bytes.kept, bytes.full * 12 / 100);
}

TEST_F(SmolLM2, SummarizesFromWhatItWasToKeep) {
  const auto file = read_bytes(WINDOWKV_TEST_DATA_DIR "/sherlock.txt");
  const auto text = std::string(file.begin(), file.end()).substr(0, 3600);
  const auto prompt = chat({{"user", text + "\n\nSummarize this story in two sentences."}});
  const auto n = static_cast<int64_t>(prompt.size());
  const auto got = answers(prompt, {"full", "12%"}, 96, Task::kAggregation);
  for (const auto& [budget, outcome] : got) {
    SCOPED_TRACE(budget);
    EXPECT_GT(outcome.generation.text.size(), 100u);
    EXPECT_LE(outcome.generation.tokens.size(), 96u);
    const auto kept = budget == "full" ? n : n * 12 / 100;
    int64_t sum = 0;
    for (const auto layer : outcome.sequence.kept) sum += layer;
    const auto layers = model().hparams().n_layer;
    EXPECT_LE(sum, kept * layers);
    EXPECT_GT(sum, kept * layers * 9 / 10);
  }
}

}  // namespace
}  // namespace windowkv::test
