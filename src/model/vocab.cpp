#include "windowkv/vocab.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <climits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "backend/backend.h"
#include "model/chat_template.h"
#include "model/gguf_file.h"
#include "model/reasoning.h"
#include "model/special_names.h"
#include "support/blanks.h"
#include "support/bounded_json.h"
#include "support/deep_stack.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

constexpr size_t kMostBytes = INT_MAX / 2;
// Some pre-tokenizers are std::regex, which recurses as often as a run of letters is long.
constexpr size_t kBytesOnAnyStack = 1024;
constexpr size_t kStackBytes = size_t{8} << 20;
constexpr size_t kStackBytesPerByte = 2048;

/// Throws Error if a token is missing that libllama puts around texts: it would abort at the first one.
void check_added_tokens(const llama_vocab* vocab, const std::string& path) {
  const bool wordpiece = llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_WPM;
  auto lacks = [](bool added, Token token) { return added && token == LLAMA_TOKEN_NULL; };
  if (lacks(wordpiece || llama_vocab_get_add_bos(vocab), llama_vocab_bos(vocab)) ||
      lacks(llama_vocab_get_add_eos(vocab), llama_vocab_eos(vocab)) ||
      lacks(wordpiece || llama_vocab_get_add_sep(vocab), llama_vocab_sep(vocab)))
    throw Error(
        path + ": damaged vocabulary: a token that starts or ends texts is missing; download the file again");
}

/// Throws Error for RWKV's tokenizer: libllama's never ends where the text begins like a token and no token
/// is a beginning of the text. Only RWKV models have it, and those have no KV cache.
void check_tokenizer(const llama_vocab* vocab, const std::string& path) {
  const auto type = llama_vocab_type(vocab);
  if (type == LLAMA_VOCAB_TYPE_NONE)
    throw Error(path + ": the file has no vocabulary; give the prompt as token ids");
  if (type == LLAMA_VOCAB_TYPE_RWKV) throw Error(path + ": the tokenizer rwkv is not supported");
}

}  // namespace

void Vocab::ModelFree::operator()(llama_model* model) const {
  llama_model_free(model);
}

Vocab::Vocab(const GgufFile& file, std::function<void(const std::string& line)> warning)
    : warning_(std::move(warning)) {
  const auto& path = file.path();
  capture_ggml_logs();
  const GgmlErrors errors;
  auto params = llama_model_default_params();
  params.vocab_only = true;
  model_.reset(llama_model_load_from_file(path.c_str(), params));
  if (!model_) throw Error(path + ": no usable vocabulary" + errors.in_brackets());
  vocab_ = llama_model_get_vocab(model_.get());
  check_tokenizer(vocab_, path);
  check_added_tokens(vocab_, path);
  names_ = std::make_unique<SpecialNames>(vocab_);
  if (const char* text = llama_model_chat_template(model_.get(), nullptr)) template_ = text;
}

Vocab::~Vocab() = default;

int Vocab::size() const {
  return llama_vocab_n_tokens(vocab_);
}

void Vocab::append(std::vector<Token>& tokens, std::string_view text, bool parse_special) const {
  if (text.empty()) return;
  if (text.size() > kMostBytes) throw Error("the prompt is longer than 1 GiB");
  const auto size = static_cast<int32_t>(text.size());
  std::vector<Token> part(text.size() + 1);
  const int size_of_vocabulary = this->size();
  int32_t count = 0;
  const auto work = [&] {
    const auto tokenize = [&] {
      count = llama_tokenize(vocab_, text.data(), size, part.data(), static_cast<int32_t>(part.size()),
                             /*add_special=*/false, parse_special);
    };
    tokenize();
    if (count >= 0 || count == INT32_MIN) return;
    part.resize(static_cast<size_t>(-count));  // bytes that are not UTF-8 take several tokens
    tokenize();
  };
  try {
    if (text.size() <= kBytesOnAnyStack)
      work();
    else
      with_stack(kStackBytes + text.size() * kStackBytesPerByte, work);
  } catch (const std::bad_alloc&) {
    throw Error(fmt::format("no memory to tokenize {} bytes of text", text.size()));
  } catch (const std::out_of_range&) {
    count = -1;  // libllama looks up each byte's token in a map
  }
  const auto known = [&](Token token) { return token >= 0 && token < size_of_vocabulary; };
  if (count < 0 || !std::all_of(part.begin(), part.begin() + count, known))
    throw Error(
        "the model's vocabulary has no tokens for some bytes of the text; it is damaged, download the file "
        "again");
  tokens.insert(tokens.end(), part.begin(), part.begin() + count);
}

