#include "server/random_id.h"

#include <random>

#include "support/hash.h"

namespace windowkv::server {

std::string random_id() {
  thread_local std::mt19937_64 numbers(std::random_device{}());
  return hash_text(numbers()) + hash_text(numbers());
}

std::string random_call_id() {
  return random_id().substr(0, 9);
}

}  // namespace windowkv::server
