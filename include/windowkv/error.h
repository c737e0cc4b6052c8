#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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

/// A KvPool has no room for the caches of some of the sequences of a call. Nothing was done: without those,
/// or once other sequences have gone, the call can be made again.
class PoolFull : public Error {
 public:
  PoolFull(const std::string& message, std::vector<size_t> indices)
      : Error(message), indices_(std::move(indices)) {}
  /// Of the steps, requests or policies whose caches found no room beside those of the others, ascending.
  const std::vector<size_t>& indices() const { return indices_; }

 private:
  std::vector<size_t> indices_;
};

}  // namespace windowkv
