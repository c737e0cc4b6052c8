#pragma once

#include <span>

#include "server/answer.h"

namespace windowkv::server {

/// Log-softmax of `token` among the logits [n_vocab], and of the `top` highest.
TokenLogprob logprob_of(Token token, std::span<const float> logits, int top);

}  // namespace windowkv::server
