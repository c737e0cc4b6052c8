// EXAONE 4: norms behind attention and feed-forward instead of before them; the large model has a sliding
// window in three of four layers, and no RoPE in the others.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Exaone4 final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "exaone4"; }
  bool may_slide() const override { return true; }
  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NEOX;
    slide(file, hp, hp.attention.front(), 4);
    if (read_window(file, hp) == 0) return;
    for (int layer : hp.full_layers()) hp.attention[static_cast<size_t>(layer)].rope = false;
  }

 protected:
  Presence pre_norms() const override { return Presence::kNone; }
  Presence post_norms() const override { return Presence::kRequired; }
  Presence qk_norm() const override { return Presence::kRequired; }
};

}  // namespace

const Family* exaone4_family() {
  static const Exaone4 family;
  return &family;
}

}  // namespace windowkv
