// Hunyuan (dense): RMS norms on each head of Q and K behind RoPE.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class HunyuanDense final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "hunyuan-dense"; }
  void read(const GgufFile&, HParams& hp) const override { hp.rope_mode = GGML_ROPE_TYPE_NEOX; }

 protected:
  Presence qk_norm() const override { return Presence::kRequired; }
  QkNorm qk_norm_kind() const override { return QkNorm::kRotatedHead; }
};

}  // namespace

const Family* hunyuan_dense_family() {
  static const HunyuanDense family;
  return &family;
}

}  // namespace windowkv
