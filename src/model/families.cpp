// The one list of model families.
#include "model/families/families.h"

#include "model/family.h"
#include "windowkv/error.h"

namespace windowkv {

const std::vector<const Family*>& families() {
  static const std::vector<const Family*> list = {
      llama_family(),         qwen2_family(),      qwen3_family(),    qwen3moe_family(),   olmo2_family(),
      granite_family(),       granitemoe_family(), smollm3_family(),  phi3_family(),       mistral3_family(),
      hunyuan_dense_family(), glm4moe_family(),    gemma2_family(),   gemma3_family(),     gemma4_family(),
      gpt_oss_family(),       exaone4_family(),    seed_oss_family(), minimax_m2_family(), qwen35_family(),
      qwen35moe_family()};
  return list;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto* family : families()) names.emplace_back(family->arch());
  return names;
}

const Family& find_family(const GgufFile& file) {
  auto arch = file.find_string("general.architecture");
  if (!arch) file.fail("metadata general.architecture is missing; is this a language model?");
  std::string known;
  for (const auto* family : families()) {
    if (family->arch() == *arch) return *family;
    known += (known.empty() ? "" : ", ") + std::string(family->arch());
  }
  file.fail("models of family \"" + *arch + "\" are not supported; supported are: " + known);
}

}  // namespace windowkv
