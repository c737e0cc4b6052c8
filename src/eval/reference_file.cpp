#include "eval/reference_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "support/hash.h"
#include "windowkv/error.h"

namespace windowkv::eval {

ReferenceFile::ReferenceFile(const std::string& path, std::string model_hash, KvTypes types)
    : path_(path),
      model_hash_(std::move(model_hash)),
      types_(fmt::format("{} {}", to_string(types.k), to_string(types.v))),
      log_(path) {}

std::string ReferenceFile::key_of(const Sample& sample, std::span<const Token> prompt) const {
  const auto all = fmt::format("{} | {} | {} | {} | {} | {}", model_hash_, types_, sample.max_new_tokens,
                               sample.newline_ends, fmt::join(sample.stop, "\x1f"), fmt::join(prompt, ","));
  return fmt::format("{}/{} {}", sample.dataset, sample.id, fnv1a64(all));
}

std::optional<ReferenceFile::Answer> ReferenceFile::find(const Sample& sample,
                                                         std::span<const Token> prompt) const {
  const auto key = key_of(sample, prompt);
  const auto* row = log_.find(key);
  if (row == nullptr) return std::nullopt;
  try {
    Answer answer{row->at("answer").get<std::vector<Token>>(), row->at("text").get<std::string>()};
    if (!answer.tokens.empty()) return answer;
  } catch (const nlohmann::json::exception&) {
  }
  throw Error(fmt::format("{}: the line \"{}\" has no answer; delete it", path_, key));
}

void ReferenceFile::add(const Sample& sample, std::span<const Token> prompt, const Answer& answer) {
  log_.append({{"key", key_of(sample, prompt)},
               {"model", model_hash_},
               {"kv_types", types_},
               {"dataset", sample.dataset},
               {"_id", sample.id},
               {"max_new_tokens", sample.max_new_tokens},
               {"prompt", std::vector(prompt.begin(), prompt.end())},
               {"answer", answer.tokens},
               {"text", answer.text}});
}

}  // namespace windowkv::eval
