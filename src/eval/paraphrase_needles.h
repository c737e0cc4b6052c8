#pragma once

#include <span>

namespace windowkv::eval {

/// A fact and a question for it in other words: they share none but stop words, so that the fact cannot be
/// found by matching words (the idea of NoLiMa, arXiv:2502.05167). The answer stands in the sentence.
struct ParaphrasePair {
  const char* sentence;
  const char* question;
  const char* answer;
};

std::span<const ParaphrasePair> paraphrase_pairs();

}  // namespace windowkv::eval
