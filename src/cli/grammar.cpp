#include "cli/grammar.h"

#include <llama.h>
#include <unistd.h>

#include <cstdio>

#include "backend/backend.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

/// What `work` writes to standard error, where libllama's parser says what it does not understand.
template <typename F>
std::string stderr_of(F&& work) {
  std::FILE* file = std::tmpfile();
  const int terminal = dup(STDERR_FILENO);
  if (file == nullptr || terminal < 0) {
    work();
    return "";
  }
  std::fflush(stderr);
  dup2(fileno(file), STDERR_FILENO);
  work();
  std::fflush(stderr);
  dup2(terminal, STDERR_FILENO);
  close(terminal);
  std::string text(4096, '\0');
  std::rewind(file);
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  return text;
}

/// "parse: error parsing grammar: expecting ')' at \n\nroot ::= (" as one line.
std::string reason(const std::string& said) {
  static constexpr std::string_view kBefore = "error parsing grammar: ";
  const auto at = said.find(kBefore);
  if (at == std::string::npos) return said.substr(0, said.find('\n'));
  auto line = said.substr(at + kBefore.size(), said.find("\n\n", at) - at - kBefore.size());
  for (auto& c : line)
    if (c == '\n') c = ' ';
  if (line.ends_with(" at ")) line += "its end";
  return line.size() > 160 ? line.substr(0, 160) + "..." : line;
}

}  // namespace

void check_grammar(const std::string& grammar, const Vocab* vocab) {
  capture_ggml_logs();
  const GgmlErrors errors;
  llama_sampler* sampler = nullptr;
  auto said = stderr_of([&] {
    sampler =
        llama_sampler_init_grammar(vocab == nullptr ? nullptr : vocab->handle(), grammar.c_str(), "root");
  });
  if (sampler != nullptr) {
    llama_sampler_free(sampler);
    return;
  }
  if (said.empty()) said = errors.first();
  if (vocab == nullptr && said.find("no vocab") != std::string::npos) return;
  throw Error("the grammar cannot be read: " + reason(said));
}

}  // namespace windowkv::cli
