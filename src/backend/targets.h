#pragma once

// The processors that functions are compiled for beside the build's own: Vectors of processor.h, each with
// those before it.

#define AVX2 [[gnu::target("avx2,fma,f16c")]]
#define AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]]
#define VNNI [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]]
