// Qwen3.5, dense and as a mixture: three of four layers are gated delta nets, the others attend with gates.
// Layers at the end that predict further tokens are left out.
#include <ggml.h>

#include <algorithm>

#include "model/families/delta_net.h"
#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

/// Of text all of a token's positions are the same, so that sections which take turns (IMRoPE) and have all
/// pairs of dimensions among them rotate as plain RoPE does.
void check_sections(const GgufFile& file, const HParams& hp) {
  const auto key = hp.family + ".rope.dimension_sections";
  auto sections = file.find_ints(key);
  if (!sections) file.fail("metadata " + key + " is missing");
  sections->resize(std::max<size_t>(sections->size(), 3));
  for (int pair = 0; pair < hp.n_rot / 2; ++pair)
    if (pair / 3 >= (*sections)[static_cast<size_t>(pair % 3)])
      file.fail("not supported: " + key + " without the " + std::to_string(hp.n_rot / 2) + " pairs of " +
                hp.family + ".rope.dimension_count");
}

class Qwen35 final : public PreNormDecoder {
 public:
  Qwen35(std::string_view arch, bool has_mixture) : arch_(arch), has_mixture_(has_mixture) {}
  std::string_view arch() const override { return arch_; }
  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NEOX;
    hp.gated_attention = true;
    drop_further_layers(file, hp);
    check_sections(file, hp);
    read_delta_net(file, hp);
    if (!has_mixture_) return;
    auto& m = hp.mixture;
    m.shared_gated = true;
    if (m.n_ff_shared == 0) m.n_ff_shared = hp.n_ff;
  }

 protected:
  Presence qk_norm() const override { return Presence::kRequired; }
  const char* ffn_norm_name() const override { return "post_attention_norm.weight"; }
  Presence mixture() const override { return has_mixture_ ? Presence::kRequired : Presence::kNone; }

 private:
  std::string_view arch_;
  bool has_mixture_;
};

}  // namespace

const Family* qwen35_family() {
  static const Qwen35 family("qwen35", false);
  return &family;
}

const Family* qwen35moe_family() {
  static const Qwen35 family("qwen35moe", true);
  return &family;
}

}  // namespace windowkv
