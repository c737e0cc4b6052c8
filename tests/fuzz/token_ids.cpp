// Files of `--tokens`.
#include "model/token_ids.h"

#include "input.h"

using namespace windowkv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::InputFile file("ids.json");
  fuzz::refuse_or([&] {
    for (const auto id : read_token_ids(file.fill(fuzz::text_of(data, size))))
      fuzz::require(id >= 0, "a negative id");
  });
  return 0;
}
