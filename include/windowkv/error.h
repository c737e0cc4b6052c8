#pragma once

#include <stdexcept>

namespace windowkv {

/// Anything the caller can fix: a bad file, a bad setting, a prompt that does not fit. The message is one
/// line that says what is wrong, where, and what to do. It is the only exception that the functions of this
/// library throw themselves, Cancelled included.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Work stopped because the caller's `cancelled` callback returned true.
class Cancelled : public Error {
 public:
  Cancelled() : Error("interrupted") {}
};

}  // namespace windowkv
