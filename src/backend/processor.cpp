#include "backend/processor.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

namespace windowkv {

namespace {

Vectors found() {
#ifdef __x86_64__
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Vectors::kBaseline;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return Vectors::kAvx2;
  return __builtin_cpu_supports("avx512vnni") ? Vectors::kVnni : Vectors::kAvx512;
#else
  return Vectors::kBaseline;
#endif
}

/// So that one machine can test and time what others would run.
Vectors allowed() {
  constexpr std::array<std::string_view, 4> kNames = {"baseline", "avx2", "avx512", "vnni"};
  const char* name = std::getenv("WINDOWKV_VECTORS");
  const auto* at = std::ranges::find(kNames, std::string_view(name != nullptr ? name : ""));
  return at != kNames.end() ? static_cast<Vectors>(at - kNames.begin()) : Vectors::kVnni;
}

}  // namespace

Vectors vectors_of_processor() {
  static const Vectors vectors = std::min(found(), allowed());
  return vectors;
}

}  // namespace windowkv
