#include "model/gguf_part.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "backend/backend.h"
#include "windowkv/error.h"

namespace windowkv {

void GgufPart::fail(const std::string& what) const {
  throw Error(path_ + ": " + what);
}

GgufPart::GgufPart(std::string path) : path_(std::move(path)) {
  capture_ggml_logs();
  int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(std::string("cannot open the model: ") + std::strerror(errno));
  struct stat info {};
  bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  size_ = regular ? static_cast<size_t>(info.st_size) : 0;
  void* map = size_ > 0 ? mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
  close(fd);
  if (!regular) fail("is not a file");
  if (size_ < 24 || map == MAP_FAILED || std::memcmp(map, GGUF_MAGIC, 4) != 0) {
    if (map != MAP_FAILED) munmap(map, size_);
    fail("not a GGUF model (no GGUF header); convert the model to GGUF first");
  }
  map_ = static_cast<uint8_t*>(map);
  try {
    const GgmlErrors errors;
    // Without a ggml_context: ggml aborts the process when it makes tensors of more than 2^62 elements.
    gguf_.reset(gguf_init_from_buffer(map_, size_, {/*no_alloc=*/true, nullptr}));
    if (!gguf_) fail("damaged or truncated GGUF" + errors.in_brackets() + "; download the file again");
    check_tensors();
  } catch (...) {
    munmap(map_, size_);
    throw;
  }
}

GgufPart::~GgufPart() {
  munmap(map_, size_);
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
    if (start > size_ || offset > size_ - start || bytes > size_ - start - offset)
      fail("truncated: tensor " + std::string(gguf_get_tensor_name(g, i)) + " ends at byte " +
           std::to_string(start + offset + bytes) + " of a file of " + std::to_string(size_) +
           "; download the file again");
  }
}

}  // namespace windowkv
