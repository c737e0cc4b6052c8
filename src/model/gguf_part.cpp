#include "model/gguf_part.h"

#include <cstring>
#include <utility>

#include "backend/backend.h"
#include "windowkv/error.h"

namespace windowkv {

void GgufPart::fail(const std::string& what) const {
  throw Error(path_ + ": " + what);
}

GgufPart::GgufPart(std::string path) : path_(std::move(path)), file_(HostMemory::of_file(path_)) {
  capture_ggml_logs();
  if (size() < 24 || std::memcmp(bytes(), GGUF_MAGIC, 4) != 0)
    fail("not a GGUF model (no GGUF header); convert the model to GGUF first");
  const GgmlErrors errors;
  // Without a ggml_context: ggml aborts the process when it makes tensors of more than 2^62 elements.
  gguf_.reset(gguf_init_from_buffer(bytes(), size(), {/*no_alloc=*/true, nullptr}));
  if (!gguf_) fail("damaged or truncated GGUF" + errors.in_brackets() + "; download the file again");
  check_tensors();
}

void GgufPart::check_tensors() const {
  const auto* g = gguf();
  const size_t start = gguf_get_data_offset(g);
  for (int64_t i = 0; i < gguf_get_n_tensors(g); ++i) {
    // Before libllama reads the same file and aborts.
    int64_t elements = 1;
    for (int d = 0; d < 4; ++d) {
      const int64_t ne = gguf_get_tensor_ne(g, i)[d];
      if (ne < 1 || ne > INT64_MAX / 16 / elements)
        fail("damaged: tensor " + std::string(gguf_get_tensor_name(g, i)) + " has impossible sizes");
      elements *= ne;
    }
    const size_t offset = gguf_get_tensor_offset(g, i);
    const size_t bytes = gguf_get_tensor_size(g, i);
    if (start > size() || offset > size() - start || bytes > size() - start - offset)
      fail("truncated: tensor " + std::string(gguf_get_tensor_name(g, i)) + " ends at byte " +
           std::to_string(start + offset + bytes) + " of a file of " + std::to_string(size()) +
           "; download the file again");
  }
}

}  // namespace windowkv
