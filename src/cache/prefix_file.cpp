#include "cache/prefix_file.h"

#include "windowkv/error.h"

namespace windowkv {

void write_prefix_file(const PrefixParts&, const std::string&, const std::string&) {
  throw Error("to be written");
}

std::unique_ptr<PrefixParts> read_prefix_file(const Model&, const std::string&, PrefixStoreOptions::Place) {
  throw Error("to be written");
}

PrefixFileInfo read_prefix_info(const std::string&) {
  throw Error("to be written");
}

}  // namespace windowkv
