// Rows of LongBench's, their own and RULER's kind. The first byte says what their file is called.
#include <array>

#include "eval/longbench.h"
#include "input.h"

using namespace windowkv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::array files = {fuzz::InputFile("rows.jsonl"), fuzz::InputFile("qasper.jsonl"),
                                   fuzz::InputFile("qasper_e.jsonl"), fuzz::InputFile("vt.jsonl")};
  if (size == 0) return 0;
  const auto text = fuzz::text_of(data + 1, size - 1);
  fuzz::refuse_or([&] {
    const auto paths = {files[*data % files.size()].fill(text)};
    const auto loaded = eval::load_samples(paths);
    for (const auto& sample : loaded.samples)
      for (const std::string_view prediction : {std::string_view(sample.answers.front()), text}) {
        const double score = eval::score(sample, prediction);
        fuzz::require(score >= 0 && score <= 100, "a score out of range");
      }
    loaded.broken_files();
  });
  return 0;
}
