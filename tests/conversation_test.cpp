// Conversations: each turn as a fresh prompt of all of it, turns that are dropped, saved and loaded.
#include "windowkv/conversation.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/files.h"
#include "support/models.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

constexpr int64_t kAnswer = 12;

class Talk : public ::testing::Test {
 protected:
  std::unique_ptr<Model> model = load(minilong_path("q8_0"));
  Engine engine{*model, {.chunk = 256}};
  std::string text = "The harbour of Lisbon is old. Its keeper is called Amelia Brown. ";

  ConversationOptions options(int64_t context = 0) {
    ConversationOptions o;
    o.context = context;
    o.generate.max_tokens = kAnswer;
    o.policy = [this](const std::string&) {
      return make_policy("windowkv", {Budget::percent(25),
                                      make_config("default", Task::kLocalization, model->hparams().n_layer)});
    };
    return o;
  }

  std::optional<PrefixStore> f16() const { return PrefixStore(*model, {.types = {}}); }

  /// What a new engine answers to the same prompt.
  std::string fresh(const Conversation::Turn& turn) {
    Sequence sequence;
    const auto logits = engine.prefill(sequence, turn.prompt, *turn.policy);
    GenerateOptions generate_options;
    generate_options.max_tokens = kAnswer;
    return generate(engine, &model->vocab(), sequence, logits, turn.prompt, generate_options).text;
  }

  std::string long_document() const {
    std::string out;
    for (int i = 0; i < 40; ++i) out += text;
    return out;
  }
};

TEST_F(Talk, EachTurnIsWhatAFreshPromptGives) {
  auto o = options();
  o.document = long_document();
  o.system = "Answer briefly.";
  Conversation talk(engine, *model, o, f16());
  talk.read_document();
  const auto read = talk.store()->tokens().size();
  EXPECT_GT(read, 500U);
  int64_t before = 0;
  for (const auto* question : {"Who is the keeper?", "Where is the harbour?", "Is it old?"}) {
    const auto& turn = talk.ask(question);
    EXPECT_GE(turn.sequence.reused_tokens, before > 0 ? before - 16 : static_cast<int64_t>(read) - 16);
    EXPECT_EQ(turn.generation.text, fresh(turn)) << question;
    EXPECT_EQ(talk.messages().back().content, turn.generation.text);
    before = turn.sequence.prompt_tokens;
  }
  EXPECT_EQ(talk.messages().size(), 6U);
  // The document stands before the first question alone.
  const auto prompt = model->vocab().text(talk.last()->prompt, true);
  EXPECT_NE(prompt.find("Answer briefly."), std::string::npos);
  EXPECT_LT(prompt.find("Amelia"), prompt.find("Who is the keeper?"));
  EXPECT_GT(prompt.find("Where is the harbour?"), prompt.find("Who is the keeper?"));
}

TEST_F(Talk, WithoutAStoreTheSame) {
  Conversation with(engine, *model, options(), f16());
  Conversation without(engine, *model, options(), std::nullopt);
  for (const auto* question : {"What is your name?", "And mine?"}) {
    const auto answer = with.ask(question).generation.text;
    EXPECT_EQ(without.ask(question).generation.text, answer);
  }
  EXPECT_EQ(without.last()->sequence.reused_tokens, 0);
  EXPECT_THROW(without.save(temp_path("none.prefix")), Error);
}

TEST_F(Talk, DropsTheOldestTurnsWhereTheContextIsFull) {
  auto o = options(/*context=*/160);
  o.document = text;
  Conversation talk(engine, *model, o, f16());
  int dropped = 0;
  for (int i = 0; i < 12; ++i) {
    const auto& turn = talk.ask("Question number " + std::to_string(i) + ": who is the keeper?");
    EXPECT_LE(turn.sequence.position, 160);
    dropped += turn.dropped;
    EXPECT_EQ(talk.messages().size() % 2, 0U);
    EXPECT_EQ(talk.messages().front().role, "user");
    const auto prompt = model->vocab().text(turn.prompt, true);
    EXPECT_NE(prompt.find("Amelia"), std::string::npos);  // the document stays
  }
  EXPECT_GT(dropped, 5);
  EXPECT_EQ(talk.messages().size(), static_cast<size_t>(24 - 2 * dropped));
}

TEST_F(Talk, AQuestionThatDoesNotFitLeavesTheConversation) {
  Conversation talk(engine, *model, options(/*context=*/200), f16());
  talk.ask("Who is the keeper?");
  EXPECT_THROW(talk.ask(long_document()), Error);
  EXPECT_EQ(talk.messages().size(), 2U);
  EXPECT_NO_THROW(talk.ask("Who?"));
  auto o = options(/*context=*/200);
  o.document = long_document();
  Conversation other(engine, *model, o, f16());
  EXPECT_THROW(other.read_document(), Error);
}

