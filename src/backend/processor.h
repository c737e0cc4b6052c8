#pragma once

namespace windowkv {

/// The vector instructions that kernels are worth compiling for, each with those before it: AVX2 with FMA and
/// F16C; AVX-512 F, BW, DQ and VL; AVX-512 VNNI.
enum class Vectors { kBaseline, kAvx2, kAvx512, kVnni };

/// The most that this processor has, or WINDOWKV_VECTORS says if that is less: baseline, avx2, avx512 or
/// vnni.
Vectors vectors_of_processor();

}  // namespace windowkv
