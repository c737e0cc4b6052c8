#include "support/hash.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "windowkv/error.h"

namespace windowkv {

std::string hash_text(uint64_t hash) {
  return fmt::format("{:016x}", hash);
}

std::string fnv1a64(std::string_view bytes) {
  return hash_text(fnv1a64_step(kFnvStart, bytes));
}

std::string fnv1a64_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(fmt::format("{}: cannot read: {}", path, std::strerror(errno)));
  uint64_t hash = kFnvStart;
  std::vector<char> buffer(1 << 20);
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || file.gcount() > 0)
    hash = fnv1a64_step(hash, {buffer.data(), static_cast<size_t>(file.gcount())});
  if (file.bad()) throw Error(path + ": cannot read: input error");
  return hash_text(hash);
}

}  // namespace windowkv
