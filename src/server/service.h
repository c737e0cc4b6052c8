#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "model/reasoning.h"
#include "server/batcher.h"
#include "server/request.h"
#include "server/response.h"

namespace windowkv::server {

struct ServiceOptions {
  BatcherOptions batcher;
  PrefixCacheOptions prefixes;
  std::vector<std::string> model_names;  ///< that requests may use; the first is told
  GenerateOptions generate;              ///< of requests that do not say
  int64_t context = 0;                   ///< most tokens of a prompt and its answer
  std::string chat_template;             ///< as Vocab::apply_chat_template takes it
  std::string template_variables;        ///< likewise; requests' own win
  bool split_reasoning = true;           ///< reasoning is no part of what answers say
  /// Whether requests may bring grammars. One can be written that takes exponential time, which nothing
  /// stops.
  bool grammars = false;
  /// The policy for a request: what it asks for, else the server's, for the task that its text tells. Throws
  /// Error for what makes no policy.
  std::function<std::shared_ptr<const Policy>(const KvRequest& kv, const std::string& text, Task& task)>
      policy;
};

/// What the server does, without HTTP: requests become jobs. Safe to use from several threads.
class Service {
 public:
  /// The model must outlive it.
  Service(const Model& model, ServiceOptions options);

  /// What a body of /v1/completions or /v1/chat/completions asks for. Throws ApiError.
  CompletionRequest parse(const Json& body, bool chat) const;
  /// The jobs of a request, one for each prompt, submitted. `owner`: whose stored prefixes they use; `id`:
  /// the request's. Throws ApiError.
  std::vector<std::shared_ptr<Job>> submit(const CompletionRequest& request, const std::string& owner,
                                           const std::string& id);
  /// Ids of a text. Throws ApiError for one that cannot fit in the context, whatever its tokens.
  std::vector<Token> tokenize(const PromptText& text) const;
  /// The text of a chat, ready to be tokenized. Throws ApiError where the template does not take it.
  PromptText chat_text(const std::vector<ChatMessage>& messages, const ToolRequest& tools = {},
                       const std::string& variables = "") const;

  const Model& model() const { return model_; }
  const Vocab& vocab() const { return model_.vocab(); }
  const ServiceOptions& options() const { return options_; }
  PrefixCache& prefixes() { return prefixes_; }
  Batcher& batcher() { return batcher_; }
  Metrics& metrics() { return metrics_; }

 private:
  /// Requests' own or the model's.
  const std::string& chat_template() const;
  struct Prompt {
    std::vector<Token> tokens;
    std::string text;                       ///< that tells the task
    const ReasoningFormat* reasoning = {};  ///< null: nothing is told apart
    bool ends_in_reasoning = false;
  };
  std::vector<Prompt> prompts_of(const CompletionRequest& request) const;
  void check(const CompletionRequest& request) const;

  const Model& model_;
  ServiceOptions options_;
  const CallFormat& calls_;           ///< the chat template's
  const ReasoningFormat& reasoning_;  ///< likewise
  std::vector<Token> reasoning_tokens_;
  std::vector<Token> call_tokens_;  ///< control tokens in what calls begin with
  size_t longest_piece_ = 1;        ///< bytes of a token at most
  mutable std::mutex tokenizing_;   ///< a long text takes many times its size
  Metrics metrics_;
  PrefixCache prefixes_;
  Batcher batcher_;
};

}  // namespace windowkv::server
