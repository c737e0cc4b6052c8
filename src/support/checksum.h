#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace windowkv {

/// XXH3 (64 bits) of bytes that come in pieces: against accidents, not attacks.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void add(const void* data, size_t size);
  uint64_t value() const;
  /// 16 hex digits.
  std::string text() const;

  static uint64_t of(const void* data, size_t size);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace windowkv