TEST_F(Talk, ACancelledQuestionLeavesTheConversation) {
  bool stop = false;
  auto o = options();
  o.document = long_document();
  o.generate.cancelled = [&] { return stop; };
  Conversation talk(engine, *model, o, f16());
  talk.ask("Who is the keeper?");
  stop = true;
  EXPECT_THROW(talk.ask("Where?"), Cancelled);
  EXPECT_EQ(talk.messages().size(), 2U);
  stop = false;
  const auto& turn = talk.ask("Where?");
  EXPECT_EQ(turn.generation.text, fresh(turn));
}

TEST_F(Talk, GoesOnWhereItWasSaved) {
  auto o = options();
  o.document = long_document();
  o.system = "Answer briefly.";
  Conversation talk(engine, *model, o, f16());
  EXPECT_THROW(talk.save(temp_path("empty.prefix")), Error);
  talk.ask("Who is the keeper?");
  const auto path = temp_path("talk.prefix");
  talk.save(path);
  const auto expected = talk.ask("Where?").generation.text;

  Conversation other(engine, *model, options(), f16());
  other.ask("Something else?");
  other.load(path);
  EXPECT_EQ(other.last(), nullptr);
  EXPECT_EQ(other.messages().size(), 2U);
  EXPECT_EQ(other.ask("Where?").generation.text, expected);
  EXPECT_EQ(other.last()->prompt, talk.last()->prompt);
  EXPECT_GT(other.last()->sequence.reused_tokens, 500);
}

TEST_F(Talk, AFileWithoutAConversationIsRefused) {
  auto store = f16();
  Sequence sequence;
  PrefillOptions prefill;
  prefill.store = &*store;
  engine.prefill(sequence, random_tokens(20, 256), *full_policy(), prefill);
  Conversation talk(engine, *model, options(), f16());
  talk.ask("Who?");
  for (const auto* annotation :
       {"", "no JSON", "{}", R"({"conversation":{"system":"","document":"","messages":[{"role":"user"}]}})",
        R"({"conversation":{"system":1,"document":"","messages":[]}})",
        R"({"conversation":{"system":"","document":"","messages":[{"role":"user","content":"a"}]}})"}) {
    const auto path = temp_path("other.prefix");
    store->save(path, annotation);
    EXPECT_THROW(talk.load(path), Error) << annotation;
    EXPECT_EQ(talk.messages().size(), 2U);
  }
  EXPECT_THROW(talk.load(temp_path("missing.prefix")), Error);
}

TEST_F(Talk, ClearForgetsTurnsAndNotTheDocument) {
  auto o = options();
  o.document = long_document();
  Conversation talk(engine, *model, o, f16());
  talk.ask("Who is the keeper?");
  const auto first = talk.last()->prompt;
  talk.ask("Where?");
  talk.clear();
  EXPECT_EQ(talk.last(), nullptr);
  EXPECT_EQ(talk.ask("Who is the keeper?").prompt, first);
  talk.set_system("Be brief.");
  EXPECT_NE(model->vocab().text(talk.ask("Where?").prompt, true).find("Be brief."), std::string::npos);
}

// Where recurrent layers' states are stored at the document's end and each turn's.
TEST(RecurrentTalk, TurnsGoOnFromSnapshots) {
  const auto model = load(recurrent_chat_path());
  Engine engine(*model, {.chunk = 256});
  ConversationOptions o;
  for (int i = 0; i < 40; ++i) o.document += "The harbour of Lisbon is old. Its keeper is called Amelia. ";
  o.chat_template = "chatml";
  o.generate.max_tokens = kAnswer;
  o.generate.ignore_end = true;
  o.policy = [](const std::string&) { return make_policy("snapkv", {Budget::percent(25), {}}); };
  Conversation talk(engine, *model, o, PrefixStore(*model, {.types = {}}));
  talk.read_document();
  const auto read = std::ssize(talk.store()->tokens());
  ASSERT_GT(read, 500);
  EXPECT_EQ(talk.store()->snapshots().back(), read);
  const auto fresh = [&](const Conversation::Turn& turn) {
    Sequence sequence;
    const auto logits = engine.prefill(sequence, turn.prompt, *turn.policy);
    return generate(engine, &model->vocab(), sequence, logits, turn.prompt, o.generate).text;
  };
  const auto& first =
      talk.ask("Who is the keeper of the old harbour, and what else does the text say of it?");
  EXPECT_EQ(first.sequence.reused_tokens, read);
  EXPECT_EQ(first.generation.text, fresh(first));
  const auto asked = std::ssize(first.prompt);
  const auto& second = talk.ask("And how old is it?");
  EXPECT_GE(second.sequence.reused_tokens, asked - 64);
  EXPECT_EQ(second.generation.text, fresh(second));
  // Saved, and gone on with.
  const auto path = temp_path("recurrent_talk.prefix");
  talk.save(path);
  Conversation again(engine, *model, o, PrefixStore(*model, {.types = {}}));
  again.load(path);
  const auto snapshots = talk.store()->snapshots();
  EXPECT_EQ(again.store()->snapshots(), snapshots);
  const auto& third = again.ask("Thank you. What is it called?");
  EXPECT_GE(third.sequence.reused_tokens, std::ssize(talk.last()->prompt) - 64);
  EXPECT_EQ(third.generation.text, fresh(third));
}

}  // namespace
}  // namespace windowkv::test
