#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/eval_report.h"
#include "eval/niah.h"
#include "windowkv/vocab.h"

namespace windowkv::cli {

/// What the flags stand for, once files are read.
struct NiahInputs {
  eval::NiahGrid grid;
  eval::NeedleSource needles;
  std::string haystack;
  std::string haystack_path;
};

/// The needle test's flags, of `niah` itself and, with a prefix, of commands that take it as one suite more.
struct NiahFlags {
  std::vector<int64_t> lengths;
  std::string depths = "11";
  std::string needle_set = "san-francisco";
  eval::Needle needle;
  std::string haystack;
  bool no_chat = false;
  uint64_t seed = 0;
  int samples = 1;
  int64_t predict = 64;

  /// `prefix`: "" or what stands before every name, "niah-"; short names only without.
  void add_to(CLI::App& app, const std::string& prefix);
  /// Throws Error for depths, texts and files that cannot be used.
  NiahInputs read() const;
  bool chat(const Vocab& vocab) const { return !no_chat && vocab.has_chat_template(); }
  /// Throws Error where the shortest prompt has no room for its needle; warns of lengths past the model's.
  eval::NiahPrompts prompts(const Model& model, const NiahInputs& inputs) const;
  /// A hash of all that an answer depends on beside model, policy, length, depth and seed.
  std::string setup(const Vocab& vocab, const NiahInputs& inputs) const;
  /// For reports.
  Facts facts(const Vocab& vocab, const NiahInputs& inputs) const;

 private:
  std::vector<const CLI::Option*> own_needle_;  // --needle, --question, --answer
};

}  // namespace windowkv::cli
