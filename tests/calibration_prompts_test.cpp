// What calibrations are measured on: pieces of text, questions about them, prompts from files.
#include "eval/calibration_prompts.h"

#include <gtest/gtest.h>

#include <fstream>
#include <regex>

#include "eval/sentences.h"
#include "support/file.h"
#include "support/files.h"
#include "support/models.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

class CalibrationPrompts : public testing::Test {
 protected:
  void SetUp() override {
    ModelOptions options;
    options.weights = false;
    model_ = Model::load(minilong_path("q8_0"), options);
    text_ = read_text_file(WINDOWKV_DATA_DIR "/haystack/adventures-of-sherlock-holmes.txt");
  }
  const Vocab& vocab() const { return model_->vocab(); }
  std::vector<std::string> pieces(int64_t limit = 8) const {
    return eval::text_pieces(vocab(), text_, 600, limit);
  }

  std::unique_ptr<Model> model_;
  std::string text_;
};

TEST_F(CalibrationPrompts, PiecesLieEvenlyInTheTextAndEndWithSentences) {
  const auto all = pieces(8);
  ASSERT_EQ(all.size(), 8u);
  size_t from = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const auto at = text_.find(all[i], from);
    ASSERT_NE(at, std::string::npos) << "piece " << i << " is not in the text behind the one before it";
    EXPECT_NEAR(static_cast<double>(at) / static_cast<double>(text_.size()), static_cast<double>(i) / 8,
                0.02);
    from = at + all[i].size();
    EXPECT_TRUE(eval::ends_sentence(text_, from)) << all[i].substr(all[i].size() - 40);
    const auto tokens = vocab().tokenize(all[i]).size();
    EXPECT_GT(tokens, 300u);
    EXPECT_LE(tokens, 602u);
  }
}

TEST_F(CalibrationPrompts, ShortTextsGiveWhatTheyHave) {
  const std::string text = text_.substr(0, text_.find("\n\n", 1500));
  EXPECT_EQ(eval::text_pieces(vocab(), text, 100000, 8), (std::vector<std::string>{text}));
  EXPECT_THROW(eval::text_pieces(vocab(), "Too short.", 600, 8), Error);
  EXPECT_THROW(eval::text_pieces(vocab(), "", 600, 8), Error);
  // No sentence, no blank, and characters of several bytes.
  std::string dense;
  for (int i = 0; i < 2000; ++i) dense += "語";
  for (const auto& piece : eval::text_pieces(vocab(), dense, 100, 3)) {
    EXPECT_EQ(piece.size() % 3, 0u);
    EXPECT_EQ(piece.substr(0, 3), "語");
  }
}

TEST_F(CalibrationPrompts, QuestionsAskForWhatTheTextHas) {
  const auto all = pieces(8);
  const auto messages = eval::questions_about(all);
  EXPECT_EQ(eval::questions_about(all), messages);
  ASSERT_EQ(messages.size(), all.size());
  int quotations = 0, facts = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const auto mark = messages[i].rfind("\n\nQuestion: ");
    ASSERT_NE(mark, std::string::npos);
    const auto text = messages[i].substr(0, mark);
    const auto question = messages[i].substr(mark);
    std::smatch found;
    if (std::regex_search(question, found, std::regex("begins with \"([^\"]*)\""))) {
      ++quotations;
      EXPECT_NE(text.find(found[1]), std::string::npos) << question;
      EXPECT_EQ(text.find(found[1]), text.rfind(found[1])) << question;
    }
    if (std::regex_search(question, found, std::regex("the ([a-z]+)'s box"))) {
      ++facts;
      const std::regex fact(
          " The ([a-z]+)'s box is kept in (room|cellar) [0-9]+ and its number is [0-9]+\\.");
      int asked = 0, count = 0;
      for (auto f = std::sregex_iterator(text.begin(), text.end(), fact); f != std::sregex_iterator(); ++f) {
        ++count;
        asked += (*f)[1] == found[1];
      }
      EXPECT_EQ(count, 4);
      EXPECT_EQ(asked, 1) << question;
      EXPECT_EQ(std::regex_replace(text, fact, ""), all[i]);  // and nothing else was changed
    } else {
      EXPECT_EQ(text, all[i]);
    }
  }
  EXPECT_EQ(quotations, 2);
  EXPECT_EQ(facts, 2);
}

TEST_F(CalibrationPrompts, TextWithoutSentencesIsAskedAboutToo) {
  for (const auto& message : eval::questions_about({"a", "b", "c", "d"}))
    EXPECT_NE(message.find("\n\nQuestion: "), std::string::npos);
}

TEST_F(CalibrationPrompts, MessagesStandInTheChatTemplate) {
  const auto tokens = eval::message_prompt(vocab(), "Who is there?");
  EXPECT_EQ(vocab().text(tokens, true),
            "<|endoftext|><|im_start|>user\nWho is there?<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(CalibrationPrompts, FilesHaveOneALineOrJson) {
  auto read = [](const std::string& content) {
    const auto path = temp_path("prompts.txt");
    std::ofstream(path, std::ios::binary) << content;
    return eval::read_prompts(path);
  };
  using Prompts = std::vector<std::string>;
  EXPECT_EQ(read("One?\n\n  \nTwo {of} three\r\n"), (Prompts{"One?", "Two {of} three"}));
  EXPECT_EQ(read("{\"prompt\": \"One\\ntwo\", \"id\": 3}\nplain\n"), (Prompts{"One\ntwo", "plain"}));
  for (const char* bad : {"", "\n\n", "{\"question\": \"x\"}", "{\"prompt\": 3}", "{\"prompt\": ", "\xff\n"})
    EXPECT_THROW(read(bad), Error) << bad;
  try {
    read("fine\n{}\n");
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("line 2"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace windowkv::test
