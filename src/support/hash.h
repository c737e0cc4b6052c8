#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace windowkv {

inline constexpr uint64_t kFnvStart = 14695981039346656037u;

/// FNV-1a, 64 bits, of what gave `hash` and these bytes behind it.
constexpr uint64_t fnv1a64_step(uint64_t hash, std::string_view bytes) {
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

/// A hash in hexadecimal, 16 digits.
std::string hash_text(uint64_t hash);

/// FNV-1a, 64 bits, in hexadecimal.
std::string fnv1a64(std::string_view bytes);

/// The same of a file's content. Throws Error for one that cannot be read.
std::string fnv1a64_of_file(const std::string& path);

}  // namespace windowkv
