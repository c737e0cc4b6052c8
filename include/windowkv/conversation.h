#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/engine.h"
#include "windowkv/generate.h"
#include "windowkv/prefix_store.h"

namespace windowkv {

struct ConversationOptions {
  std::string system;         ///< system message; empty: none
  std::string document;       ///< text before the first question; stays when old turns are dropped
  std::string chat_template;  ///< as Vocab::apply_chat_template takes it
  std::string variables;      ///< likewise
  /// Where it is set, it is given what the model thinks before it answers, and `generate.on_text` the answer.
  std::function<void(std::string_view text)> on_reasoning;
  int64_t context = 0;       ///< most tokens of a prompt and its answer; 0: the model's trained context
  GenerateOptions generate;  ///< `cancelled` also stops the reading of a prompt
  /// What a cache keeps, given the question. Called at every turn.
  std::function<std::unique_ptr<Policy>(const std::string& question)> policy;
  /// Of reading a prompt, as PrefillOptions::progress.
  std::function<void(int64_t done, int64_t total)> progress;
};

/// A conversation with a model that has a chat template. With a prefix store each turn reads what it adds and
/// the previous answer, and chooses from everything before; without one it reads everything again. The
/// engine, and the model it was made for, must outlive it. One call at a time.
class Conversation {
 public:
  /// Throws Error where the model has no chat template and the options name none.
  Conversation(Engine& engine, const Model& model, ConversationOptions options,
               std::optional<PrefixStore> store);
  ~Conversation();

  /// What prompts of a conversation about the document begin with, whatever is asked.
  std::vector<Token> document_tokens() const;
  /// Reads the document and the system message before there is a question, so that the first one is answered
  /// sooner. Does nothing without a document or a store. Throws Error where they do not fit.
  void read_document();

  /// What a turn left.
  struct Turn {
    std::vector<Token> prompt;
    std::unique_ptr<Policy> policy;
    Sequence sequence;
    Generation generation;
    int dropped = 0;  ///< old turns that were dropped to make room
  };
  /// Answers. The oldest turns are dropped, question and answer, where the conversation does not fit in the
  /// context. Throws Error, and leaves the conversation as it was, where the question alone does not fit, and
  /// Cancelled where the reading was stopped; an answer that was stopped stays as it is. The turn is good
  /// until the next call.
  const Turn& ask(const std::string& question);

  /// Forgets all turns, but not the system message and the document.
  void clear();
  void set_system(std::string system) { options_.system = std::move(system); }

  /// The last turn; null before the first.
  const Turn* last() const { return turn_ ? &*turn_ : nullptr; }
  /// Questions and answers.
  const std::vector<ChatMessage>& messages() const { return messages_; }
  /// Null without one.
  const PrefixStore* store() const { return store_ ? &*store_ : nullptr; }

  /// Writes the store with the conversation (PrefixStore::save). Throws Error without a store or a turn.
  void save(const std::string& path) const;
  /// Goes on with a saved conversation in place of this one: its system message, document, turns and store.
  /// Throws Error, and leaves this one as it was, for a file that cannot be used or holds no conversation.
  void load(const std::string& path);

 private:
  PromptText text_of(const std::vector<ChatMessage>& messages) const;
  int64_t context() const;
  PrefillOptions prefill_options();

  Engine& engine_;
  const Model& model_;
  ConversationOptions options_;
  std::optional<PrefixStore> store_;
  std::vector<ChatMessage> messages_;
  std::optional<Turn> turn_;
};

}  // namespace windowkv
