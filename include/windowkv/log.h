#pragma once

#include <functional>
#include <string_view>

namespace windowkv {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Sends what ggml and libllama log in this process to `log`, one line at a time, from whichever thread logs
/// it. By default windowkv keeps their logs quiet and only quotes the first error in its own Error. Null:
/// quiet again. Call it before the first Model is loaded, or while nothing is running.
void set_log(std::function<void(LogLevel level, std::string_view line)> log);

/// From here on windowkv leaves ggml's and libllama's log handlers as the program has set them. Its errors
/// then lack the reasons that those libraries log. Call it before the first Model is loaded.
void keep_log_handlers();

}  // namespace windowkv
