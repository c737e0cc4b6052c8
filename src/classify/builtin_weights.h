#pragma once

#include <string_view>

namespace windowkv {

/// The bytes of task_weights.bin, compiled in (cmake/embed.cmake).
std::string_view builtin_task_weights();

}  // namespace windowkv
