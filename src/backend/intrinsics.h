#pragma once

// For the files of functions that are written in x86's intrinsics.

#include "backend/targets.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

#ifndef __clang__
// GCC 12 takes the vectors that its own intrinsics leave undefined on purpose for mistakes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
