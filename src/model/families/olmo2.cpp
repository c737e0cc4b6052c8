// OLMo 2: norms behind attention and feed-forward instead of before them, and on all heads of Q and K at
// once. OLMo 3's files say the same, and name a sliding window, which three of four layers have, without the
// RoPE scaling of the others.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Olmo2 final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "olmo2"; }
  bool may_slide() const override { return true; }
  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NEOX;
    slide(file, hp, {.rope_base = hp.rope_base, .yarn = false}, 4);
  }

 protected:
  Presence pre_norms() const override { return Presence::kNone; }
  Presence post_norms() const override { return Presence::kRequired; }
  Presence qk_norm() const override { return Presence::kRequired; }
  QkNorm qk_norm_kind() const override { return QkNorm::kAllHeads; }
};

}  // namespace

const Family* olmo2_family() {
  static const Olmo2 family;
  return &family;
}

}  // namespace windowkv
