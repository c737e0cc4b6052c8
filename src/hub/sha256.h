#pragma once

#include <nettle/sha2.h>

#include <span>
#include <string>

namespace windowkv::hub {

/// The SHA-256 of bytes that come piece by piece.
class Sha256 {
 public:
  Sha256() { sha256_init(&state_); }
  void add(std::span<const uint8_t> bytes) { sha256_update(&state_, bytes.size(), bytes.data()); }
  /// Of all that was added, in hexadecimal digits; starts anew.
  std::string hex();

 private:
  sha256_ctx state_;
};

}  // namespace windowkv::hub
