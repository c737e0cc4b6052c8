#pragma once

#include <string>
#include <vector>

namespace windowkv::eval::ruler {

struct QaQuestion {
  std::string query;
  std::vector<std::string> answers;
  std::vector<size_t> documents;  ///< that the answer is in, or that come with the question
  std::vector<size_t> related;    ///< taken before others as further documents
};

/// Questions in the order of the file, and the documents of all, each once, in order of their text.
struct QaData {
  std::vector<std::string> documents;
  std::vector<QaQuestion> questions;
};

/// SQuAD's JSON (v2.0, or v1.1). Documents are paragraphs, related ones those of the same article; questions
/// that cannot be answered are left out. Throws Error, with the place in the file, for anything else.
QaData read_squad(const std::string& path);

/// HotpotQA's JSON. Documents are "{title}\n{sentences}"; a question's are the ten that come with it. Throws
/// Error likewise.
QaData read_hotpotqa(const std::string& path);

}  // namespace windowkv::eval::ruler
