#include "backend/log.h"

#include <ggml.h>
#include <llama.h>

#include <cstdio>
#include <mutex>
#include <utility>

namespace windowkv {

namespace {

bool handlers_kept = false;
std::mutex receiver_mutex;
std::function<void(LogLevel, std::string_view)> receiver;
// By thread, so that one's failure is not told as the reason of another's.
thread_local std::string first_error;

LogLevel level_of(ggml_log_level level) {
  switch (level) {
    case GGML_LOG_LEVEL_ERROR:
      return LogLevel::kError;
    case GGML_LOG_LEVEL_WARN:
      return LogLevel::kWarning;
    case GGML_LOG_LEVEL_DEBUG:
      return LogLevel::kDebug;
    default:
      return LogLevel::kInfo;
  }
}

void keep_errors(ggml_log_level level, const char* text, void*) {
  std::string line(text);
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
  if (line.empty()) return;
  {
    const std::scoped_lock lock(receiver_mutex);
    if (receiver) receiver(level_of(level), line);
  }
  // The first is the cause, what follows its consequences.
  if (level == GGML_LOG_LEVEL_ERROR && first_error.empty()) first_error = line;
}

}  // namespace

void set_log(std::function<void(LogLevel level, std::string_view line)> log) {
  const std::scoped_lock lock(receiver_mutex);
  receiver = std::move(log);
}

void keep_log_handlers() {
  handlers_kept = true;
}

void capture_ggml_logs() {
  if (handlers_kept) return;
  ggml_log_set(keep_errors, nullptr);
  llama_log_set(keep_errors, nullptr);
}

void print_ggml_log() {
  ggml_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN) std::fputs(text, stderr);
        if (level == GGML_LOG_LEVEL_INFO) std::fputs(text, stdout);
      },
      nullptr);
}

GgmlErrors::GgmlErrors() {
  first_error.clear();
}

std::string GgmlErrors::first() const {
  return first_error;
}

std::string GgmlErrors::in_brackets() const {
  return first_error.empty() ? "" : " (" + first_error + ")";
}

}  // namespace windowkv
