// windowkv-random-model: GGUF models with random weights, for benchmarks of speed and memory.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "random_family.h"
#include "random_model.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

int run(int argc, char** argv) {
  CLI::App app(
      "Writes a GGUF model with random weights: the sizes of a real model for measurements of speed and "
      "memory,\n"
      "without a download. Its text means nothing.",
      "windowkv-random-model");
  app.footer(
      "Example:\n  windowkv-random-model --shape qwen2.5-0.5b --type q8_0 -o random-0.5b-q8_0.gguf\n\n"
      "The same options and seed give the same bytes on every machine.");
  std::string shape = "tiny";
  std::string type = "f16";
  std::string output;
  std::string scaling;
  std::optional<bool> tied;
  RandomModel m;
  int threads = 0;

  app.add_option("-o,--output", output, "file to write")->required()->type_name("FILE");
  app.add_option("--shape", shape,
                 fmt::format("{}; the options below change it", fmt::join(random_model_shapes(), ", ")))
      ->type_name("NAME")
      ->capture_default_str();
  app.add_option("--type", type, "type of the matrices: f32, f16, bf16, q8_0, q4_0, q4_K, q6_K ...")
      ->type_name("TYPE")
      ->capture_default_str();
  app.add_option("--seed", m.seed, "seed of the weights")->type_name("N")->capture_default_str();
  app.add_option("--threads", threads, "0: as many as cores")->type_name("N")->capture_default_str();

  // The shape gives the defaults, so an option's value is put over it after parsing.
  const std::string sizes = "Sizes (default: the shape's)";
  std::map<CLI::Option*, std::function<void(RandomModel&)>> overrides;
  auto field = [&](const char* flag, auto RandomModel::*member, const std::string& help) {
    auto value = std::make_shared<std::remove_reference_t<decltype(m.*member)>>();
    auto* option = app.add_option(flag, *value, help)->group(sizes);
    overrides[option] = [=](RandomModel& to) { to.*member = *value; };
    return option;
  };
  field("--family", &RandomModel::family, fmt::format("{}", fmt::join(random_family_names(), ", ")))
      ->type_name("NAME");
  field("--layers", &RandomModel::n_layer, "layers")->type_name("N");
  field("--embd", &RandomModel::n_embd, "width")->type_name("N");
  field("--heads", &RandomModel::n_head, "query heads")->type_name("N");
  field("--kv-heads", &RandomModel::n_head_kv, "KV heads")->type_name("N");
  field("--head-size", &RandomModel::d_head, "head size")->type_name("N");
  field("--ff", &RandomModel::n_ff, "feed-forward width")->type_name("N");
  field("--experts", &RandomModel::n_expert, "experts; 0: none")->type_name("N");
  field("--experts-used", &RandomModel::n_expert_used, "experts that a token uses")->type_name("N");
  field("--expert-ff", &RandomModel::n_ff_expert, "width of an expert")->type_name("N");
  field("--shared-ff", &RandomModel::n_ff_shared, "width of the expert that every token uses; 0: none")
      ->type_name("N");
  field("--dense-layers", &RandomModel::dense_layers, "first layers without experts")->type_name("N");
  field("--vocab", &RandomModel::n_vocab, "vocabulary")->type_name("N");
  field("--context", &RandomModel::n_ctx, "context the model claims")->type_name("N");
  field("--rms-eps", &RandomModel::rms_eps, "epsilon of the norms")->type_name("X");
  field("--rope-base", &RandomModel::rope_base, "RoPE base")->type_name("X");
  field("--rope-factor", &RandomModel::rope_factor, "RoPE scaling factor")->type_name("X");
  field("--rope-orig-context", &RandomModel::rope_n_ctx_orig, "context before RoPE scaling")->type_name("N");
  app.add_option("--rope-scaling", scaling, "none, linear or yarn")->type_name("NAME")->group(sizes);
  app.add_flag("--tied,!--untied", tied, "the embedding serves as the output matrix, or not")->group(sizes);
  app.add_flag("--rope-freqs", m.llama3_rope_freqs, "Llama 3.1's frequency factors")->group(sizes);
  app.add_flag("--qkv-bias", m.qkv_bias, "biases on Q, K and V, for llama")->group(sizes);
  app.add_flag("--output-bias", m.output_bias, "bias on the attention's output, for llama")->group(sizes);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);
    throw Error(fmt::format("{} (--help lists the options)", e.what()));
  }

  RandomModel model = random_model_shape(shape);
  for (const auto& [option, apply] : overrides)
    if (option->count() > 0) apply(model);
  model.seed = m.seed;
  model.type = parse_weight_type(type);
  model.tied = tied.value_or(model.tied);
  model.llama3_rope_freqs = m.llama3_rope_freqs;
  model.qkv_bias = m.qkv_bias;
  model.output_bias = m.output_bias;
  if (scaling == "linear" || scaling == "yarn")
    model.rope_scaling = scaling == "linear" ? RopeScaling::kLinear : RopeScaling::kYarn;
  else if (!scaling.empty() && scaling != "none")
    throw Error(fmt::format("unknown RoPE scaling \"{}\"; use none, linear or yarn", scaling));
  write_random_model(model, output, threads);
  return 0;
}

}  // namespace

}  // namespace windowkv

int main(int argc, char** argv) {
  try {
    return windowkv::run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "windowkv-random-model: {}\n", e.what());
    return 1;
  }
}
