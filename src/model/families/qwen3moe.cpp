// Qwen3's mixtures: Qwen3 with experts for the feed-forward.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Qwen3Moe final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "qwen3moe"; }
  void read(const GgufFile&, HParams& hp) const override { hp.rope_mode = GGML_ROPE_TYPE_NEOX; }

 protected:
  Presence qk_norm() const override { return Presence::kRequired; }
  Presence mixture() const override { return Presence::kRequired; }
};

}  // namespace

const Family* qwen3moe_family() {
  static const Qwen3Moe family;
  return &family;
}

}  // namespace windowkv