std::vector<Token> Vocab::tokenize(std::string_view text) const {
  std::vector<Token> tokens;
  if (llama_vocab_get_add_bos(vocab_)) tokens.push_back(llama_vocab_bos(vocab_));
  append(tokens, text, /*parse_special=*/true);
  return tokens;
}

std::vector<Token> Vocab::tokenize(const PromptText& prompt) const {
  const std::string_view text = prompt.text;
  if (prompt.literal.empty()) return tokenize(text);
  auto tokens = tokenize("");
  // libllama reads names everywhere or nowhere: it gets what lies between those that stand for tokens.
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    const auto* name = names_->at(text, at);
    if (name == nullptr || std::ranges::binary_search(prompt.literal, at)) {
      ++at;
      continue;
    }
    const auto strips = llama_vocab_get_attr(vocab_, name->token);
    auto before = text.substr(done, at - done);
    if ((strips & LLAMA_TOKEN_ATTR_LSTRIP) != 0)
      before = before.substr(0, before.find_last_not_of(kBlanks) + 1);
    append(tokens, before, /*parse_special=*/false);
    tokens.push_back(name->token);
    at += name->text.size();
    if ((strips & LLAMA_TOKEN_ATTR_RSTRIP) != 0)
      at = std::min(text.find_first_not_of(kBlanks, at), text.size());
    done = at;
  }
  append(tokens, text.substr(done), /*parse_special=*/false);
  return tokens;
}

std::vector<size_t> Vocab::special_names(std::string_view text) const {
  std::vector<size_t> found;
  for (size_t at = 0; at < text.size(); ++at)
    if (names_->at(text, at) != nullptr) found.push_back(at);
  return found;
}

std::string Vocab::piece(Token token, bool special) const {
  char buffer[256];
  int32_t size = llama_token_to_piece(vocab_, token, buffer, sizeof buffer, 0, special);
  if (size >= 0) return {buffer, static_cast<size_t>(size)};
  std::string big(static_cast<size_t>(-size), '\0');
  llama_token_to_piece(vocab_, token, big.data(), -size, 0, special);
  return big;
}

std::string Vocab::text(const std::vector<Token>& tokens, bool special) const {
  std::string out;
  for (auto token : tokens) out += piece(token, special);
  return out;
}

bool Vocab::is_end(Token token) const {
  return llama_vocab_is_eog(vocab_, token);
}

std::vector<Token> Vocab::control_tokens(std::string_view text) const {
  std::vector<Token> found;
  for (const auto token : tokenize(text)) {
    const auto name = piece(token, /*special=*/true);
    // Behind a BOS that nobody wrote.
    if (!name.empty() && piece(token).empty() && text.find(name) != std::string_view::npos)
      found.push_back(token);
  }
  return found;
}

void Vocab::check_chat_template(const std::string& chat_template) {
  check_template(chat_template);
}

std::vector<std::string> Vocab::chat_template_names() {
  return known_template_names();
}

