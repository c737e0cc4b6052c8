#include "backend/blas.h"

#include <dlfcn.h>

#include <filesystem>

namespace windowkv {

namespace {

/// A function of the BLAS that is loaded; null where there is none of that name.
template <typename F>
F* blas_function(const char* name) {
  void* library = dlopen("libblas.so.3", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  auto* function = reinterpret_cast<F*>(dlsym(library, name));
  dlclose(library);  // one reference less; ggml's backend keeps it loaded
  return function;
}

std::string file_of(const void* symbol) {
  Dl_info info;
  return dladdr(symbol, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

}  // namespace

void prefer_openmp_blas() {
  const std::filesystem::path ggml = file_of(reinterpret_cast<const void*>(&ggml_backend_reg_count));
  // ggml's backend asks for this library by its name and gets the one that is loaded.
  dlopen((ggml.parent_path() / "openblas-openmp" / "libblas.so.3").c_str(), RTLD_LAZY | RTLD_LOCAL);
}

ggml_backend_dev_t find_blas() {
  auto* reg = ggml_backend_reg_by_name("BLAS");
  if (reg == nullptr || ggml_backend_reg_dev_count(reg) == 0) return nullptr;
  constexpr int kOpenMp = 2;
  const auto parallel = blas_function<int()>("openblas_get_parallel");
  return parallel != nullptr && parallel() == kOpenMp ? ggml_backend_reg_dev_get(reg, 0) : nullptr;
}

void set_blas_threads(int threads) {
  if (auto* set = blas_function<void(int)>("openblas_set_num_threads")) set(threads);
}

std::string blas_library() {
  auto* function = find_blas() != nullptr ? blas_function<void(int)>("cblas_sgemm") : nullptr;
  return function != nullptr ? file_of(reinterpret_cast<const void*>(function)) : "";
}

}  // namespace windowkv
