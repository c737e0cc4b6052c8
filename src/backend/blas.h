#pragma once

#include <ggml-backend.h>

#include <string>

namespace windowkv {

/// To be called before ggml's backends are loaded, and before other threads: takes the OpenBLAS whose threads
/// are OpenMP's where Debian has it beside another that is the system's choice, and has it use the
/// processor's vector instructions where it does not know the processor, unless OPENBLAS_CORETYPE says which
/// to use.
void prefer_openmp_blas();

/// ggml's BLAS device where it is an OpenBLAS whose threads are OpenMP's, as those of ggml's CPU backend are.
/// Null elsewhere: OpenBLAS's own threads and ggml's spin against each other on the same cores, and the
/// reference BLAS is slower than ggml's kernels.
ggml_backend_dev_t find_blas();

/// Why the OpenBLAS that find_blas() found would wait for ever, or "" where it works with that many threads:
/// it counts on as many as it asks OpenMP for, and on address space for their buffers. Where it works, it has
/// its buffers afterwards, whatever becomes scarce later.
std::string prepare_blas(int threads);

/// Name of the kernels that the OpenBLAS of find_blas() runs, as OPENBLAS_CORETYPE takes it; "" where it
/// found none.
std::string blas_kernels();

/// File of the BLAS that find_blas() found; "" where it found none.
std::string blas_library();

}  // namespace windowkv
