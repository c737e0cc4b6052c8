#pragma once

#include <cstddef>
#include <functional>

namespace windowkv {

/// Calls `work` on a thread of its own with a stack of that many bytes and waits for it; what it throws is
/// thrown here. For libraries that recurse as deep as their input is long. Only the pages that are used take
/// memory. Throws std::bad_alloc where not even the address space is to be had.
void with_stack(size_t bytes, const std::function<void()>& work);

}  // namespace windowkv
