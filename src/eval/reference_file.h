#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/jsonl_log.h"
#include "eval/longbench.h"
#include "windowkv/kv_type.h"

namespace windowkv::eval {

/// The full cache's answers to prompts, kept between runs as JSON lines (docs/fidelity.md). An answer is only
/// found for the same prompt, to the token, the same model, KV types, length and stop rules.
class ReferenceFile {
 public:
  struct Answer {
    std::vector<Token> tokens;
    std::string text;
  };

  /// Opens or makes the file. Throws Error as JsonlLog does.
  ReferenceFile(const std::string& path, std::string model_hash, KvTypes types);

  /// None where the file has no answer to it. Throws Error for a row that is damaged.
  std::optional<Answer> find(const Sample& sample, std::span<const Token> prompt) const;
  /// Is on disk when this returns.
  void add(const Sample& sample, std::span<const Token> prompt, const Answer& answer);

 private:
  std::string key_of(const Sample& sample, std::span<const Token> prompt) const;

  std::string path_;
  std::string model_hash_;
  std::string types_;
  JsonlLog log_;
};

}  // namespace windowkv::eval
