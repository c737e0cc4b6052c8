#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "server/answer.h"
#include "server/json.h"
#include "server/request.h"

namespace windowkv::server {

/// What all parts of a response to one request have in common.
struct ResponseHead {
  bool chat = false;
  std::string id;       ///< "chatcmpl-..." or "cmpl-..."
  std::string model;    ///< as /v1/models names it
  int64_t created = 0;  ///< seconds since 1970
};

/// An answer to a request, put together from its deltas.
struct ChoiceText {
  std::string text;
  std::vector<TokenLogprob> logprobs;
  bool prompt_unscored = false;  ///< the first token of `logprobs` has none: nothing stands before it
  std::optional<StopReason> finished;
};

/// The usage of several jobs together; what is told of the KV cache is the first one's, its bytes are sums.
Usage sum_of(std::span<const Usage> usages);
Json usage_json(const Usage& usage);

/// The body of a response that is not streamed.
Json completion_json(const ResponseHead& head, std::span<const ChoiceText> choices, const Usage& usage,
                     bool logprobs, const Vocab& vocab);
/// One event of a stream. `first`: of its choice.
Json chunk_json(const ResponseHead& head, int choice, const Delta& delta, bool first, bool logprobs,
                const Vocab& vocab);
/// The last event of a stream that asked for it.
Json usage_chunk_json(const ResponseHead& head, const Usage& usage);

/// OpenAI's error object.
Json error_json(const ApiError& error);

/// As text; bytes that are not UTF-8 are replaced.
std::string text_of(const Json& json);

}  // namespace windowkv::server
