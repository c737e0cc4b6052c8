#include "server/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/checks.h"
#include "windowkv/error.h"
#include "windowkv/sampler.h"

namespace windowkv::server {

namespace {

/// Texts from this many bytes on are tokenized one at a time.
constexpr size_t kLongText = 64 << 10;
/// What the grammar's parser, which recurses, can take.
constexpr size_t kLongestGrammar = 64 << 10;
constexpr int kDeepestGrammar = 256;

void check_grammar(const std::string& grammar) {
  int depth = 0;
  int deepest = 0;
  for (const char c : grammar) {
    depth += c == '(' ? 1 : c == ')' ? -1 : 0;
    deepest = std::max(deepest, depth);
  }
  if (grammar.size() > kLongestGrammar || deepest > kDeepestGrammar)
    throw ApiError(400, "the grammar is too long or nested too deeply", "grammar");
}

}  // namespace

const std::string& Service::chat_template() const {
  return options_.chat_template.empty() && model_.vocab().has_chat_template() ? model_.vocab().chat_template()
                                                                              : options_.chat_template;
}

Service::Service(const Model& model, ServiceOptions options)
    : model_(model),
      options_(std::move(options)),
      calls_(call_format(chat_template())),
      reasoning_(reasoning_format(chat_template())),
      reasoning_tokens_(reasoning_tokens(reasoning_, model.vocab())),
      prefixes_(model, options_.prefixes),
      batcher_(model, options_.batcher, prefixes_, metrics_) {
  for (Token token = 0; token < model.hparams().n_vocab; ++token)
    longest_piece_ = std::max(longest_piece_, vocab().piece(token, /*special=*/true).size());
  for (const auto& mark : call_marks()) {
    const auto tokens = vocab().control_tokens(mark);
    call_tokens_.insert(call_tokens_.end(), tokens.begin(), tokens.end());
  }
}

CompletionRequest Service::parse(const Json& body, bool chat) const {
  auto request = parse_completion(body, chat, options_.generate, calls_);
  auto& spelled = request.generate.spelled;
  if (chat) spelled = reasoning_tokens_;
  if (request.tools.active()) spelled.insert(spelled.end(), call_tokens_.begin(), call_tokens_.end());
  return request;
}

std::vector<Token> Service::tokenize(const PromptText& text) const {
  const auto most = static_cast<size_t>(options_.context) * longest_piece_;
  if (text.text.size() > most)
    throw ApiError(400,
                   fmt::format("the text has {} bytes, at least {} tokens; the context is {}",
                               text.text.size(), text.text.size() / longest_piece_, options_.context),
                   "", "context_length_exceeded");
  std::unique_lock lock(tokenizing_, std::defer_lock);
  if (text.text.size() > kLongText) lock.lock();
  return vocab().tokenize(text);
}

PromptText Service::chat_text(const std::vector<ChatMessage>& messages, const ToolRequest& tools,
                              const std::string& variables) const {
  if (!vocab().has_chat_template() && options_.chat_template.empty())
    throw ApiError(400, "the model has no chat template; use /v1/completions, or start with --chat-template");
  try {
    auto all = options_.template_variables;
    if (!variables.empty()) {
      auto names = all.empty() ? Json::object() : Json::parse(all);
      names.update(Json::parse(variables));
      all = names.dump();
    }
    return vocab().apply_chat_template(messages, options_.chat_template, tools.json, all);
  } catch (const Error& e) {
    throw ApiError(400, e.what(), "messages");
  }
}

void Service::check(const CompletionRequest& request) const {
  const int n_vocab = model_.hparams().n_vocab;
  for (const auto& [token, bias] : request.generate.sampling.logit_bias)
    if (token >= n_vocab)
      throw ApiError(400, fmt::format("logit_bias names token {}; there are {}", token, n_vocab),
                     "logit_bias");
  if (request.generate.sampling.grammar.empty()) return;
  if (request.own_grammar && !options_.grammars)
    throw ApiError(
        400,
        "grammars of requests are off, as one can be written that stops the server; --allow-grammars "
        "turns them on, and response_format takes JSON schemas",
        "grammar");
  check_grammar(request.generate.sampling.grammar);
  try {
    const Sampler sampler(request.generate.sampling, n_vocab, {}, &vocab());
  } catch (const Error& e) {
    throw ApiError(400, e.what(), "grammar");
  }
}

std::vector<Service::Prompt> Service::prompts_of(const CompletionRequest& request) const {
  std::vector<Prompt> prompts;
  try {
    if (request.chat) {
      const auto last =
          std::ranges::find(request.messages.rbegin(), request.messages.rend(), "user", &ChatMessage::role);
      const auto text = chat_text(request.messages, request.tools, request.variables);
      Prompt prompt{tokenize(text), last != request.messages.rend() ? last->content : ""};
      if (request.reasoning_format ? parse_reasoning_format(*request.reasoning_format)
                                   : options_.split_reasoning)
        prompt.reasoning = &reasoning_;
      // A grammar leaves no room for reasoning to end.
      prompt.ends_in_reasoning =
          request.generate.sampling.grammar.empty() && windowkv::ends_in_reasoning(reasoning_, text.text);
      prompts.push_back(std::move(prompt));
    }
    for (const auto& prompt : request.prompts) {
      if (const auto* text = std::get_if<std::string>(&prompt)) {
        prompts.push_back({tokenize({*text, {}}), *text});
      } else {
        const auto& ids = std::get<std::vector<Token>>(prompt);
        check_tokens(ids, model_.hparams());
        prompts.push_back({ids, vocab().text(ids)});
      }
    }
  } catch (const Error& e) {
    throw ApiError(400, e.what(), request.chat ? "messages" : "prompt");
  }
  return prompts;
}

std::vector<std::shared_ptr<Job>> Service::submit(const CompletionRequest& request, const std::string& owner,
                                                  const std::string& id) {
  check(request);
  std::vector<std::shared_ptr<Job>> jobs;
  for (auto& prompt : prompts_of(request)) {
    const auto n = std::ssize(prompt.tokens);
    const bool nothing = request.generate.max_tokens == 0;
    if (n == 0) throw ApiError(400, "the prompt is empty", request.chat ? "messages" : "prompt");
    if (n + (nothing ? 0 : 1) > options_.context)
      throw ApiError(400,
                     fmt::format("the prompt has {} tokens; it and its answer must fit in a context of {}", n,
                                 options_.context),
                     request.chat ? "messages" : "prompt", "context_length_exceeded");
    auto job = std::make_shared<Job>();
    job->id = id;
    job->owner = owner;
    try {
      job->policy = options_.policy(request.kv, prompt.text, job->task);
    } catch (const Error& e) {
      throw ApiError(400, e.what(), "kv");
    }
    job->prompt = std::move(prompt.tokens);
    job->generate = request.generate;
    job->reasoning = prompt.reasoning;
    job->ends_in_reasoning = prompt.ends_in_reasoning;
    const auto most = options_.context - n;
    auto& wanted = job->generate.max_tokens;
    wanted = wanted < 0 ? most : std::min(wanted, most);
    job->show_kept = request.kv.show_kept;
    job->choices = request.choices;
    job->top_logprobs = request.top_logprobs;
    job->prompt_logprobs = request.echo && request.top_logprobs >= 0;
    jobs.push_back(std::move(job));
  }
  try {
    for (const auto& job : jobs) batcher_.submit(job);
  } catch (const ApiError&) {
    for (const auto& job : jobs) job->answer->give_up();
    throw;
  }
  return jobs;
}

}  // namespace windowkv::server
