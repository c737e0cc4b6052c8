#pragma once

// For the files of functions that are written in intrinsics, AVX-512 VNNI's among them.

#ifdef __x86_64__
#include <immintrin.h>
#endif

#ifndef __clang__
// GCC 12 takes the vectors that its own intrinsics leave undefined on purpose for mistakes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define VNNI [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]]
