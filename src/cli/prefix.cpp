// windowkv prefix: what saved prefixes hold, and which model they are for.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/report.h"
#include "support/utf8.h"
#include "windowkv/error.h"
#include "windowkv/prefix_store.h"

namespace windowkv::cli {

namespace {

using nlohmann::ordered_json;

/// Ids shown of either end, and tokens whose text is.
constexpr size_t kIds = 8, kTextTokens = 24;

struct PrefixFlags {
  std::string action;
  std::string file;
  std::string model;
  bool json = false;
};

using Tokens = std::vector<Token>;

Tokens first_of(const Tokens& tokens, size_t count) {
  return {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(std::min(count, tokens.size()))};
}

Tokens last_of(const Tokens& tokens, size_t count) {
  return {tokens.end() - static_cast<std::ptrdiff_t>(std::min(count, tokens.size())), tokens.end()};
}

/// On one line, without halves of characters at its ends.
std::string shown(std::string text) {
  text.erase(0, static_cast<size_t>(std::ranges::find_if(text, [](char c) { return (c & 0xC0) != 0x80; }) -
                                    text.begin()));
  text.resize(text.size() - utf8_incomplete_tail(text));
  for (auto& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return text;
}

/// What only a model can tell of a saved prefix.
struct WithModel {
  std::string misfit;  ///< why it cannot be used with the model; "" where it can
  bool text = false;   ///< whether the model's vocabulary is the tokens'
  std::string begins;
  std::string ends;
};

WithModel ask_model(const std::string& model_path, const std::string& file, const PrefixFileInfo& info) {
  // Nothing is computed: the weights stay where they lie.
  ModelOptions options{.device = "cpu", .threads = 1, .blas = false, .repack = false, .calibration = "none"};
  options.warning = warn;
  const auto model = Model::load(model_path, options);
  WithModel out;
  try {
    PrefixStore::load(*model, file);
  } catch (const Error& e) {
    out.misfit = e.what();
  }
  const auto* vocab = model->find_vocab();
  out.text = vocab != nullptr && info.fingerprint == model->hparams().fingerprint &&
             std::ranges::max(info.tokens) < vocab->size();
  if (!out.text) return out;
  out.begins = shown(vocab->text(first_of(info.tokens, kTextTokens), /*special=*/true));
  out.ends = shown(vocab->text(last_of(info.tokens, kTextTokens), /*special=*/true));
  return out;
}

void show_json(const PrefixFlags& flags, const PrefixFileInfo& info) {
  ordered_json json = {{"file", flags.file},
                       {"model",
                        {{"name", info.model},
                         {"family", info.family},
                         {"fingerprint", info.fingerprint},
                         {"weight_type", info.weight_type},
                         {"layers", info.n_layer},
                         {"kv_heads", info.n_head_kv},
                         {"head_size", info.d_head}}},
                       {"types", {{"k", to_string(info.types.k)}, {"v", to_string(info.types.v)}}},
                       {"tokens", info.tokens.size()},
                       {"snapshots", info.snapshots},
                       {"bytes", info.bytes},
                       {"checksums_match", true},
                       {"first_ids", first_of(info.tokens, kIds)},
                       {"last_ids", last_of(info.tokens, kIds)}};
  if (!flags.model.empty()) {
    const auto with = ask_model(flags.model, flags.file, info);
    json["fits"] = with.misfit.empty();
    if (!with.misfit.empty()) json["why_not"] = with.misfit;
    if (with.text) json.update({{"begins", with.begins}, {"ends", with.ends}});
  }
  print(json_text(json, 2));
}

void show(const PrefixFlags& flags) {
  const auto info = read_prefix_info(flags.file);
  if (flags.json) return show_json(flags, info);
  std::string text;
  const auto line = [&](const char* name, const std::string& value) {
    text += fmt::format("{:<18}{}\n", name, value);
  };
  const auto count = static_cast<int64_t>(info.tokens.size());
  line("model", info.model.empty() ? "without a name" : info.model);
  line("family", info.family);
  line("weights", "mostly " + info.weight_type);
  line("fingerprint", info.fingerprint);
  line("layers", fmt::format("{}", info.n_layer));
  line("heads", fmt::format("{} KV heads, head size {}", info.n_head_kv, info.d_head));
  line("types", fmt::format("K {}, V {}", to_string(info.types.k), to_string(info.types.v)));
  line("tokens", fmt::format("{}", count));
  if (!info.snapshots.empty())
    line("snapshots", fmt::format("of recurrent layers, after {} tokens", fmt::join(info.snapshots, ", ")));
  line("size", fmt::format("{}, {} per token", bytes_text(info.bytes), bytes_text(info.bytes / count)));
  line("checksums", "match");
  line("first ids", fmt::format("{}", fmt::join(first_of(info.tokens, kIds), ", ")));
  line("last ids", fmt::format("{}", fmt::join(last_of(info.tokens, kIds), ", ")));
  if (!flags.model.empty()) {
    const auto with = ask_model(flags.model, flags.file, info);
    if (with.text) {
      line("begins", fmt::format("\"{}\"", with.begins));
      line("ends", fmt::format("\"{}\"", with.ends));
    }
    line("fits", with.misfit.empty() ? "yes: this model can use it" : "no: " + with.misfit);
  }
  print(text);
}

}  // namespace

void add_prefix(CLI::App& app) {
  auto flags = std::make_shared<PrefixFlags>();
  auto* command = app.add_subcommand("prefix", "Show what a saved prefix holds");
  command->footer(
      "A saved prefix holds K and V of all tokens of a prompt. A later prompt that begins with the same\n"
      "tokens is answered without computing them again, by the model that made it and with the same\n"
      "weights. All checksums are verified before anything is shown; a file that is damaged or truncated\n"
      "ends the command with exit code 1 and a line that says what is wrong.\n"
      "Examples:\n"
      "  windowkv prefix show book.prefix\n"
      "  windowkv prefix show book.prefix -m model.gguf          whether it fits, and how the text begins\n"
      "  windowkv prefix show book.prefix -m model.gguf --json | jq .fits\n"
      "See docs/prefix-store.md for the format.");
  command->add_option("ACTION", flags->action, "show")->required()->check(CLI::IsMember({"show"}));
  command->add_option("FILE", flags->file, "the saved prefix")->required()->type_name("FILE");
  command
      ->add_option("-m,--model", flags->model,
                   "a GGUF model: says whether the prefix fits it, and shows the first and last words")
      ->type_name("FILE");
  command->add_flag("--json", flags->json, "print JSON");
  command->callback([flags] { show(*flags); });
}

}  // namespace windowkv::cli
