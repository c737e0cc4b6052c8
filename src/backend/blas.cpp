#include "backend/blas.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "backend/processor.h"

namespace windowkv {

namespace {

constexpr const char* kLibrary = "libblas.so.3";
constexpr const char* kCoreType = "OPENBLAS_CORETYPE";

/// A function of a library that is loaded; null where there is none of that name.
template <typename F>
F* loaded_function(const char* library_name, const char* name) {
  void* library = dlopen(library_name, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  auto* function = reinterpret_cast<F*>(dlsym(library, name));
  dlclose(library);  // one reference less; ggml's backend keeps it loaded
  return function;
}

template <typename F>
F* blas_function(const char* name) {
  return loaded_function<F>(kLibrary, name);
}

int openmp(const char* name, int otherwise) {
  const auto get = loaded_function<int()>("libgomp.so.1", name);
  return get != nullptr ? get() : otherwise;
}

bool has_address_space(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory != MAP_FAILED && munmap(memory, bytes) == 0;
}

/// A product that is large enough for all threads.
void multiply_once() {
  using Sgemm =
      void(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
  constexpr int kRowMajor = 101, kNoTranspose = 111, kSize = 256;
  const auto sgemm = blas_function<Sgemm>("cblas_sgemm");
  if (sgemm == nullptr) return;
  constexpr size_t kElements = size_t{kSize} * kSize;
  const std::vector<float> a(kElements), b(kElements);
  std::vector<float> c(kElements);
  sgemm(kRowMajor, kNoTranspose, kNoTranspose, kSize, kSize, kSize, 1, a.data(), kSize, b.data(), kSize, 0,
        c.data(), kSize);
}

std::string file_of(const void* symbol) {
  Dl_info info;
  return dladdr(symbol, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

/// Which of OpenBLAS's kernels suit the processor, as OPENBLAS_CORETYPE names them; null for old ones.
const char* suitable_kernels() {
  switch (vectors_of_processor()) {
    case Vectors::kVnni:
    case Vectors::kAvx512:
      return "SkylakeX";
    case Vectors::kAvx2:
      return "Haswell";
    case Vectors::kBaseline:
      break;
  }
  return nullptr;
}

/// What OpenBLAS calls the kernels that it runs; "" where the library is no OpenBLAS.
std::string kernels_of(const char* library_name) {
  const auto name = loaded_function<char*()>(library_name, "openblas_get_corename");
  return name != nullptr ? name() : "";
}

/// What it runs on processors that are newer than itself: kernels of 2004.
constexpr const char* kFallbackKernels = "Prescott";

}  // namespace

void prefer_openmp_blas() {
  const std::filesystem::path ggml = file_of(reinterpret_cast<const void*>(&ggml_backend_reg_count));
  const auto library = ggml.parent_path() / "openblas-openmp" / kLibrary;
  // ggml's backend asks for this library by its name and gets the one that is loaded.
  auto load = [&] { return dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL); };
  auto* loaded = load();
  const char* kernels = suitable_kernels();
  if (loaded == nullptr || kernels == nullptr || std::getenv(kCoreType) != nullptr ||
      kernels_of(library.c_str()) != kFallbackKernels)
    return;
  // It reads the variable while it is loaded, and only then.
  dlclose(loaded);
  setenv(kCoreType, kernels, /*overwrite=*/0);
  load();
  unsetenv(kCoreType);
}

ggml_backend_dev_t find_blas() {
  auto* reg = ggml_backend_reg_by_name("BLAS");
  if (reg == nullptr || ggml_backend_reg_dev_count(reg) == 0) return nullptr;
  constexpr int kOpenMp = 2;
  const auto parallel = blas_function<int()>("openblas_get_parallel");
  return parallel != nullptr && parallel() == kOpenMp ? ggml_backend_reg_dev_get(reg, 0) : nullptr;
}

std::string prepare_blas(int threads) {
  if (const int limit = openmp("omp_get_thread_limit", threads); limit < threads)
    return fmt::format("OpenMP gives it {} of {} threads (OMP_THREAD_LIMIT)", limit, threads);
  if (openmp("omp_get_dynamic", 0) != 0)
    return "OpenMP may give it fewer threads than it asks for (OMP_DYNAMIC)";
  if (openmp("omp_get_max_active_levels", 1) < 1) return "OpenMP gives it one thread (OMP_MAX_ACTIVE_LEVELS)";
  // OpenBLAS's BUFFER_SIZE on x86-64, one a thread and one a caller.
  constexpr size_t kBuffer = size_t{128} << 20;
  if (!has_address_space((static_cast<size_t>(threads) + 1) * kBuffer))
    return "it has too little address space (ulimit -v)";
  // Of the BLAS itself, for the whole process: ggml's backend passes its own number on only where it was
  // built for OpenBLAS by name, Debian's for any BLAS.
  if (auto* set = blas_function<void(int)>("openblas_set_num_threads")) set(threads);
  multiply_once();
  return "";
}

std::string blas_kernels() {
  return find_blas() != nullptr ? kernels_of(kLibrary) : "";
}

std::string blas_library() {
  auto* function = find_blas() != nullptr ? blas_function<void(int)>("cblas_sgemm") : nullptr;
  return function != nullptr ? file_of(reinterpret_cast<const void*>(function)) : "";
}

}  // namespace windowkv
