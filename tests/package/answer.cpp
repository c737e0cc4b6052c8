// docs/library.md's examples as a program of its own: reads a prompt, prints the answer under a policy of its
// own.
#include <windowkv/generate.h>
#include <windowkv/head_scores.h>
#include <windowkv/token_selector.h>

#include <cstdio>
#include <fstream>
#include <iterator>

using namespace windowkv;

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  auto model = Model::load(argv[1]);
  auto policy =
      make_token_policy({.name = "last-queries",
                         .budget = Budget::parse("100%"),
                         .sinks = 4,
                         .recent = 8,
                         .observation = 16,
                         .scores = [](ggml_context* ctx, const LayerView& view, int64_t keys) {
                           return build_mean_over_share(ctx, build_observed_by_head(ctx, view, keys), 1);
                         }});
  std::ifstream file(argv[2]);
  std::string text(std::istreambuf_iterator<char>(file), {});
  Engine engine(*model);
  Sequence sequence;
  auto prompt =
      model->vocab().tokenize(model->vocab().apply_chat_template({{"user", text + "\n\n" + argv[3]}}));
  auto logits = engine.prefill(sequence, prompt, *policy);
  auto answer = generate(engine, &model->vocab(), sequence, logits, prompt, {});
  std::puts(answer.text.c_str());
}
