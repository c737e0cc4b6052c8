#include "eval/ruler/qa_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::eval::ruler {

namespace {

using nlohmann::json;

/// A value and how to get to it, "data[3].paragraphs[0]".
class Node {
 public:
  Node(const json& value, std::string place) : value_(value), place_(std::move(place)) {}

  Node field(const char* name) const {
    if (!value_.is_object()) refuse("is not an object");
    const auto found = value_.find(name);
    if (found == value_.end()) refuse(fmt::format("has no \"{}\"", name));
    return {*found, place_.empty() ? name : fmt::format("{}.{}", place_, name)};
  }
  std::vector<Node> list() const {
    if (!value_.is_array()) refuse("is not a list");
    std::vector<Node> nodes;
    for (size_t i = 0; i < value_.size(); ++i)
      nodes.emplace_back(value_[i], fmt::format("{}[{}]", place_, i));
    return nodes;
  }
  std::string text() const {
    if (!value_.is_string()) refuse("is not a string");
    return value_.get<std::string>();
  }
  bool flag(const char* name) const {
    return value_.is_object() && value_.contains(name) && value_[name].is_boolean() &&
           value_[name].get<bool>();
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(fmt::format("{} {}", place_.empty() ? "the whole" : place_, why));
  }

 private:
  const json& value_;
  std::string place_;
};

/// Documents by text, numbered in its order once all are known.
class Documents {
 public:
  void add(const std::string& text) { numbers_[text] = 0; }
  /// The texts; number() works from then on.
  std::vector<std::string> settle() {
    std::vector<std::string> texts;
    for (auto& [text, number] : numbers_) {
      number = texts.size();
      texts.push_back(text);
    }
    return texts;
  }
  size_t number(const std::string& text) const { return numbers_.at(text); }

 private:
  std::map<std::string, size_t> numbers_;
};

QaData squad_of(const json& file) {
  const auto articles = Node(file, "").field("data").list();
  QaData data;
  Documents documents;
  for (const auto& article : articles)
    for (const auto& paragraph : article.field("paragraphs").list())
      documents.add(paragraph.field("context").text());
  data.documents = documents.settle();
  for (const auto& article : articles) {
    const auto paragraphs = article.field("paragraphs").list();
    std::vector<size_t> of_article;
    of_article.reserve(paragraphs.size());
    for (const auto& paragraph : paragraphs)
      of_article.push_back(documents.number(paragraph.field("context").text()));
    for (size_t p = 0; p < paragraphs.size(); ++p)
      for (const auto& qa : paragraphs[p].field("qas").list()) {
        if (qa.flag("is_impossible")) continue;
        QaQuestion question{.query = qa.field("question").text(), .documents = {of_article[p]}};
        for (const auto& answer : qa.field("answers").list())
          question.answers.push_back(answer.field("text").text());
        if (question.answers.empty()) qa.refuse("has no answers");
        std::copy_if(of_article.begin(), of_article.end(), std::back_inserter(question.related),
                     [&](size_t other) { return other != of_article[p]; });
        data.questions.push_back(std::move(question));
      }
  }
  return data;
}

std::vector<std::string> hotpotqa_documents(const Node& row) {
  std::vector<std::string> texts;
  for (const auto& document : row.field("context").list()) {
    const auto parts = document.list();
    if (parts.size() != 2) document.refuse("is not a title and a list of sentences");
    auto text = parts[0].text() + "\n";
    for (const auto& sentence : parts[1].list()) text += sentence.text();
    texts.push_back(std::move(text));
  }
  return texts;
}

QaData hotpotqa_of(const json& file) {
  const auto rows = Node(file, "").list();
  QaData data;
  Documents documents;
  for (const auto& row : rows)
    for (const auto& text : hotpotqa_documents(row)) documents.add(text);
  data.documents = documents.settle();
  for (const auto& row : rows) {
    QaQuestion question{.query = row.field("question").text(), .answers = {row.field("answer").text()}};
    for (const auto& text : hotpotqa_documents(row)) question.documents.push_back(documents.number(text));
    data.questions.push_back(std::move(question));
  }
  return data;
}

QaData read(const std::string& path, const char* format, QaData (*convert)(const json&)) {
  const auto content_error = [&](const std::string& why) {
    return Error(fmt::format("{}: {}; give {}'s own file", path, why, format));
  };
  const auto file = json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  if (file.is_discarded()) throw content_error("not JSON");
  QaData data;
  try {
    data = convert(file);
  } catch (const Error& e) {
    throw content_error(e.what());
  }
  if (data.questions.empty()) throw content_error("it has no questions");
  return data;
}

}  // namespace

QaData read_squad(const std::string& path) {
  return read(path, "SQuAD", squad_of);
}

QaData read_hotpotqa(const std::string& path) {
  return read(path, "HotpotQA", hotpotqa_of);
}

}  // namespace windowkv::eval::ruler
