// Files of earlier runs and other files of data. The first byte says of which kind: the results of a run and
// the answers of the full cache, prompts, labelled prompts, SQuAD, HotpotQA.
#include <array>

#include "eval/calibration_prompts.h"
#include "eval/jsonl_log.h"
#include "eval/reference_file.h"
#include "eval/ruler/qa_data.h"
#include "eval/task_rows.h"
#include "input.h"

using namespace windowkv;

namespace {

/// The file is read, searched, added to and read again.
void read_results(const std::string& path) {
  const std::vector<Token> prompt = {1, 2, 3};
  eval::Sample sample;
  sample.dataset = "qasper";
  sample.id = "a";
  sample.max_new_tokens = 8;
  const eval::ReferenceFile::Answer answer{{4, 5}, "an answer"};
  const auto rows = eval::JsonlLog(path).rows().size();
  {
    eval::ReferenceFile file(path, "0123456789abcdef", {});
    if (file.find(sample, prompt)) return;
    file.add(sample, prompt, answer);
  }
  const eval::ReferenceFile again(path, "0123456789abcdef", {});
  const auto found = again.find(sample, prompt);
  fuzz::require(found && found->tokens == answer.tokens && found->text == answer.text,
                "an answer that was added is not there");
  fuzz::require(eval::JsonlLog(path).rows().size() == rows + 1, "a row is lost");
}

void check(const eval::ruler::QaData& data) {
  for (const auto& question : data.questions)
    for (const auto* list : {&question.documents, &question.related})
      for (const size_t number : *list)
        fuzz::require(number < data.documents.size(), "a document that is not there");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::InputFile file("rows.jsonl");
  if (size == 0) return 0;
  const auto& path = file.fill(fuzz::text_of(data + 1, size - 1));
  fuzz::refuse_or([&] {
    switch (*data % 5) {
      case 0:
        return read_results(path);
      case 1:
        eval::read_prompts(path);
        return;
      case 2:
        eval::load_task_rows(std::array{path});
        return;
      case 3:
        return check(eval::ruler::read_squad(path));
      default:
        return check(eval::ruler::read_hotpotqa(path));
    }
  });
  return 0;
}
