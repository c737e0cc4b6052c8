#include "windowkv/conversation.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "model/reasoning.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

/// Tokens that an answer should have room for before turns are dropped.
constexpr int64_t kAnswerRoom = 256;

using Json = nlohmann::json;

std::string annotation_of(const ConversationOptions& options, const std::vector<ChatMessage>& messages) {
  Json turns = Json::array();
  for (const auto& message : messages)
    turns.push_back({{"role", message.role}, {"content", message.content}, {"reasoning", message.reasoning}});
  return Json{
      {"conversation", {{"system", options.system}, {"document", options.document}, {"messages", turns}}}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

Conversation::Conversation(Engine& engine, const Model& model, ConversationOptions options,
                           std::optional<PrefixStore> store)
    : engine_(engine), model_(model), options_(std::move(options)), store_(std::move(store)) {
  if (!model.vocab().has_chat_template() && options_.chat_template.empty())
    throw Error(model.path() + ": the model has no chat template; name one with --chat-template, or use run");
}

Conversation::~Conversation() = default;

int64_t Conversation::context() const {
  return options_.context > 0 ? options_.context : model_.hparams().n_ctx_train;
}

PromptText Conversation::text_of(const std::vector<ChatMessage>& messages) const {
  std::vector<ChatMessage> all;
  if (!options_.system.empty()) all.push_back({"system", options_.system});
  all.insert(all.end(), messages.begin(), messages.end());
  if (!options_.document.empty()) {
    auto& first = all[options_.system.empty() ? 0 : 1].content;
    first = first.empty() ? options_.document : options_.document + "\n\n" + first;
  }
  return model_.vocab().apply_chat_template(all, options_.chat_template, "", options_.variables);
}

PrefillOptions Conversation::prefill_options() {
  PrefillOptions options;
  options.store = store_ ? &*store_ : nullptr;
  options.cancelled = options_.generate.cancelled;
  options.progress = options_.progress;
  return options;
}

std::vector<Token> Conversation::document_tokens() const {
  // What two prompts have in common: a document may end within a token.
  const auto& vocab = model_.vocab();
  const auto one = vocab.tokenize(text_of({{"user", "a"}})), other = vocab.tokenize(text_of({{"user", "?"}}));
  return {one.begin(), std::ranges::mismatch(one, other).in1};
}

void Conversation::read_document() {
  if (options_.document.empty() || !store_) return;
  const auto common = document_tokens();
  if (static_cast<int64_t>(common.size()) >= context())
    throw Error(
        fmt::format("the document has {} tokens and does not fit in a context of {}; shorten it, or "
                    "raise -c",
                    common.size(), context()));
  Sequence sequence;  // of which nothing is needed but what the store gets
  const auto policy = make_policy("streaming-llm", {Budget::tokens(1), {}});
  auto options = prefill_options();
  options.expected_common = std::ssize(common);
  engine_.prefill(sequence, common, *policy, options);
}

const Conversation::Turn& Conversation::ask(const std::string& question) {
  auto messages = messages_;
  messages.push_back({"user", question});
  Turn turn;
  const int64_t most = options_.generate.max_tokens;
  const int64_t room = std::min(most < 0 ? kAnswerRoom : most, kAnswerRoom);
  PromptText text;
  for (;;) {
    text = text_of(messages);
    turn.prompt = model_.vocab().tokenize(text);
    const auto n = static_cast<int64_t>(turn.prompt.size());
    if (n + room <= context()) break;
    if (messages.size() > 1) {
      messages.erase(messages.begin(), messages.begin() + std::min<ptrdiff_t>(2, std::ssize(messages) - 1));
      ++turn.dropped;
    } else if (n >= context()) {
      throw Error(
          fmt::format("the question{} has {} tokens and does not fit in a context of {}; shorten it, or "
                      "raise -c",
                      options_.document.empty() ? "" : ", with the document before it,", n, context()));
    } else {
      break;
    }
  }
  turn_.reset();  // its cache makes room
  const auto n = static_cast<int64_t>(turn.prompt.size());
  turn.policy = options_.policy(question);
  auto generate_options = options_.generate;
  generate_options.max_tokens = most < 0 ? context() - n : std::min(most, context() - n);
  auto prefill = prefill_options();
  prefill.reserve = std::min(generate_options.max_tokens, kAnswerRoom);
  const auto logits = engine_.prefill(turn.sequence, turn.prompt, *turn.policy, prefill);
  const auto& format = reasoning_format(options_.chat_template.empty() ? model_.vocab().chat_template()
                                                                       : options_.chat_template);
  const bool inside = ends_in_reasoning(format, text.text) && options_.generate.sampling.grammar.empty();
  ReasoningSplitter splitter(format, inside);
  const auto tell = [&](const ReasoningSplitter::Parts& parts) {
    if (!parts.reasoning.empty()) options_.on_reasoning(parts.reasoning);
    if (!parts.content.empty() && options_.generate.on_text) options_.generate.on_text(parts.content);
  };
  if (options_.on_reasoning) {
    generate_options.spelled = reasoning_tokens(format, model_.vocab());
    generate_options.on_text = [&](std::string_view part) { tell(splitter.push(part)); };
  }
  turn.generation = generate(engine_, &model_.vocab(), turn.sequence, logits, turn.prompt, generate_options);
  ChatMessage answer{"assistant", turn.generation.text};
  if (options_.on_reasoning) {
    tell(splitter.finish());
    auto parts = split_reasoning(format, answer.content, inside);
    answer.content = std::move(parts.content);
    answer.reasoning = std::move(parts.reasoning);
  }
  messages.push_back(std::move(answer));
  messages_ = std::move(messages);
  return turn_.emplace(std::move(turn));
}

void Conversation::clear() {
  messages_.clear();
  turn_.reset();
}

void Conversation::save(const std::string& path) const {
  if (!store_) throw Error("there is nothing to save without a prefix store");
  if (messages_.empty()) throw Error("there is nothing to save yet");
  store_->save(path, annotation_of(options_, messages_));
}

void Conversation::load(const std::string& path) {
  auto store = PrefixStore::load(model_, path, store_ ? store_->options() : PrefixStoreOptions{});
  try {
    const auto saved = Json::parse(store.annotation()).at("conversation");
    std::vector<ChatMessage> messages;
    for (const auto& message : saved.at("messages"))
      messages.push_back({message.at("role"), message.at("content"), {}, "", message.value("reasoning", "")});
    const std::string system = saved.at("system"), document = saved.at("document");
    if (messages.size() % 2 != 0) throw Error("");
    messages_ = std::move(messages);
    options_.system = system;
    options_.document = document;
  } catch (const std::exception&) {
    throw Error(path + ": holds no conversation; start with --prefix and the same -f to go on from it");
  }
  store_ = std::move(store);
  turn_.reset();
}

}  // namespace windowkv
