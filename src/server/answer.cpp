#include "server/answer.h"

namespace windowkv::server {

void Answer::push(Delta delta) {
  {
    const std::scoped_lock lock(mutex_);
    deltas_.push_back(std::move(delta));
  }
  changed_.notify_one();
}

void Answer::finish(const Usage& usage) {
  {
    const std::scoped_lock lock(mutex_);
    usage_ = usage;
  }
  changed_.notify_one();
}

void Answer::fail(const ApiError& error) {
  {
    const std::scoped_lock lock(mutex_);
    error_ = error;
  }
  changed_.notify_one();
}

std::optional<Delta> Answer::next(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, patience, [&] { return !deltas_.empty() || usage_ || error_; });
  if (!deltas_.empty()) {
    auto delta = std::move(deltas_.front());
    deltas_.pop_front();
    return delta;
  }
  if (error_) throw *error_;
  return std::nullopt;
}

bool Answer::finished() const {
  const std::scoped_lock lock(mutex_);
  return deltas_.empty() && usage_.has_value() && !error_;
}

Usage Answer::usage() const {
  const std::scoped_lock lock(mutex_);
  return usage_.value_or(Usage{});
}

}  // namespace windowkv::server