namespace {

using Json = nlohmann::ordered_json;
using OnText = std::function<void(std::string& text)>;

/// The JSON with each of its texts, keys too, changed.
Json with_texts(const Json& json, const OnText& change) {
  if (json.is_string()) {
    auto text = json.get<std::string>();
    change(text);
    return text;
  }
  if (json.is_array()) {
    auto out = Json::array();
    for (const auto& element : json) out.push_back(with_texts(element, change));
    return out;
  }
  if (!json.is_object()) return json;
  auto out = Json::object();
  for (const auto& [key, value] : json.items()) {
    auto name = key;
    change(name);
    out[name] = with_texts(value, change);
  }
  return out;
}

/// Changes JSON by its texts, which escapes may hide, and what is no JSON as a whole.
void change_json(std::string& text, const OnText& change) {
  try {
    text = with_texts(parse_bounded_json(text), change).dump();
  } catch (const Error&) {
    change(text);
  }
}

/// A conversation and the tools that it may use.
struct Chat {
  std::vector<ChatMessage> messages;
  std::string tools, variables;

  /// Calls `f` on all that somebody wrote.
  void for_texts(const OnText& f) {
    for (auto& message : messages) {
      f(message.content);
      f(message.reasoning);
      f(message.tool_call_id);
      for (auto& call : message.tool_calls) {
        f(call.id);
        f(call.name);
        change_json(call.arguments, f);
      }
    }
    for (auto* json : {&tools, &variables})
      if (!json->empty()) change_json(*json, f);
  }
};

/// One of Unicode's noncharacters that is in none of the texts.
std::string unused_mark(Chat& chat, const std::string& source) {
  for (char last = '\x90'; last <= '\xAF'; ++last) {  // U+FDD0 to U+FDEF
    std::string mark = std::string("\xEF\xB7") + last;
    bool used = source.find(mark) != std::string::npos;
    chat.for_texts([&](const std::string& text) { used = used || text.find(mark) != std::string::npos; });
    if (!used) return mark;
  }
  throw Error("the messages hold all of Unicode's noncharacters U+FDD0 to U+FDEF");
}

PromptText without_marks(const std::string& text, const std::string& mark) {
  PromptText out;
  size_t done = 0;
  for (size_t at; (at = text.find(mark, done)) != std::string::npos; done = at + mark.size()) {
    out.text.append(text, done, at - done);
    out.literal.push_back(out.text.size());
  }
  out.text.append(text, done);
  return out;
}

}  // namespace

PromptText Vocab::apply_chat_template(const std::vector<ChatMessage>& messages,
                                      const std::string& chat_template, const std::string& tools,
                                      const std::string& variables) const {
  const auto& source = chat_template.empty() ? template_ : chat_template;
  if (source.empty()) throw Error("the model has no chat template; give one, or use the text as it is");
  // A mark before each name in the messages lasts through the template, which may trim, split or move them.
  Chat chat{messages, tools, variables};
  // What clients send back as it came is told apart here; the mark would stand in the template's way.
  if (source.find("</think>") != std::string::npos)
    for (auto& message : chat.messages)
      if (message.role == "assistant" && message.reasoning.empty()) {
        auto parts = split_reasoning(reasoning_format(""), message.content, /*inside=*/false);
        message.reasoning = std::move(parts.reasoning);
        if (!message.reasoning.empty()) message.content = std::move(parts.content);
      }
  const auto mark = unused_mark(chat, source);
  chat.for_texts([&](std::string& text) {
    const auto found = special_names(text);
    for (auto at = found.rbegin(); at != found.rend(); ++at) text.insert(*at, mark);
  });
  auto special_text = [&](Token token) { return token < 0 ? std::string() : piece(token, true); };
  const auto bos = special_text(llama_vocab_bos(vocab_));
  auto text = apply({source, bos, special_text(llama_vocab_eos(vocab_)), chat.variables}, chat.messages,
                    chat.tools, warning_);
  // tokenize() adds BOS where the model wants it; a template that writes it too would double it.
  if (!bos.empty() && llama_vocab_get_add_bos(vocab_) && text.starts_with(bos)) text.erase(0, bos.size());
  return without_marks(text, mark);
}

}  // namespace windowkv
