#include <fmt/format.h>

#include <set>

#include "eval/ruler/drafts.h"
#include "windowkv/error.h"

namespace windowkv::eval::ruler {

namespace {

constexpr std::string_view kInstruction =
    "Answer the question based on the given documents. Only give me the answer and do not output any other "
    "words.";

/// The question's own documents, those related to it and all others, the latter two in random order: as many
/// as a sample needs are taken from the front.
std::vector<size_t> order_of(const QaData& data, const QaQuestion& question, Random random) {
  auto order = question.documents;
  auto related = question.related;
  random.shuffle(related);
  order.insert(order.end(), related.begin(), related.end());
  const std::set<size_t> taken(order.begin(), order.end());
  std::vector<size_t> others;
  for (size_t i = 0; i < data.documents.size(); ++i)
    if (!taken.contains(i)) others.push_back(i);
  random.shuffle(others);
  order.insert(order.end(), others.begin(), others.end());
  return order;
}

}  // namespace

Draft draft_qa(const QaData& data, const Request& request) {
  const auto index = static_cast<size_t>(request.index);
  if (index >= data.questions.size())
    throw Error(fmt::format("the file has only {} questions", data.questions.size()));
  const auto& asked = data.questions[index];
  return {.min_units = static_cast<int64_t>(asked.documents.size()),
          .text = [&data, &asked, order = order_of(data, asked, request.random("documents")),
                   shuffling = request.random("order")](int64_t units) -> Text {
            std::vector<size_t> documents;
            for (size_t i = 0; i < static_cast<size_t>(units); ++i)
              documents.push_back(i < order.size() ? order[i] : (i - order.size()) % data.documents.size());
            auto random = shuffling;
            random.shuffle(documents);
            std::string context;
            for (size_t i = 0; i < documents.size(); ++i)
              context += fmt::format("{}Document {}:\n{}", i == 0 ? "" : "\n\n", i + 1,
                                     data.documents[documents[i]]);
            return {fmt::format("{}\n\nThe following are given documents.\n\n{}\n\n{}\n\nQuestion: {}",
                                kInstruction, context, kInstruction, asked.query),
                    " Answer:", asked.answers};
          }};
}

}  // namespace windowkv::eval::ruler
