#pragma once

namespace windowkv {

/// The vector instructions that kernels are worth compiling for.
enum class Vectors { kBaseline, kAvx2, kAvx512 };

/// The widest that this processor has.
inline Vectors vectors_of_processor() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Vectors::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Vectors::kAvx2;
#endif
  return Vectors::kBaseline;
}

}  // namespace windowkv
