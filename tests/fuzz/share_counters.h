#pragma once

namespace windowkv::fuzz {

/// From here on child processes count the code they reach where the fuzzer sees it.
void share_counters();

}  // namespace windowkv::fuzz
