#include "support/checksum.h"

#include "support/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace windowkv {

struct Checksum::State {
  XXH3_state_t xxh;
};

Checksum::Checksum() : state_(std::make_unique<State>()) {
  XXH3_64bits_reset(&state_->xxh);
}

Checksum::~Checksum() = default;

void Checksum::add(const void* data, size_t size) {
  XXH3_64bits_update(&state_->xxh, data, size);
}

uint64_t Checksum::value() const {
  return XXH3_64bits_digest(&state_->xxh);
}

std::string Checksum::text() const {
  return hash_text(value());
}

uint64_t Checksum::of(const void* data, size_t size) {
  return XXH3_64bits(data, size);
}

}  // namespace windowkv
