// MiniMax-M2: a mixture that rates experts one by one and corrects its choice by a bias, norms on all heads
// of Q and K at once, RoPE on a part of each head.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class MiniMaxM2 final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "minimax-m2"; }
  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NEOX;
    // As libllama, which takes the width of experts from here and all layers for mixtures.
    hp.mixture.n_ff = hp.n_ff;
    hp.mixture.n_ff_shared = hp.mixture.dense_layers = 0;
    const auto key = hp.family + ".expert_gating_func";
    switch (const int gating = file.get_int(key)) {
      case 1:
        hp.mixture.rating = Mixture::Rating::kSoftmax;
        break;
      case 2:
        hp.mixture.rating = Mixture::Rating::kSigmoid;
        break;
      default:
        file.fail("not supported: expert_gating_func " + std::to_string(gating));
    }
  }

 protected:
  Presence qk_norm() const override { return Presence::kRequired; }
  QkNorm qk_norm_kind() const override { return QkNorm::kAllHeads; }
  Presence mixture() const override { return Presence::kRequired; }
  Presence router_bias() const override { return Presence::kRequired; }
};

}  // namespace

const Family* minimax_m2_family() {
  static const MiniMaxM2 family;
  return &family;
}

}  // namespace windowkv
