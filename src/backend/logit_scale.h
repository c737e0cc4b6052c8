#pragma once

namespace windowkv {

/// What attention makes of products of queries and keys before its softmax.
struct LogitScale {
  float scale = 1.0f;
  float softcap = 0.0f;  ///< s = scale·q·k becomes softcap·tanh(s / softcap); 0: it stays
};

}  // namespace windowkv
